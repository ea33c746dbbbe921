"""The report as CSV and as a table in the terminal."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from polymnia.report import counts, shares, versus, words
from polymnia.report.collect import Estimate, Method, Run, heads, number
from polymnia.report.columns import CONTINUAL, GAIN, INDEX, PERCENT, SECONDS, SHARES
from polymnia.report.metrics import all_metrics, routing

WIDE = 132  # letters of a terminal that shows single tasks
TASKS, ROUTED, INDEXES = ("task/",), (words.ROUTING,), tuple(c.key for c in INDEX)
MANY = (*ROUTED, *TASKS)
# Beginnings of keys, those first that a narrow terminal keeps.
ESSENTIAL = ("average", GAIN, "forgetting", "plasticity")
GROUPS = ((PERCENT,), ("backward_transfer", "forward_transfer"), INDEXES, SHARES, ("seconds",), ROUTED, TASKS)
NAMES = {
    **{"average": "average", GAIN: "vs finetune", PERCENT: "in %"},
    **{c.key: c.title for c in CONTINUAL[1:]},
    **{c.key: c.title for c in INDEX},
    **dict(zip(SHARES, SHARES, strict=True)),
    "seconds": SECONDS.title,
}


@dataclass(frozen=True)
class Report:
    """What was written, and the summary as plain rows: a method or reference a row, for every head.

    ``lacking``: how many of its items a task or watched set was scored on, where some are missing.
    """

    html: Path
    markdown: Path
    csv: Path
    matrix_csv: Path
    figure: Path
    table: list[dict[str, Any]]
    lacking: Mapping[str, str] = field(default_factory=dict)


def write_csv(path: Path, header: Sequence[str], lines: Iterator[tuple[Any, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
    return path


def summary_lines(methods: Sequence[Method]) -> Iterator[tuple[Any, ...]]:
    """method, seed, head, metric, value: everything a run summed up, unrounded."""
    for method in methods:
        for run in method.runs:
            for head in heads([method]):
                final = dict(zip(run.tasks, run.grid(head).get(run.learned, []), strict=False))
                values = run.summary(head) | {f"task/{t}": v for t, v in final.items()}
                values |= gain_lines(methods, method, run, head)
                values |= routing(run, head)
                values |= {"trainable": shares.trained(methods, method, run), "stored": shares.stored(run)}
                values |= {"seconds": number(run.meta.get("seconds"))} | dict(counts.numbers(run))
                yield from ((method.label, run.seed, head, k, v) for k, v in values.items() if v is not None)


def gain_lines(methods: Sequence[Method], method: Method, run: Run, head: str) -> dict[str, float]:
    """The gain of a run's average over that of sequential fine-tuning with the same seed."""
    base = versus.baseline(methods, method)
    same = [r for r in base.counted if r.seed == run.seed] if base and base.label != method.label else []
    own = run.summary(head).get("average")
    before = same[0].summary(head).get("average") if same else None
    if own is None or not before or not method.finished:
        return {}
    return {"gain_points": own - before, "gain_percent": 100 * (own - before) / before}


def matrix_lines(methods: Sequence[Method]) -> Iterator[tuple[Any, ...]]:
    """method, seed, head, after, task, metric, value: r[i][j] as "score", then every metric behind it."""
    for method in methods:
        for run in method.runs:
            for head in heads([method]):
                for i, row in run.grid(head).items():
                    yield from (
                        (method.label, run.seed, head, i, t, "score", v)
                        for t, v in zip(run.tasks, row, strict=True)
                        if v is not None
                    )
                for task, metric, values in all_metrics(run, head):
                    yield from (
                        (method.label, run.seed, head, i, task, metric, v)
                        for i, v in zip(run.after, values, strict=False)
                        if v is not None
                    )


def print_table(report: Report, console: Console) -> None:
    """The summary of the first head: means, ± sd over seeds; costs and single tasks where the terminal has room."""
    rows = [row for row in report.table if row["head"] == report.table[0]["head"]]
    names = NAMES | {k: k.removeprefix("task/") for row in rows for k in row if k.startswith(MANY)}
    present = {k for row in rows for k, v in row.items() if v is not None}
    columns = {}
    for key in (k for k in names if k in present):
        task = key.removeprefix("task/")
        of = f"\n{report.lacking[task]}" if key != task and task in report.lacking else ""
        columns[key] = [names[key] + of, *(plain(key, row.get(key)) for row in rows)]
    labels = ["method", *(row["method"] for row in rows)]
    shown = fitting(columns, console.width - 1 - across(labels), console.width >= WIDE)
    table = Table(title=f"score in percent, {rows[0]['head']} head", title_justify="left")
    table.add_column("method", no_wrap=True)
    for key in shown:
        table.add_column(escape(columns[key][0]), justify="right", no_wrap=True)
    for place, row in enumerate(rows, start=1):
        said = [columns[key][place] for key in shown]
        table.add_row(escape(row["method"]), *said, style="dim" if row["kind"] == "reference" else "")
    console.print(table)
    for name, said in report.lacking.items():
        console.print(escape(f"{name}: scored on {said} items; the others are missing or broken"), soft_wrap=True)


def fitting(columns: Mapping[str, Sequence[str]], room: int, tasks: bool) -> list[str]:
    """The columns that there is room for, in their order; ``tasks``: single tasks, too, where they all fit.

    What matters most is taken first, and what belongs together is shown together or not at all.
    """
    taken = set(ESSENTIAL)
    room -= sum(across(said) for key, said in columns.items() if key in taken)
    for group in GROUPS if tasks else GROUPS[:-1]:
        keys = [k for k in columns if k.startswith(group)]
        width = sum(across(columns[k]) for k in keys)
        if width <= room:
            taken, room = taken | set(keys), room - width
    return [k for k in columns if k in taken]


def across(column: Sequence[str]) -> int:
    """Letters that a column takes, with its frame."""
    return 3 + max(len(line) for cell in column for line in cell.splitlines() or [""])


def plain(key: str, value: dict[str, Any] | None) -> str:
    """A cell of the terminal: a difference with its mark, a mean with the spread over seeds."""
    if value is None:
        return words.DASH
    known = Estimate(**value)
    if key in SHARES:
        return words.share(known.mean)
    if key in (GAIN, PERCENT):
        mark = " " + words.arrow(known) if key == GAIN and words.certain(known) else ""
        return words.digits(known.mean, signed=True) + mark
    spread = f" ± {words.digits(known.sd)}" if key in {c.key for c in CONTINUAL} and words.has_spread(known) else ""
    return words.digits(known.mean) + spread
