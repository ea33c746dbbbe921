"""The summary of compared methods: its rows, and which values are best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from polymnia.report import metrics, shares, versus, words
from polymnia.report.collect import Estimate, Method, Run, estimate, number
from polymnia.report.columns import CONTINUAL, GAIN, INDEXED, NAMED, PERCENT, Row, columns


def rows(methods: Sequence[Method], head: str) -> list[Row]:
    """Methods first, best values marked among those that learned all tasks; then the references."""
    own = [method_row(methods, m, head) for m in methods if not m.reference]
    able = [r for r in own if not r.note]
    wins: dict[str, set[str]] = {}
    for column in columns(methods):
        whole = [(r.label, c) for r in able if (c := r.cells.get(column.key)) and not r.partly(column.key)]
        shown = {label: round(c.mean, 1) * column.better for label, c in whole}
        if column.better and len(shown) > 1:
            wins[column.key] = {label for label, v in shown.items() if v == max(shown.values())}
    marked = [replace(r, best=frozenset(k for k, w in wins.items() if r.label in w)) for r in own]
    references = [method_row(methods, m, head) for m in methods if m.reference]
    return [*marked, *references, *base_rows(methods, head)]


def method_row(methods: Sequence[Method], method: Method, head: str) -> Row:
    runs = method.counted
    cells = {c.key: estimate(r.summary(head).get(c.key) for r in runs) for c in (*CONTINUAL, *NAMED)}
    if method.joint:  # learns no task after another: the order of tasks means nothing to it
        cells = {k: v if k == "average" else None for k, v in cells.items()}
    last = method.cells(head).get(method.learned, [])
    cells |= {f"task/{t}": v for t, v in zip(method.tasks, last, strict=False)}
    routed = [metrics.routing(r, head) for r in runs]
    cells |= {k: estimate(r.get(k) for r in routed) for k in dict.fromkeys(k for r in routed for k in r)}
    if head == versus.HEAD:
        compatible = [r.compatible() for r in runs]
        cells |= {c.key: estimate(r.get(c.key) for r in compatible) for c in INDEXED}
    cells |= {
        "trainable": estimate(shares.trained(methods, method, r) for r in runs),
        "stored": estimate(map(shares.stored, runs)),
        "seconds": estimate(r.meta.get("seconds") for r in runs),
    }
    note = "" if method.finished else f"in progress: {method.learned} of {len(method.tasks)} tasks"
    kind = "reference" if method.reference else "method"
    row = Row(method.label, kind, tuple(r.seed for r in runs), cells, note, tips=shares.tips(methods, method))
    return row if head != versus.HEAD or method.reference else with_gain(row, method, versus.baseline(methods, method))


def with_gain(row: Row, method: Method, base: Method | None) -> Row:
    """The row with the gain of its average over sequential fine-tuning, in points and in percent."""
    found = versus.gain(method, base) if base else None
    if found is None:
        return row
    how = (
        f"bootstrap over {found.queries} queries" if found.queries else "t interval over differences of the same seed"
    )
    share = f", {words.digits(found.percent.mean, ' %', signed=True)}" if found.percent else ""
    tip = f"{words.digits(found.points.mean, signed=True)} points{share}; {words.seeds(found.seeds)}"
    tip += f"; 95 % {how}" if found.points.low is not None else ""
    tip += "" if words.certain(found.points) else "; may be chance"
    cells = row.cells | {GAIN: found.points, PERCENT: found.percent}
    return replace(row, cells=cells, tips=row.tips | {GAIN: tip}, over=found.over)


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
