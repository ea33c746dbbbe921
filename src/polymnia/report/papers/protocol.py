"""In words: how our runs differ from what the paper did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from polymnia.report import words
from polymnia.report.papers.cells import Cell, scored_set
from polymnia.report.papers.settings import Setting, at, entry_name
from polymnia.report.published import Column, Expected, PaperTable

OUTCOMES = {"allowed": "kept in training", "dropped": "left out of training"}


def differences(
    table: PaperTable,
    expected: tuple[Expected, ...],
    columns: Mapping[str, Column],
    setting: Setting,
    cells: Mapping[str, Cell],
) -> list[str]:
    """What differs for one line of a table."""
    shown = {name: columns[name] for name, cell in cells.items() if cell.by_seed}
    out = []
    other = set()  # parts that are not the paper's: their keys mean something else
    for e in expected:
        if e.where not in other and (said := _unexpected(e, setting.recipe)):
            out.append(said)
            other |= {e.where} if e.key == "use" else set()
    if len(setting.runs) < table.runs:
        out.append(f"{words.seeds(setting.seeds)}; the paper's numbers are means of {table.runs} runs or more")
    for name, column in shown.items():
        lacking = _incomplete(cells[name], column.unit, len(setting.runs))
        out += [f"{name}: {said}" for said in (*lacking, *_evaluation(column, setting))]
    return [*out, *_leaks(setting, shown)]


def _unexpected(expected: Expected, recipe: Mapping[str, Any]) -> str:
    inside = at(recipe, expected.where)
    if inside is None:
        return ""
    found = at(inside, expected.key)
    if found is None and expected.any_value or not expected.any_value and found != expected.value:
        said = "none" if found is None else ", ".join(found) if isinstance(found, list) else found
        return f"{f'{expected.where}.{expected.key}'.lstrip('.')} is {said}; the paper: {expected.paper}"
    return ""


def _incomplete(cell: Cell, unit: str, runs: int) -> Iterator[str]:
    if cell.n is not None and cell.official is not None and cell.n != cell.official:
        more = "; too few for a difference" if cell.short else ""
        yield f"scored on {cell.n:,} of {cell.official:,} {unit}{more}"
    if len(cell.by_seed) < runs:
        yield f"{len(cell.by_seed)} of {runs} seeds have a value"


def _evaluation(column: Column, setting: Setting) -> Iterator[str]:
    """Settings of the evaluator that are other than the paper says."""
    scored = scored_set(column, setting) if column.eval else None
    if scored is None:
        return
    parts = scored.get("eval") or setting.recipe.get("eval") or []
    part = next((p for p in parts if entry_name(p) == column.eval["use"]), {})
    for key, value in column.eval.items():
        if part.get(key, value) != value:
            yield f"{column.eval['use']} with {key} {part[key]}; the paper: {value}"


def _leaks(setting: Setting, shown: Mapping[str, Column]) -> Iterator[str]:
    """Overlaps of what was trained and what these columns test, and what became of them."""
    tested = {str(c.data.get("use")) for c in shown.values()}
    for leak in setting.runs[0].meta.get("leaks") or []:
        if leak.get("outcome") in OUTCOMES and str(leak.get("scored")).partition(".")[0] in tested:
            yield (
                f"{leak.get('scored_items')} test items of {leak['scored']} are also among the training items of "
                f"{leak.get('learned')}: {OUTCOMES[leak['outcome']]}"
            )
