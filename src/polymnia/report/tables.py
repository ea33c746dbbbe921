"""The summary of compared methods: rows, which are best, and the same as Markdown, CSV and a table in the terminal."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from polymnia.report.collect import Estimate, Method, Run, estimate, heads, number


@dataclass(frozen=True)
class Column:
    """A number of the summary. ``better`` is +1 where more is better, -1 where less is, 0 for a mere cost."""

    key: str
    title: str
    hint: str
    better: int = 1
    unit: str = ""


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
COSTS = (
    Column("trainable", "trainable", "trained parameters / all parameters of the model", 0, " %"),
    Column("seconds", "time", "seconds from start to end", 0, " s"),
)


DASH = "\N{EN DASH}"  # not defined, or not measured
SPREAD = frozenset(c.key for c in CONTINUAL)
WIDE = 132  # columns of a terminal that has room for every task


@dataclass(frozen=True)
class Row:
    """A line of the summary. ``kind`` "reference" is set apart and never best."""

    label: str
    kind: str
    seeds: tuple[int, ...]
    cells: dict[str, Estimate | None]
    note: str = ""
    best: frozenset[str] = field(default_factory=frozenset)

    def plain(self, head: str) -> dict[str, Any]:
        """The row as plain data."""
        cells = {k: None if v is None else asdict(v) for k, v in self.cells.items()}
        return {"method": self.label, "kind": self.kind, "head": head, "seeds": list(self.seeds), **cells}


@dataclass(frozen=True)
class Report:
    """What was written, and the summary as plain rows: a method or reference a row, for every head."""

    html: Path
    markdown: Path
    csv: Path
    matrix_csv: Path
    figure: Path
    table: list[dict[str, Any]]


def columns(methods: Sequence[Method]) -> list[Column]:
    names = dict.fromkeys(t for m in methods for t in m.tasks)
    tasks = [Column(f"task/{t}", t, f"score on {t} after the last task; more is better") for t in names]
    return [*CONTINUAL, *tasks, *COSTS]


def rows(methods: Sequence[Method], head: str) -> list[Row]:
    """Methods first, best values marked among those that learned all tasks; then the references."""
    own = [method_row(m, head) for m in methods if not m.reference]
    able = [r for r in own if not r.note]
    wins: dict[str, set[str]] = {}
    for column in columns(methods):
        shown = {r.label: round(c.mean, 1) * column.better for r in able if (c := r.cells.get(column.key))}
        if column.better and len(shown) > 1:
            wins[column.key] = {label for label, v in shown.items() if v == max(shown.values())}
    marked = [Row(**{**vars(r), "best": frozenset(k for k, w in wins.items() if r.label in w)}) for r in own]
    return [*marked, *[method_row(m, head) for m in methods if m.reference], *base_rows(methods, head)]


def method_row(method: Method, head: str) -> Row:
    runs = method.counted
    cells = {c.key: estimate(r.summary(head).get(c.key) for r in runs) for c in CONTINUAL}
    if method.joint:  # learns no task after another: the order of tasks means nothing to it
        cells = {k: v if k == "average" else None for k, v in cells.items()}
    last = method.cells(head).get(method.learned, [])
    cells |= {f"task/{t}": v for t, v in zip(method.tasks, last, strict=False)}
    cells |= {
        "trainable": estimate(map(trained_share, runs)),
        "seconds": estimate(r.meta.get("seconds") for r in runs),
    }
    note = "" if method.finished else f"in progress: {method.learned} of {len(method.tasks)} tasks"
    kind = "reference" if method.reference else "method"
    return Row(method.label, kind, tuple(r.seed for r in runs), cells, note)


def base_rows(methods: Sequence[Method], head: str) -> list[Row]:
    """The untouched base (row 0) and the ceiling, once a recipe: methods of a recipe start from the same model."""
    out = []
    names = list(dict.fromkeys(m.counted[0].key[0] for m in methods))
    for name in names:
        runs: dict[int, Run] = {}
        for run in (r for m in methods for r in m.counted if r.key[0] == name):
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
        means.append(sum(known) / len(known) if known else None)
    return {"average": estimate(means)} | {f"task/{t}": estimate(s.get(t) for s in found) for t in tasks}


def trained_share(run: Run) -> float | None:
    sizes = run.meta.get("parameters") or {}
    trainable, total = number(sizes.get("trainable")), number(sizes.get("total"))
    return None if trainable is None or not total else 100 * trainable / total


def digits(value: float | None, column: Column | None = None) -> str:
    """A number as it is printed: one decimal, whole seconds, and never "-0.0"."""
    if value is None:
        return DASH
    if column and column.key == "seconds" and abs(value) >= 10:
        return f"{value:.0f}"
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "\N{MINUS SIGN}")


def has_spread(value: Estimate, column: Column | None = None) -> bool:
    """Whether the spread is worth printing: not for one seed, a cost, or a number that is the same for every seed."""
    return value.sd is not None and value.sd > 1e-9 and (column is None or column.better != 0)


def text(value: Estimate | None, column: Column | None = None) -> str:
    """Mean ± sd [interval], or the bare value of one seed, or a dash."""
    if value is None:
        return DASH
    unit = column.unit if column else ""
    out = digits(value.mean, column) + unit
    if not has_spread(value, column):
        return out
    return f"{out} ± {digits(value.sd)} [{digits(value.low)}, {digits(value.high)}]"


def seeds(row: Row) -> str:
    return "one seed" if len(row.seeds) == 1 else f"{len(row.seeds)} seeds"


def cell(word: object) -> str:
    """A value that cannot break out of a Markdown table or be taken for HTML."""
    flat = " ".join(str(word).split())
    return flat.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "\\`")


def line(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"


def markdown(title: str, intro: Sequence[str], methods: Sequence[Method], notes: Sequence[str]) -> str:
    """The report as text: summary tables, then R[i][j] of every method, then what to know."""
    shown, parts = columns(methods), [f"# {cell(title)}", *map(cell, intro)]
    for head in heads(methods):
        table = [line(["method", "seeds", *[cell(c.title) for c in shown]]), line(["---"] * (len(shown) + 2))]
        for row in rows(methods, head):
            words = [
                f"**{text(row.cells.get(c.key), c)}**" if c.key in row.best else text(row.cells.get(c.key), c)
                for c in shown
            ]
            name = cell(row.label + (f" ({row.note})" if row.note else ""))
            table.append(line([f"*{name}*" if row.kind == "reference" else name, seeds(row), *words]))
        parts += [f"## Summary, {head} head", "\n".join(table)]
    for head in heads(methods):
        parts.append(f"## Score on each task after each task, {head} head")
        for method in methods:
            grid = [line([cell(w) for w in ("after", *method.tasks)]), line(["---"] * (len(method.tasks) + 1))]
            for i, values in method.cells(head).items():
                grid.append(line([cell(method.tasks[i - 1] if i else "(before)"), *map(text, values)]))
            parts += [f"### {cell(method.label)}", "\n".join(grid)]
    if notes:
        parts += ["## Good to know", "\n".join(f"- {cell(n)}" for n in notes)]
    return "\n\n".join(parts) + "\n"


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
                values |= {"trainable": trained_share(run), "seconds": number(run.meta.get("seconds"))}
                yield from ((method.label, run.seed, head, k, v) for k, v in values.items() if v is not None)


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


def all_metrics(run: Run, head: str) -> Iterator[tuple[str, str, list[float | None]]]:
    """Task, metric, and its value after each row of the matrix."""
    for task, found in ((run.matrix.get("values") or {}).get(head) or {}).items():
        for metric, values in (found or {}).items():
            yield str(task), str(metric), [number(v) for v in values or []]


def metric_rows(method: Method, head: str) -> list[tuple[str, str, list[Estimate | None]]]:
    """Task, metric, and its mean over seeds after each row of the matrix."""
    found: dict[tuple[str, str], list[list[float | None]]] = {}
    for run in method.counted:
        for task, metric, values in all_metrics(run, head):
            found.setdefault((task, metric), []).append(values)
    return [(*key, [estimate(v) for v in zip_longest(*columns)]) for key, columns in found.items()]


def print_table(report: Report, console: Console) -> None:
    """The summary of the first head: means, ± sd over seeds; single tasks and costs where the terminal has room."""
    rows = [row for row in report.table if row["head"] == report.table[0]["head"]]
    names = {c.key: c.title for c in (*CONTINUAL, *COSTS)}
    keys = list(dict.fromkeys(k for row in rows for k in row if k in names or k.startswith("task/")))
    if console.width < WIDE:
        keys = [c.key for c in CONTINUAL]
    table = Table(title=f"score in percent, {rows[0]['head']} head", title_justify="left")
    table.add_column("method")
    for key in keys:
        table.add_column(escape(names.get(key, key.removeprefix("task/"))), justify="right", no_wrap=True)
    for row in rows:
        words = []
        for key in keys:
            value = row.get(key)
            spread = f" ± {digits(value['sd'])}" if value and value["sd"] is not None and key in SPREAD else ""
            words.append(digits(value["mean"]) + spread if value else DASH)
        table.add_row(escape(row["method"]), *words, style="dim" if row["kind"] == "reference" else "")
    console.print(table)
