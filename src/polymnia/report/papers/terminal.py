"""A comparison in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from polymnia.report.papers.sheets import Comparison
from polymnia.report.papers.text import heading, notes, rows, transfer_rows


def show(comparison: Comparison, console: Console) -> None:
    """The sheets in the terminal, without intervals."""
    for sheet in comparison.sheets:
        _show(console, sheet.title, ["row", "", *(heading(sheet, n) for n in sheet.columns)], rows(sheet, brief=True))
        for title, header, body, lacking in transfer_rows(sheet, brief=True):
            _show(console, title, header, iter(body))
            _say(console, lacking)
        _say(console, notes(sheet))
    _say(console, [f"skipped {s}" for s in comparison.skipped])


def _show(console: Console, title: str, header: list[str], body: Iterator[list[str]]) -> None:
    table = Table(title=escape(title), title_justify="left")
    for place, name in enumerate(header):
        table.add_column(escape(name), justify="left" if place < 2 else "right", vertical="bottom")
    for line in body:
        table.add_row(*map(escape, line), style="bold" if line[1].startswith("ours,") else "")
    console.print(table)


def _say(console: Console, said: list[str]) -> None:
    for line in said:
        console.print(escape(f"- {line}"), soft_wrap=True)
