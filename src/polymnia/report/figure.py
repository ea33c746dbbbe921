"""One PNG figure for a README."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from polymnia.eval import matrix
from polymnia.report.charts import short
from polymnia.report.collect import Method, heads
from polymnia.report.plots import curves
from polymnia.report.summary import Row

# Told apart with any colour vision (after Okabe and Ito, darkened for white paper); the page has its own for dark.
PALETTE = ("#0072b2", "#c8500a", "#00805c", "#a6517f", "#7a5230", "#3a8fc4", "#8a6a00", "#555d6b")
GREY = "#77736b"
DASHES = ("-", "--", ":", "-.")  # a palette later, the same colour comes in another dash
FEW = 8  # methods whose names find a place inside the axes


def write_figure(path: Path, methods: Sequence[Method], rows: Sequence[Row]) -> Path:
    """A PNG: average and forgetting a method on the left, the average over tasks on the right."""
    own = [r for r in rows if r.kind == "method"]
    crowd = max(0, len(own) - FEW)
    size = (11 + 1.5 * bool(crowd), 4.2 + 0.08 * crowd)
    figure = Figure(figsize=size, dpi=144, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    bars(left, own, "average", "average after the last task, %")
    bars(middle, own, "forgetting", "forgetting, points")
    middle.set_yticklabels([])
    for series in curves(methods, heads(methods)[0], matrix.average):
        if series.points:
            slot, (xs, ys) = series.slot, zip(*series.points, strict=True)
            colour = GREY if slot is None else PALETTE[slot % len(PALETTE)]
            dash = "-" if slot is None else DASHES[slot // len(PALETTE) % len(DASHES)]
            right.plot(xs, ys, dash, color=colour, marker="o", markersize=4, label=plain(series.label))
    longest = max((m.tasks for m in methods), key=len)
    right.set_xticks(range(1, len(longest) + 1), [plain(short(t, 12)) for t in longest])
    right.set_title("average of the tasks learned so far, %", fontsize=10, loc="left")
    if right.lines:
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(right.lines) > FEW else {}
        right.legend(frameon=False, fontsize=8, **beside)
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
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_title(title, fontsize=10, loc="left")


def plain(word: str) -> str:
    """A name with nothing that matplotlib would set as mathematics."""
    return word.replace("$", r"\$")
