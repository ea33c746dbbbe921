"""A method against sequential fine-tuning: the difference of the final average, and how sure it is.

Where the average is made of ranks, it is recomputed from those of single queries: per task the mean of R@1, R@5 and
R@10 over directions, then the mean over tasks; queries are drawn anew. Where r[T][j] is something else (the gallery
of all tasks, zero-shot), the averages are compared seed by seed. Where ranks and scores do not fit together, no
difference is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from polymnia.eval import intervals
from polymnia.report.collect import Estimate, Method, Run, estimate

HEAD = "latest"  # ranks were taken through these heads
CUTS = (1, 5, 10)
ITEMS = "|items"
NAME = "finetune"


@dataclass(frozen=True)
class Gain:
    """How much better than the baseline, in points and in percent of it, from the seeds that both have.

    ``points`` has the 95 % interval: of drawing ``queries`` (of one seed) anew, or Student's t over seeds where
    ``queries`` is 0. Of ``percent`` only the mean over seeds is of use.
    """

    points: Estimate
    percent: Estimate | None
    seeds: tuple[int, ...]
    queries: int

    @property
    def over(self) -> str:
        """What the interval is over."""
        return "queries" if self.queries else "seeds"


def baseline(methods: Sequence[Method], method: Method) -> Method | None:
    """The sequential fine-tuning of a method's recipe: the variant of that name, else one without any method."""
    own = [m for m in methods if not m.reference and m.recipe == method.recipe and m.tasks == method.tasks]
    named = [m for m in own if m.runs[0].key[1] == NAME]
    return next(iter(named or [m for m in own if m.runs[0].meta.get("method") == []]), None)


def gain(method: Method, base: Method) -> Gain | None:
    """The difference with its interval.

    None for the baseline itself, while one of both is not finished, and where they do not fit together.
    """
    if method.label == base.label or not (method.finished and base.finished):
        return None
    theirs = {r.seed: r for r in base.counted}
    pairs = [(r, theirs[r.seed]) for r in method.counted if r.seed in theirs and same_queries(r, theirs[r.seed])]
    ranked = [pair for pair in pairs if all(map(scored_by_ranks, pair))]
    if ranked:
        return over_queries(ranked)
    others = [(a, b) for a, b in pairs if not (scored_by_ranks(a) or scored_by_ranks(b)) and scored_alike(a, b)]
    return over_seeds(others) if others else None


def over_queries(pairs: Sequence[tuple[Run, Run]]) -> Gain:
    """With a paired bootstrap interval over items, within their tasks.

    Captions of an item and its two directions are no independent queries: they are drawn together. So is an item under
    several seeds, whose scores are averaged: the interval is that of these models on other items, not of other seeds.
    """
    own = pairs[0][0]
    sides = [[by_item([pair[side] for pair in pairs], task) for task in own.tasks] for side in (0, 1)]
    mean, low, high = intervals.stratified_bootstrap(*sides)
    queries = sum(len(ranks) for task in own.tasks for ranks, _ in directions(own, task))
    seeds = tuple(r.seed for r, _ in pairs)
    return Gain(Estimate(mean, None, low, high, len(seeds)), percent(pairs), seeds, queries)


def over_seeds(pairs: Sequence[tuple[Run, Run]]) -> Gain | None:
    """With a t interval over seeds (none of one seed)."""
    finals = [(final(a), final(b)) for a, b in pairs]
    found = estimate(a - b for a, b in finals if a is not None and b is not None)
    return None if found is None else Gain(found, percent(pairs), tuple(r.seed for r, _ in pairs), 0)


def percent(pairs: Sequence[tuple[Run, Run]]) -> Estimate | None:
    """The difference in percent of the baseline's average, over seeds."""
    finals = [(final(a), final(b)) for a, b in pairs]
    return estimate(100 * (a - b) / b for a, b in finals if a is not None and b)


def final(run: Run) -> float | None:
    """The average over all tasks after the last one."""
    return run.summary(HEAD).get("average")


def same_queries(a: Run, b: Run) -> bool:
    """Whether the ranks of both are those of the last row, and of the same queries."""
    newest = all(int(r.ranks.get("after", -1)) == r.learned for r in (a, b))
    same = all(np.array_equal(v, b.ranks.get(k, ())) for k, v in a.ranks.items() if k.endswith(ITEMS))
    return newest and same and a.ranks.keys() == b.ranks.keys()


def scored_alike(a: Run, b: Run) -> bool:
    """Whether both say the same of their scores, and had the same items where no ranks tell of them."""
    scores = [[t.get("score") for t in r.task_meta()] for r in (a, b)]
    items = any(k.endswith(ITEMS) for k in a.ranks) or a.meta.get("fingerprint") == b.meta.get("fingerprint")
    return items and scores[0] == scores[1]


def scored_by_ranks(run: Run) -> bool:
    """Whether r[T][j] of every task is the mean of R@1, R@5 and R@10 of its ranks."""
    last = run.grid(HEAD).get(run.learned, [])
    if not last:
        return False
    for task, score in zip(run.tasks, last, strict=True):
        means = [hits(ranks).mean() for ranks, _ in directions(run, task)]
        if score is None or not means or not math.isclose(sum(means) / len(means), score, abs_tol=1e-6):
            return False
    return True


def directions(run: Run, task: str) -> Iterator[tuple[Int[np.ndarray, " q"], Shaped[np.ndarray, " q"]]]:
    """Ranks of the queries of each direction of a task, and the item of each query."""
    for key, ranks in run.ranks.items():
        if key.rpartition("|")[0] == task and f"{key}{ITEMS}" in run.ranks:
            yield ranks, run.ranks[f"{key}{ITEMS}"]


def hits(ranks: Int[np.ndarray, " q"]) -> Float[np.ndarray, " q"]:
    """Each query's mean of R@1, R@5 and R@10, in percent."""
    return 100 * np.mean([ranks <= k for k in CUTS], axis=0)


def by_item(runs: Sequence[Run], task: str) -> Float[np.ndarray, " items"]:
    """A score an item, whose mean is the mean over seeds and directions of the mean over queries."""
    parts = [part for run in runs for part in directions(run, task)]
    known, owner = np.unique(np.concatenate([items for _, items in parts]), return_inverse=True)
    ends = np.cumsum([len(ranks) for ranks, _ in parts])[:-1]
    total = np.zeros(len(known))
    for (ranks, _), rows in zip(parts, np.split(owner, ends), strict=True):
        total += np.bincount(rows, hits(ranks), len(known)) * len(known) / len(ranks)
    return total / len(parts)
