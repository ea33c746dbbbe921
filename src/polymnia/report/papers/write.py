"""A comparison as Markdown, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from polymnia.report import words
from polymnia.report.markdown import cell, grid
from polymnia.report.papers.cells import Cell, Line
from polymnia.report.papers.sheets import Comparison, Sheet
from polymnia.report.papers.text import heading, notes, rows, transfer_rows
from polymnia.report.tables import write_csv
from polymnia.types import UserError

HEADER = ("table", "stand_in", "row", "setting", "recipe", "seeds", "column", "in_place_of", "head", "paper")
HEADER += ("ours", "sd", "low", "high", "difference", "n", "official", "clips")


def write(comparison: Comparison, out: Path) -> list[Path]:
    """Write table.md, table.csv and table.json into ``out``. Raises UserError where that cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "table.md").write_text(markdown(comparison), encoding="utf-8")
        (out / "table.json").write_text(json.dumps(plain(comparison), indent=1, ensure_ascii=False), encoding="utf-8")
        write_csv(out / "table.csv", HEADER, _csv_lines(comparison))
    except OSError as error:
        raise UserError(f"the tables cannot be written into {out}: {error}") from error
    return [out / f"table.{kind}" for kind in ("md", "csv", "json")]


def heads(comparison: Comparison) -> str:
    """Which heads our scores are of."""
    if comparison.head != "row":
        return f"Heads: {comparison.head}"
    named = (item for table in comparison.published.tables for item in table.rows.items())
    said = dict.fromkeys(f"{name}'s {group} columns" for name, row in named for group in row.stored)
    return f"Heads: latest{f'; stored for {words.listed(said)}' if said else ''}"


def markdown(comparison: Comparison) -> str:
    """All sheets, their transfers, what differs in protocol, what was skipped, and the paper's own slips."""
    published = comparison.published
    parts = [f"# {cell(published.paper)}", f"{cell(published.authors)}. Percent. {heads(comparison)}."]
    parts.append(
        "Ours: mean ± deviation over seeds [95 % t-interval]. A dash: we have no run, or it is not comparable."
    )
    for sheet in comparison.sheets:
        header = ["row", "", *(heading(sheet, name) for name in sheet.columns)]
        parts += [f"## {cell(sheet.title)}", _grid(header, list(rows(sheet)))]
        for title, head, body, lacking in transfer_rows(sheet):
            parts += [f"### {cell(title)}", _grid(head, body), "\n".join(f"- {cell(w)}" for w in lacking)]
        parts += ["### What differs", "\n".join(f"- {cell(n)}" for n in notes(sheet))] if notes(sheet) else []
    for title, said in (("Skipped", comparison.skipped), ("In the paper itself", published.slips)):
        parts += [f"## {title}", "\n".join(f"- {cell(s)}" for s in said)] if said else []
    return "\n\n".join(p for p in parts if p) + "\n"


def _grid(header: list[str], body: list[list[str]]) -> str:
    return grid([cell(w) for w in header], [[cell(w) for w in line] for line in body])


def _numbers(found: Cell) -> dict[str, Any]:
    ours = found.ours
    spread_of = asdict(ours) if ours else {}
    return {
        "paper": list(found.paper),
        "ours": spread_of.get("mean"),
        "sd": spread_of.get("sd"),
        "low": spread_of.get("low"),
        "high": spread_of.get("high"),
        "difference": found.difference,
        "n": found.n,
        "official": found.official,
        "clips": found.clips,
    }


def _csv_lines(comparison: Comparison) -> Iterator[tuple[Any, ...]]:
    for sheet in comparison.sheets:
        for line in sheet.lines:
            recipe, seeds = _whose(sheet, line)
            for name, found in line.cells.items():
                numbers = _numbers(found)
                printed = " / ".join(f"{v:.2f}" for v in found.paper)
                where = (name, " / ".join(sheet.columns[name].in_place_of), found.head if found.by_seed else "")
                who = (sheet.table.name, int(sheet.stand_in), line.row, line.label, recipe, " ".join(map(str, seeds)))
                yield *who, *where, printed, *(v for k, v in numbers.items() if k != "paper")


def _whose(sheet: Sheet, line: Line) -> tuple[str, list[int]]:
    return sheet.table.rows[line.row].recipe, list(line.setting.seeds) if line.setting else []


def plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data, unrounded."""
    return {
        "paper": comparison.published.paper,
        "head": comparison.head,
        "tables": [_plain_sheet(sheet) for sheet in comparison.sheets],
        "skipped": list(comparison.skipped),
        "slips": list(comparison.published.slips),
    }


def _plain_sheet(sheet: Sheet) -> dict[str, Any]:
    lines = []
    for line in sheet.lines:
        recipe, seeds = _whose(sheet, line)
        cells = {
            name: _numbers(c)
            | {"head": c.head, "from": c.source, "by_seed": {str(s): v for s, v in c.by_seed.items()}}
            for name, c in line.cells.items()
        }
        runs = [r.path.name for r in line.setting.runs] if line.setting else []
        who = {"row": line.row, "setting": line.label, "recipe": recipe, "seeds": seeds, "runs": runs}
        lines.append({**who, "cells": cells, "differs": list(line.notes)})
    transfers = [
        {"name": t.name, "words": t.words, "method": x.method, "minus": x.minus, "note": x.note}
        | {
            "cells": {
                c: {"paper": list(g.paper), "ours": asdict(g.ours) if g.ours else None} for c, g in x.cells.items()
            }
        }
        for t, found in sheet.transfers
        for x in found
    ]
    columns = {name: {"head": heading(sheet, name), "note": c.note} for name, c in sheet.columns.items()}
    about = {"name": sheet.table.name, "title": sheet.title, "stand_in": sheet.stand_in, "columns": columns}
    return {**about, "lines": lines, "transfers": transfers}
