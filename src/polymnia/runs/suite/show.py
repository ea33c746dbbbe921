"""A suite's scores for people: a line a set and direction, and why a set has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polymnia.runs.suite.score import Done

Head = Literal["latest", "stored"]
# What is shown of an evaluator, the number that papers give first; `*` stands for a direction.
SHOWN = (
    ("*/R@10", ("R@1", "R@5", "mAP@10")),
    ("zeroshot/pooled", ("fold_mean",)),
    ("probe/accuracy", ("std",)),
    ("probe/mAP", ("std",)),
)
ASIDE = ("topic:", "union/")


def plain(done: Done, head: Head) -> dict[str, Any]:
    """Everything as data; ``scores`` are those of ``head``."""
    sets = {name: {"scores": entry["values"][head], **entry} for name, entry in done.sets.items()}
    return {
        **done.facts,
        "file": str(done.path),
        "head": head,
        "sets": sets,
        "absent": done.absent,
        "unfit": done.unfit,
        "failed": done.failed,
    }


def show(done: Done, head: Head, console: Console) -> None:
    """The table, then what was left out and why."""
    title = f"{done.facts['run']} after {done.facts['after']} tasks, suite '{done.facts['suite']}', {head} heads"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name, side in (("set", "left"), ("score", "left"), ("%", "right"), ("", "left"), ("items", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for name in done.names:
        if name in done.sets:
            entry = done.sets[name]
            for number, (metric, value, beside) in enumerate(_lines(entry["values"][head])):
                there = "" if number else entry["count"]
                table.add_row(Text("" if number else name), metric, value, beside, there)
    console.print(table)
    for what, why in (("not there", done.absent), ("left out", done.unfit), ("not scored", done.failed)):
        for name, reason in why.items():
            console.print(Text(f"{name}: {what}: {reason}"), soft_wrap=True)
    console.print(Text(f"results: {done.path}"), soft_wrap=True)


def _lines(scores: Mapping[str, float | None]) -> Iterator[tuple[str, str, str]]:
    """What an entry's scores say first, and beside it; all of them where no evaluator of ours gave them."""
    found = [
        (metric, beside)
        for metric in scores
        for pattern, beside in SHOWN
        if _fits(metric, pattern) and not metric.startswith(ASIDE)
    ]
    for metric, names in found or [(metric, ()) for metric in scores]:
        stem = metric.rpartition("/")[0]
        others = [f"{name} {_number(scores[f'{stem}/{name}'])}" for name in names if f"{stem}/{name}" in scores]
        yield metric, _number(scores[metric]), "  ".join(others)


def _fits(metric: str, pattern: str) -> bool:
    return metric == pattern or (pattern[0] == "*" and ">" in metric and metric.endswith(pattern[1:]))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
