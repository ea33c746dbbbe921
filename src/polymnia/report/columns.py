"""What the summary of compared methods consists of: its columns, and which of them the runs at hand have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from polymnia.report import counts, metrics, shares, versus, words
from polymnia.report.collect import Estimate, Method, Run

GAIN, PERCENT = "gain", "gain_percent"  # of the average, over sequential fine-tuning
SHARES = ("trainable", "stored")


@dataclass(frozen=True)
class Column:
    """A number of the summary. ``better`` is +1 where more is better, -1 where less is, 0 for a mere cost.

    ``of``: what it is of, or how many of its items were there ("913 of 975"), where some are missing.
    """

    key: str
    title: str
    hint: str
    better: int = 1
    unit: str = ""
    of: str = ""

    @property
    def compact(self) -> bool:
        """Whether its interval is left to a tip: there are as many columns like it as tasks or modalities."""
        return self.key.startswith(("task/", words.ROUTING))

    def text(self, value: Estimate | None) -> str:
        """Mean, deviation and interval as a table in text has them."""
        if self.key == GAIN:
            return words.difference(value)
        return words.text(value, self.unit) if self.better else self.mean(value)

    def mean(self, value: Estimate | None) -> str:
        """The mean alone."""
        if value is not None and self.key in SHARES:
            return words.share(value.mean)
        return words.digits(value.mean if value else None, self.unit, signed=self.key == PERCENT)


CONTINUAL = (
    Column("average", "average", "mean score over all tasks after the last one; more is better"),
    Column("forgetting", "forgetting", "how far older tasks fell below their best; less is better", -1),
    Column("plasticity", "plasticity", "mean score of each task just after it was learned; more is better"),
    Column(
        "backward_transfer", "backward", "backward transfer: change of old tasks by later learning; below 0 forgets"
    ),
    Column(
        "forward_transfer", "forward", "forward transfer: gain on a task before it is learned, over the untouched base"
    ),
)
# What others call their numbers, and mean by them: in a table of their own, never among ours.
NAMED = (
    Column(
        "average_incremental", "average incremental", "mean over tasks of the average just after each; more is better"
    ),
    Column("lpi_average", "AvgP (LPI)", "mean over tasks of the mean of all scores since each was learned"),
    Column(
        "lpi_forgetting",
        "Forget (LPI)",
        "mean over all tasks but the last of the last score minus the best one before; below 0 forgets",
    ),
)
# Queries of the last encoder in an index whose items were embedded right after their tasks were learned.
INDEX = (
    Column("index/stale", "stale index", "queries of the last encoder, vectors as they were stored; more is better"),
    Column("index/upgraded", "upgraded", "the same vectors through adapters fitted on anchors; more is better"),
)
INDEXED = (
    Column("index/kept", "kept", "queries of the encoder that made the vectors: the index as it was", 0),
    *INDEX,
    Column("index/self", "re-embedded", "everything embedded again by the last encoder", 0),
    Column(
        "index/won_back",
        "won back",
        "(upgraded - stale) / (re-embedded - stale), mean; none where nothing is lost",
        0,
        " %",
    ),
    Column("index/own/stale", "itself, stale", "an item as the query for itself, stored vectors; more is better"),
    Column(
        "index/own/upgraded", "itself, upgraded", "an item as the query for itself, through adapters; more is better"
    ),
)
SECONDS = Column("seconds", "time", "seconds from start to end", 0, " s")


@dataclass(frozen=True)
class Row:
    """A line of the summary. ``kind`` "reference" is set apart and never best. ``tips`` explain single cells.

    ``over``: what the interval of the gain is over, queries or seeds.
    """

    label: str
    kind: str
    seeds: tuple[int, ...]
    cells: dict[str, Estimate | None]
    note: str = ""
    best: frozenset[str] = frozenset()
    tips: dict[str, str] = field(default_factory=dict)
    over: str = ""

    def partly(self, key: str) -> str:
        """Of how many of the row's seeds a value is the mean, where some have none; such a value is never best."""
        value = self.cells.get(key)
        return f"{value.n} of {words.seeds(self.seeds)}" if value and value.n < len(self.seeds) else ""

    def plain(self, head: str) -> dict[str, Any]:
        """The row as plain data."""
        cells = {k: None if v is None else asdict(v) for k, v in self.cells.items()}
        return {"method": self.label, "kind": self.kind, "head": head, "seeds": list(self.seeds), **cells}


def columns(methods: Sequence[Method], rows: Sequence[Row] = ()) -> list[Column]:
    """The numbers of the summary; those of the gain only where a row has one, and so on."""
    scores = {t: words.score(said) for m in methods for t, said in said_scores(m.counted[0]).items()}
    tasks, lack = [], counts.lacking(methods)
    for task in dict.fromkeys(t for m in methods for t in m.tasks):
        what = f" ({scores[task]})" if task in scores else ""
        hint = f"score on {task}{what} after the last task; more is better"
        tasks.append(Column(f"task/{task}", task, hint, of=lack.get(task, "")))
    costs = cost_columns(methods)
    gains, routed = gain_columns(methods, rows), routing_columns(methods)
    return [CONTINUAL[0], *gains, *CONTINUAL[1:], *index_columns(methods), *costs, *routed, *tasks]


def gain_columns(methods: Sequence[Method], rows: Sequence[Row]) -> list[Column]:
    if not any(r.cells.get(GAIN) for r in rows):
        return []
    bases = dict.fromkeys(b.label for m in methods if (b := versus.baseline(methods, m)))
    name = next(iter(bases)) if len(bases) == 1 else "finetune"
    hint = f"difference of the average to that of {name}, with its 95 % interval: {how_sure(rows)}"
    share = Column(PERCENT, f"vs {name}, %", f"the same in percent of the average of {name}, mean over seeds", 0, " %")
    return [Column(GAIN, f"vs {name}", hint), share]


def how_sure(rows: Sequence[Row]) -> str:
    """What the intervals of the gains are."""
    kinds = {
        "queries": "on the same queries, by bootstrap over them, for these seeds",
        "seeds": "by Student's t over differences of the same seed, as the score is not made of ranks",
    }
    return "; ".join(said for kind, said in kinds.items() if any(r.over == kind for r in rows))


def routing_columns(methods: Sequence[Method]) -> list[Column]:
    """How tasks are chosen, where any method chooses."""
    routed = dict.fromkeys(k for m in methods for r in m.runs for k in metrics.routing(r, versus.HEAD))
    hint = "{} after the last task, in percent, mean over tasks; more is better"
    return [
        Column(k, "routing", hint.format(words.metric(k)), of=k.removeprefix(words.ROUTING)) for k in sorted(routed)
    ]


def index_columns(methods: Sequence[Method]) -> list[Column]:
    """How compatible a method keeps an index with its encoder, where that was measured."""
    return list(INDEX) if any(r.compatible() for m in methods for r in m.runs) else []


def cost_columns(methods: Sequence[Method]) -> list[Column]:
    """What is trained and stored, and how long it took."""
    of = shares.shared(methods)
    share = Column("trainable", "trainable", f"parameters trained in one step, as a share of {of}", 0, " %")
    kept = "numbers that a method which prompts adds for all tasks, as a share of all parameters of the model"
    stored = (
        [Column("stored", "stored", kept, 0, " %")] if any(r.size("stored") for m in methods for r in m.runs) else []
    )
    return [share, *stored, SECONDS]


def with_named(rows: Sequence[Row]) -> list[Row]:
    """The rows that have any of the numbers that others name."""
    return [r for r in rows if any(r.cells.get(c.key) for c in NAMED)]


def with_index(rows: Sequence[Row]) -> list[Row]:
    """The rows of methods whose encoders were compared."""
    return [r for r in rows if any(r.cells.get(c.key) for c in INDEXED)]


def said_scores(run: Run) -> dict[str, str]:
    """What each task's score is, in the run's words."""
    return {str(t.get("name")): str(t["score"]) for t in run.task_meta() if t.get("score")}
