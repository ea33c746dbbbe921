"""The summary of compared methods: columns, rows, and which values are best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from polymnia.report import counts, versus, words
from polymnia.report.collect import Estimate, Method, Run, estimate, number


@dataclass(frozen=True)
class Column:
    """A number of the summary. ``better`` is +1 where more is better, -1 where less is, 0 for a mere cost.

    ``of``: how many of its items were there ("913 of 975"), where some are missing.
    """

    key: str
    title: str
    hint: str
    better: int = 1
    unit: str = ""
    of: str = ""

    def text(self, value: Estimate | None) -> str:
        if self.key == GAIN:
            return words.difference(value)
        return words.text(value, self.unit, spread=self.better != 0)


GAIN = "gain"  # of the average, over sequential fine-tuning
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
SECONDS = Column("seconds", "time", "seconds from start to end", 0, " s")


@dataclass(frozen=True)
class Row:
    """A line of the summary. ``kind`` "reference" is set apart and never best. ``tips`` explain single cells."""

    label: str
    kind: str
    seeds: tuple[int, ...]
    cells: dict[str, Estimate | None]
    note: str = ""
    best: frozenset[str] = frozenset()
    tips: dict[str, str] = field(default_factory=dict)

    def plain(self, head: str) -> dict[str, Any]:
        """The row as plain data."""
        cells = {k: None if v is None else asdict(v) for k, v in self.cells.items()}
        return {"method": self.label, "kind": self.kind, "head": head, "seeds": list(self.seeds), **cells}


def columns(methods: Sequence[Method], rows: Sequence[Row] = ()) -> list[Column]:
    """The numbers of the summary; that of the gain only where a row has one."""
    bases = dict.fromkeys(b.label for m in methods if (b := versus.baseline(methods, m)))
    name = next(iter(bases)) if len(bases) == 1 else "finetune"
    hint = f"difference of the average to that of {name} on the same queries, with its 95 % bootstrap interval"
    gain = [Column(GAIN, f"vs {name}", hint)] if any(r.cells.get(GAIN) for r in rows) else []
    scores = {t: words.score(said) for m in methods for t, said in said_scores(m.counted[0]).items()}
    tasks, lack = [], counts.lacking(methods)
    for task in dict.fromkeys(t for m in methods for t in m.tasks):
        what = f" ({scores[task]})" if task in scores else ""
        hint = f"score on {task}{what} after the last task; more is better"
        tasks.append(Column(f"task/{task}", task, hint, of=lack.get(task, "")))
    share = Column("trainable", "trainable", f"trained parameters, as a share of {shared(methods)}", 0, " %")
    return [CONTINUAL[0], *gain, *CONTINUAL[1:], *tasks, share, SECONDS]


def said_scores(run: Run) -> dict[str, str]:
    """What each task's score is, in the run's words."""
    return {str(t.get("name")): str(t["score"]) for t in run.task_meta() if t.get("score")}


def rows(methods: Sequence[Method], head: str) -> list[Row]:
    """Methods first, best values marked among those that learned all tasks; then the references."""
    own = [method_row(methods, m, head) for m in methods if not m.reference]
    able = [r for r in own if not r.note]
    wins: dict[str, set[str]] = {}
    for column in columns(methods):
        shown = {r.label: round(c.mean, 1) * column.better for r in able if (c := r.cells.get(column.key))}
        if column.better and len(shown) > 1:
            wins[column.key] = {label for label, v in shown.items() if v == max(shown.values())}
    marked = [replace(r, best=frozenset(k for k, w in wins.items() if r.label in w)) for r in own]
    references = [method_row(methods, m, head) for m in methods if m.reference]
    return [*marked, *references, *base_rows(methods, head)]


def method_row(methods: Sequence[Method], method: Method, head: str) -> Row:
    runs = method.counted
    cells = {c.key: estimate(r.summary(head).get(c.key) for r in runs) for c in CONTINUAL}
    if method.joint:  # learns no task after another: the order of tasks means nothing to it
        cells = {k: v if k == "average" else None for k, v in cells.items()}
    last = method.cells(head).get(method.learned, [])
    cells |= {f"task/{t}": v for t, v in zip(method.tasks, last, strict=False)}
    cells |= {
        "trainable": estimate(trained_share(methods, method, r) for r in runs),
        "seconds": estimate(r.meta.get("seconds") for r in runs),
    }
    note = "" if method.finished else f"in progress: {method.learned} of {len(method.tasks)} tasks"
    kind = "reference" if method.reference else "method"
    row = Row(method.label, kind, tuple(r.seed for r in runs), cells, note)
    return row if head != versus.HEAD or method.reference else with_gain(row, method, versus.baseline(methods, method))


def with_gain(row: Row, method: Method, base: Method | None) -> Row:
    """The row with the gain of its average over sequential fine-tuning, in points, and in percent in the tip."""
    found = versus.gain(method, base) if base else None
    if base is None or found is None:
        return row
    before = estimate(r.summary(versus.HEAD).get("average") for r in base.counted if r.seed in found.seeds)
    share = f", {words.digits(100 * found.mean / before.mean, ' %', signed=True)}" if before and before.mean else ""
    tip = f"{words.digits(found.mean, signed=True)} points{share}; 95 % bootstrap over {found.queries} queries"
    tip += f", {words.seeds(found.seeds)}{'' if words.certain(found.estimate) else '; may be chance'}"
    return replace(row, cells=row.cells | {GAIN: found.estimate}, tips={GAIN: tip})


def base_rows(methods: Sequence[Method], head: str) -> list[Row]:
    """The untouched base (row 0) and the ceiling, once a recipe: methods of a recipe start from the same model."""
    out = []
    names = list(dict.fromkeys(m.recipe for m in methods))
    for name in names:
        runs: dict[int, Run] = {}
        for run in (r for m in methods for r in m.counted if m.recipe == name):
            runs.setdefault(run.seed, run)
        suffix = f" ({name})" if len(names) > 1 else ""
        seeds = tuple(sorted(runs))
        tasks = next(iter(runs.values())).tasks
        untouched = [dict(zip(r.tasks, r.grid(head).get(0, []), strict=False)) for r in runs.values()]
        ceilings = [r.matrix.get("ceiling") or {} for r in runs.values()]
        for label, found in (("untouched base" + suffix, untouched), ("ceiling" + suffix, ceilings)):
            if any(number(v) is not None for scores in found for v in scores.values()):
                out.append(Row(label, "reference", seeds, score_cells(found, tasks)))
    return out


def score_cells(found: Sequence[dict[str, Any]], tasks: Sequence[str]) -> dict[str, Estimate | None]:
    means = []
    for scores in found:
        known = [v for t in tasks if (v := number(scores.get(t))) is not None]
        means.append(sum(known) / len(tasks) if len(known) == len(tasks) else None)
    return {"average": estimate(means)} | {f"task/{t}": estimate(s.get(t) for s in found) for t in tasks}


def yardsticks(methods: Sequence[Method]) -> dict[str, float]:
    """Recipe -> parameters that its fine-tuning trains; {} unless every recipe has one to compare with."""
    found = {m.recipe: b.counted[0].trainable for m in methods if (b := versus.baseline(methods, m))}
    return {k: v for k, v in found.items() if v} if all(found.get(m.recipe) for m in methods) else {}


def shared(methods: Sequence[Method]) -> str:
    """What the trained parameters are a share of."""
    return "the parameters that fine-tuning trains" if yardsticks(methods) else "all parameters of the model"


def trained_share(methods: Sequence[Method], method: Method, run: Run) -> float | None:
    """Trained parameters in percent of what fine-tuning trains, or of the whole model where none was run."""
    whole = yardsticks(methods).get(method.recipe) or number((run.meta.get("parameters") or {}).get("total"))
    return None if run.trainable is None or not whole else 100 * run.trainable / whole
