"""Charts in pixels: the geometry of the page's SVG. Same input, same picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 420, 290
LEFT, RIGHT, TOP, BOTTOM = 42, 100, 26, 44
BROAD = 146  # a margin for long labels
LABEL_GAP, LABEL_WIDTH, LETTER = 16, 90, 7.3

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
    anchor: tuple[float, float]


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
    right: int  # the margin that the labels need
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
    right = BROAD if stretches else RIGHT
    room = max(3, int((WIDTH - LEFT - right) / len(across) / 7))
    shape: Callable[[float], float] = math.log10 if log else float
    place_x = scaler(min(t for t, _ in across), max(t for t, _ in across), LEFT, WIDTH - right)
    unit_y = scaler(shape(y_values[0]), shape(y_values[-1]), HEIGHT - BOTTOM, TOP)

    def place_y(value: float) -> float:
        return unit_y(shape(value))

    drawn = [s for s in series if s.points]
    aside = float(WIDTH - right) if stretches else 0.0  # lines that end early are named at the margin all the same
    ends = [(max(aside, place_x(s.points[-1][0])), place_y(s.points[-1][1])) for s in drawn]
    beside = spread(ends, TOP, HEIGHT - BOTTOM)
    return Chart(
        title,
        *names,
        [(place_x(t), short(word, room)) for t, word in across],
        [(place_y(t), tick_text(t)) for t in y_values],
        [
            mark(s, place_x, place_y, (x, y), int(right / LETTER))
            for s, (x, _), y in zip(drawn, ends, beside, strict=True)
        ],
        [(place_y(y), word) for y, word in rules.items()],
        right,
        stretches,
    )


def scaler(low: float, high: float, start: int, end: int) -> Callable[[float], float]:
    width = high - low or 1.0
    return lambda value: round(start + (value - low) / width * (end - start), 1)


def mark(
    series: Series,
    place_x: Callable[[float], float],
    place_y: Callable[[float], float],
    beside: tuple[float, float],
    room: int,
) -> Mark:
    pixels = [(place_x(a), place_y(b)) for a, b in series.points]
    path = "M" + "L".join(f"{a} {b}" for a, b in pixels) if len(pixels) > 1 else ""
    dots = [(a, b, tip) for (a, b), tip in zip(pixels, series.tips, strict=False)]
    faint = [(place_x(a), place_y(b)) for a, b in series.scatter]
    word = series.label if len(series.label) <= room else short(series.label.rsplit("/", 1)[-1], room)
    return Mark(series.label, word, series.slot, path, dots, faint, beside[0] + 10, beside[1], pixels[-1])
