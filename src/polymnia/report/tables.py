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
from polymnia.report.columns import CONTINUAL, GAIN, PERCENT, SECONDS, SHARES
from polymnia.report.metrics import all_metrics, routing

WIDE = 132  # columns of a terminal that has room for every task
NARROW = 100  # below it the transfers give way to whole names of methods
TRANSFERS = ("backward_transfer", "forward_transfer")


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
    """The summary of the first head: means, ± sd over seeds; single tasks and costs where the terminal has room."""
    rows = [row for row in report.table if row["head"] == report.table[0]["head"]]
    names = {"average": "average", GAIN: "vs finetune", PERCENT: "in %"} | {c.key: c.title for c in CONTINUAL}
    costs = dict(zip(SHARES, SHARES, strict=True)) | {"seconds": SECONDS.title}
    present = list(dict.fromkeys(k for row in rows for k, v in row.items() if v is not None))
    keys = [k for k in names if k in present]
    if console.width >= WIDE:
        many = [k for k in present if k.startswith(("task/", words.ROUTING))]
        keys += [*many, *[k for k in costs if k in present]]
    elif console.width < NARROW:
        keys = [k for k in keys if k not in (PERCENT, *TRANSFERS)]
    names |= costs
    table = Table(title=f"score in percent, {rows[0]['head']} head", title_justify="left")
    table.add_column("method", no_wrap=True)
    for key in keys:
        task = key.removeprefix("task/")
        of = f"\n{report.lacking[task]}" if key != task and task in report.lacking else ""
        table.add_column(escape(names.get(key, task) + of), justify="right", no_wrap=True)
    for row in rows:
        said = [plain(key, row.get(key)) for key in keys]
        table.add_row(escape(row["method"]), *said, style="dim" if row["kind"] == "reference" else "")
    console.print(table)
    for name, said in report.lacking.items():
        console.print(escape(f"{name}: scored on {said} items; the others are missing or broken"), soft_wrap=True)


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
