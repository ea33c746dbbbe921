"""A method against sequential fine-tuning on the same queries: the difference of the final score, and how sure it is.

The final score is recomputed from the ranks of single queries: per task the mean of R@1, R@5 and R@10 over
directions, then the mean over tasks. Where that is not r[T][j], the tasks are scored by something else, and no
difference is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from polymnia.eval import intervals
from polymnia.report.collect import Estimate, Method, Run

HEAD = "latest"  # ranks were taken through these heads
CUTS = (1, 5, 10)
ITEMS = "|items"
NAME = "finetune"


@dataclass(frozen=True)
class Gain:
    """How much better than the baseline, in points, from the seeds that both have."""

    mean: float
    low: float
    high: float
    seeds: tuple[int, ...]
    queries: int  # of one seed

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.mean, None, self.low, self.high, len(self.seeds))


def baseline(methods: Sequence[Method], method: Method) -> Method | None:
    """The sequential fine-tuning of a method's recipe: the variant of that name, else one without any method."""
    own = [m for m in methods if not m.reference and m.recipe == method.recipe and m.tasks == method.tasks]
    named = [m for m in own if m.runs[0].key[1] == NAME]
    return next(iter(named or [m for m in own if m.runs[0].meta.get("method") == []]), None)


def gain(method: Method, base: Method) -> Gain | None:
    """The difference, and a paired bootstrap interval over items, within their tasks.

    Captions of an item and its two directions are no independent queries: they are drawn together. So is an item under
    several seeds, whose scores are averaged: the interval is that of these models on other items, not of other seeds.
    None for the baseline itself and where the ranks of both do not fit together.
    """
    if method.label == base.label or not (method.finished and base.finished):
        return None
    theirs = {r.seed: r for r in base.counted}
    pairs = [(r, theirs[r.seed]) for r in method.counted if r.seed in theirs and alike(r, theirs[r.seed])]
    if not pairs:
        return None
    sides = [[by_item([pair[side] for pair in pairs], task) for task in method.tasks] for side in (0, 1)]
    found = intervals.stratified_bootstrap(*sides)
    queries = sum(len(ranks) for task in method.tasks for ranks, _ in directions(pairs[0][0], task))
    return Gain(*found, tuple(r.seed for r, _ in pairs), queries)


def alike(a: Run, b: Run) -> bool:
    """Whether the ranks of both are of the same queries, and make up the score of each."""
    same = all(np.array_equal(v, b.ranks.get(k, ())) for k, v in a.ranks.items() if k.endswith(ITEMS))
    return same and a.ranks.keys() == b.ranks.keys() and scored_by_ranks(a) and scored_by_ranks(b)


def scored_by_ranks(run: Run) -> bool:
    """Whether r[T][j] of every task is the mean of R@1, R@5 and R@10 of its ranks."""
    final = run.grid(HEAD).get(run.learned, [])
    if int(run.ranks.get("after", -1)) != run.learned or not final:
        return False
    for task, score in zip(run.tasks, final, strict=True):
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
