"""Charts: the geometry of the page's SVG, and one PNG figure for a README. Same input, same picture."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from polymnia.eval import matrix
from polymnia.report.collect import (
    INERT,
    Method,
    curve,
    estimate,
    heads,
    number,
    steps,
)
from polymnia.report.tables import Row

# Told apart with any colour vision (after Okabe and Ito, darkened for white paper); the page has its own for dark.
PALETTE = ("#0072b2", "#c8500a", "#00805c", "#a6517f", "#7a5230", "#3a8fc4", "#8a6a00", "#555d6b")
GREY = "#77736b"
WIDTH, HEIGHT = 420, 290
LEFT, RIGHT, TOP, BOTTOM = 42, 100, 26, 44
LABEL_GAP, LABEL_WIDTH, LABEL_ROOM = 16, 90, 13
MAX_POINTS = 120

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line or a point with its label; ``slot`` picks colour and marker, None is grey (a reference)."""

    label: str
    points: Points
    slot: int | None
    tips: list[str] = field(default_factory=list)
    scatter: Points = field(default_factory=list)  # the single seeds around a mean


@dataclass(frozen=True)
class Mark:
    """A series in pixels."""

    label: str
    word: str  # the label as far as there is room for it
    slot: int | None
    path: str
    dots: list[tuple[float, float, str]]
    faint: list[tuple[float, float]]
    label_x: float
    label_y: float
    anchor_y: float


@dataclass(frozen=True)
class Chart:
    """All that the template needs to draw: ticks and marks in pixels."""

    title: str
    x_name: str
    y_name: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[Mark]
    rules: list[tuple[float, str]]  # horizontal lines with a word
    stretches: bool = False  # the words on the x axis name the stretch to their right


def ticks(low: float | int, high: float | int, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high]."""
    if high - low < 1e-6 * max(1, abs(high)):  # a single value stands in the middle
        low, high = low - 1, high + 1
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= span / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * k for k in range(first, max(last, first + 1) + 1)]


def spread(wanted: Points, low: float | int, high: float | int) -> list[float]:
    """Heights near the wanted ones at which labels do not overlap, within [low, high] where there is room.

    Only labels that also meet sideways push each other.
    """
    placed: dict[int, float] = {}
    order = sorted(range(len(wanted)), key=lambda k: wanted[k][1])
    for k in order:
        near = [placed[p] for p in placed if abs(wanted[p][0] - wanted[k][0]) < LABEL_WIDTH]
        placed[k] = max([low, wanted[k][1], *[y + LABEL_GAP for y in near]])
    for k in reversed(order):
        below = [p for p in order[order.index(k) + 1 :] if abs(wanted[p][0] - wanted[k][0]) < LABEL_WIDTH]
        placed[k] = min([high, placed[k], *[placed[p] - LABEL_GAP for p in below]])
    return [float(placed[k]) for k in range(len(wanted))]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten that cover [low, high], two at least."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**e for e in range(first, max(last, first + 1) + 1)]


def short(word: str, room: int) -> str:
    return word if len(word) <= room else word[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"


def tick_text(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def chart(
    title: str,
    names: tuple[str, str],
    series: Sequence[Series],
    *,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    log: bool = False,
    rules: Mapping[float, str] | None = None,
    stretches: bool = False,
) -> Chart | None:
    """Scale the series into pixels; None when there is nothing to draw."""
    every = [p for s in series for p in s.points + s.scatter]
    if not every:
        return None
    rules = rules or {}
    xs, ys = [x for x, _ in every], [y for _, y in every] + list(rules)
    y_values = decades(min(ys), max(ys)) if log else ticks(min(ys), max(ys))
    across = list(x_ticks or [(t, tick_text(t)) for t in ticks(min(xs), max(xs), 4)])
    room = max(3, int((WIDTH - LEFT - RIGHT) / len(across) / 7))
    shape: Callable[[float], float] = math.log10 if log else float
    place_x = scaler(min(t for t, _ in across), max(t for t, _ in across), LEFT, WIDTH - RIGHT)
    unit_y = scaler(shape(y_values[0]), shape(y_values[-1]), HEIGHT - BOTTOM, TOP)

    def place_y(value: float) -> float:
        return unit_y(shape(value))

    drawn = [s for s in series if s.points]
    ends = [(place_x(s.points[-1][0]), place_y(s.points[-1][1])) for s in drawn]
    beside = spread(ends, TOP, HEIGHT - BOTTOM)
    return Chart(
        title,
        *names,
        [(place_x(t), short(word, room)) for t, word in across],
        [(place_y(t), tick_text(t)) for t in y_values],
        [mark(s, place_x, place_y, y) for s, y in zip(drawn, beside, strict=True)],
        [(place_y(y), word) for y, word in rules.items()],
        stretches,
    )


def scaler(low: float, high: float, start: int, end: int) -> Callable[[float], float]:
    width = high - low or 1.0
    return lambda value: round(start + (value - low) / width * (end - start), 1)


def mark(series: Series, place_x: Callable[[float], float], place_y: Callable[[float], float], y: float) -> Mark:
    pixels = [(place_x(a), place_y(b)) for a, b in series.points]
    path = "M" + "L".join(f"{a} {b}" for a, b in pixels) if len(pixels) > 1 else ""
    dots = [(a, b, tip) for (a, b), tip in zip(pixels, series.tips, strict=False)]
    faint = [(place_x(a), place_y(b)) for a, b in series.scatter]
    word = series.label if len(series.label) <= LABEL_ROOM else short(series.label.rsplit("/", 1)[-1], LABEL_ROOM)
    return Mark(series.label, word, series.slot, path, dots, faint, pixels[-1][0] + 10, y, pixels[-1][1])


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
    joint = {m.label: estimate(r.summary(head).get("average") for r in m.counted) for m in methods if m.joint}
    found = [
        chart(
            "Average of the tasks learned so far",
            ("after learning", "score, %"),
            curves(methods, head, matrix.average),
            x_ticks=across,
            rules={value.mean: f"{label}, all tasks" for label, value in joint.items() if value},
        ),
        chart(
            "Forgetting of older tasks",
            ("after learning", "points lost"),
            curves(methods, head, matrix.forgetting),
            x_ticks=across[1:],
        ),
        balance_chart(methods, head),
    ]
    return [c for c in found if c]


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


def by_term(logged: Sequence[tuple[int, dict[str, Any]]], key: str) -> dict[str, Points]:
    out: dict[str, Points] = {}
    for at, line in logged:
        for term, value in (line.get(key) or {}).items():
            if (known := number(value)) is not None:
                out.setdefault(str(term), []).append((float(at), known))
    return out


def thin(points: Points, most: int = MAX_POINTS) -> Points:
    """At most ``most`` points: each the mean of a stretch."""
    size = math.ceil(len(points) / most) or 1
    parts = [points[k : k + size] for k in range(0, len(points), size)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts]


def write_figure(path: Path, methods: Sequence[Method], rows: Sequence[Row]) -> Path:
    """A PNG: average and forgetting a method on the left, the average over tasks on the right."""
    figure = Figure(figsize=(11, 4.2), dpi=144, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    own = [r for r in rows if r.kind == "method"]
    bars(left, own, "average", "average after the last task, %")
    bars(middle, own, "forgetting", "forgetting, points")
    middle.set_yticklabels([])
    for series in curves(methods, heads(methods)[0], matrix.average):
        if series.points:
            colour = GREY if series.slot is None else PALETTE[series.slot % len(PALETTE)]
            xs, ys = zip(*series.points, strict=True)
            right.plot(xs, ys, color=colour, marker="o", markersize=4, label=plain(series.label))
    longest = max((m.tasks for m in methods), key=len)
    right.set_xticks(range(1, len(longest) + 1), [plain(short(t, 12)) for t in longest])
    right.set_title("average of the tasks learned so far, %", fontsize=10, loc="left")
    if right.lines:
        right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9, length=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a task may be named in a script that the font lacks
        canvas.print_png(path, metadata={"Software": None})
    return path


def bars(axes: Axes, rows: Sequence[Row], key: str, title: str) -> None:
    """A bar a method, best-known order kept, with its interval as a whisker."""
    for at, row in enumerate(rows):
        value = row.cells.get(key)
        if value is None:
            continue
        axes.barh(at, value.mean, color=PALETTE[at % len(PALETTE)], height=0.62)
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [at, at], color="#222222", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [plain(short(r.label, 22)) for r in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(title, fontsize=10, loc="left")


def plain(word: str) -> str:
    """A name with nothing that matplotlib would set as mathematics."""
    return word.replace("$", r"\$")
