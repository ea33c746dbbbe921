"""What the page draws: curves over tasks, learning against keeping, and the training of each method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from polymnia.eval import matrix
from polymnia.report.charts import Chart, Points, Series, chart
from polymnia.report.collect import Method, curve, estimate
from polymnia.report.logs import INERT, by_term, steps

MAX_POINTS = 120


def slots(methods: Sequence[Method]) -> dict[str, int | None]:
    """A colour a method, the same in every chart; references are grey."""
    out: dict[str, int | None] = {m.label: None for m in methods}
    return out | {m.label: k for k, m in enumerate(m for m in methods if not m.reference)}


def curves(methods: Sequence[Method], head: str, measure: Callable[..., float]) -> list[Series]:
    """The mean over seeds of A_i or F_i, a line a method."""
    out = []
    for method in methods:
        if method.joint:
            continue
        found = [curve(r.grid(head), measure) for r in method.counted]
        points, tips = [], []
        for i in sorted({i for f in found for i in f}):
            value = estimate(f.get(i) for f in found)
            if value is not None:
                points.append((float(i), value.mean))
                tips.append(f"{method.label}, after {method.tasks[i - 1]}: {value.mean:.1f}")
        out.append(Series(method.label, points, slots(methods)[method.label], tips))
    return out


def curve_charts(methods: Sequence[Method], head: str) -> list[Chart]:
    longest = max((m.tasks for m in methods), key=len)
    across = [(float(i), t) for i, t in enumerate(longest, 1)]
    found = [
        chart(
            "Average of the tasks learned so far",
            ("after learning", "score, %"),
            curves(methods, head, matrix.average) + levels(methods, head, len(across)),
            x_ticks=across,
        ),
        chart(
            "Forgetting of older tasks",
            ("after learning", "points lost"),
            curves(methods, head, matrix.forgetting),
            x_ticks=across[1:],
        )
        if len(across) > 2
        else None,  # a single point in time: the summary says it
        balance_chart(methods, head) if len(methods) > 1 else None,
    ]
    return [c for c in found if c]


def levels(methods: Sequence[Method], head: str, last: int) -> list[Series]:
    """What joint training reaches on all tasks, as a level line."""
    found = {m.label: estimate(r.summary(head).get("average") for r in m.counted) for m in methods if m.joint}
    return [Series(k, [(1.0, v.mean), (float(last), v.mean)], None) for k, v in found.items() if v]


def balance_chart(methods: Sequence[Method], head: str) -> Chart | None:
    """What was learned against what was kept: the best corner is the upper right one."""
    series = []
    for method in methods:
        pairs = []
        for run in method.counted:
            grid = run.grid(head)
            kept = [v for v in grid.get(run.learned, [])[: max(run.learned - 1, 0)] if v is not None]
            new = [v for i, row in grid.items() if i and (v := row[i - 1]) is not None]
            if kept and new and not method.joint:
                pairs.append((fmean(new), fmean(kept)))
        if pairs:
            mean = (fmean(a for a, _ in pairs), fmean(b for _, b in pairs))
            tip = f"{method.label}: {mean[0]:.1f} when just learned, {mean[1]:.1f} on old tasks at the end"
            seeds = pairs if len(pairs) > 1 else []
            series.append(Series(method.label, [mean], slots(methods)[method.label], [tip], seeds))
    names = ("plasticity: score when just learned, %", "old tasks at the end, %")
    return chart("Learning against keeping", names, series)


def training_charts(method: Method) -> list[Chart]:
    """Losses a term, and each method term's share of the gradient, over the steps of the first seed."""
    logged = steps(method.runs[0])
    if not logged:
        return []
    starts: dict[str, int] = {}
    for at, line in logged:
        starts.setdefault(str(line.get("task", "")), at)
    end = max(logged[-1][0], logged[0][0] + 1)
    across = [(float(at), task) for task, at in starts.items()] + [(float(end), "")]
    losses, ratios = by_term(logged, "terms"), by_term(logged, "ratio")
    order = {t: k for k, t in enumerate(dict.fromkeys([*losses, *ratios]))}
    positive = {t: [(x, y) for x, y in p if y > 0] for t, p in ratios.items()}  # a logarithm has no zero
    found = [
        chart("Loss, a line a term", ("steps", "weighted loss"), lines(losses, order), x_ticks=across, stretches=True),
        chart(
            "Share of the gradient (log scale)",
            ("steps", "term / objective"),
            lines(positive, order),
            x_ticks=across,
            log=True,
            rules={INERT: "inert below"},
            stretches=True,
        ),
    ]
    return [c for c in found if c]


def lines(found: Mapping[str, Points], order: Mapping[str, int]) -> list[Series]:
    return [Series(term, thin(points), order[term]) for term, points in found.items()]


def thin(points: Points, most: int = MAX_POINTS) -> Points:
    """At most ``most`` points: each the mean of a stretch."""
    size = math.ceil(len(points) / most) or 1
    parts = [points[k : k + size] for k in range(0, len(points), size)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts]
