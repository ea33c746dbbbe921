"""A paper's tables with our runs beside: a sheet for its own columns, and one for stand-ins where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polymnia.report.papers.cells import Cell, Head, Line, average, read_cell
from polymnia.report.papers.protocol import differences
from polymnia.report.papers.settings import Setting, labels, read_settings
from polymnia.report.papers.transfers import TransferLine, transfer_lines
from polymnia.report.published import Column, PaperTable, Published, Transfer, read_published


@dataclass(frozen=True)
class Sheet:
    """A printed table. ``stand_in``: other data sets in the place of the paper's."""

    table: PaperTable
    stand_in: bool
    columns: Mapping[str, Column]
    lines: tuple[Line, ...]
    transfers: tuple[tuple[Transfer, tuple[TransferLine, ...]], ...]

    @property
    def title(self) -> str:
        other = ", stand-ins: other data in the place of the paper's" if self.stand_in else ""
        return f"{self.table.name}{other}: {self.table.title}"

    @property
    def filled(self) -> bool:
        return any(cell.by_seed for line in self.lines for cell in line.cells.values())

    def notes(self) -> dict[str, list[str]]:
        """What differs in protocol, and the lines of which it is true."""
        found: dict[str, list[str]] = {}
        for line in self.lines:
            for note in line.notes:
                found.setdefault(note, []).append(line.name)
        return found


@dataclass(frozen=True)
class Comparison:
    """All sheets. ``skipped``: folders that no cell is made of, and why."""

    published: Published
    head: Head
    sheets: tuple[Sheet, ...]
    skipped: tuple[str, ...]


def compare(folder: Path, runs: Sequence[Path], head: Head = "row") -> Comparison:
    """The tables of the paper whose recipes are in ``folder`` beside what ``runs`` hold.

    ``head``: which heads our scores are of; "row" is as the paper has it (Wav2CLIP's audio-visual columns under the
    heads stored after AV, everything else under the latest). Raises UserError for a folder without ``published.yaml``
    and for one that is no run folder.
    """
    published = read_published(folder)
    settings, skipped = read_settings(runs)
    for setting in settings:
        if setting.name not in published.recipes:
            skipped.append(f"{', '.join(r.path.name for r in setting.runs)}: no row of the paper is '{setting.name}'")
    sheets = []
    for table in published.tables:
        sheets.append(_sheet(published, table, False, settings, head))
        stand_in = _sheet(published, table, True, settings, head)
        if stand_in.filled:
            sheets.append(stand_in)
    return Comparison(published, head, tuple(sheets), tuple(skipped))


def _sheet(published: Published, table: PaperTable, stand_in: bool, settings: Sequence[Setting], head: Head) -> Sheet:
    names = table.stand_ins if stand_in else table.columns
    columns = {name: (published.stand_ins if stand_in else published.columns)[name] for name in names}
    lines = []
    for row, own in table.rows.items():
        named = [s for s in settings if s.name == own.recipe]
        found = [(s, _cells(table, columns, row, s, head)) for s in named]
        found = [(s, cells) for s, cells in found if any(c.by_seed for c in cells.values())]
        for (setting, cells), label in zip(found, labels([s for s, _ in found]), strict=True):
            notes = differences(table, published.protocol, columns, setting, cells)
            lines.append(Line(row, label, setting, cells, tuple(notes)))
        if not found:
            lines.append(Line(row, "", None, _cells(table, columns, row, None, head)))
    transfers = []
    for transfer in table.transfers:
        group = [name for name, column in columns.items() if column.group == transfer.group]
        transfers.append((transfer, tuple(transfer_lines(transfer, group, lines)) if group else ()))
    return Sheet(table, stand_in, columns, tuple(lines), tuple((t, found) for t, found in transfers if found))


def _cells(
    table: PaperTable, columns: Mapping[str, Column], row: str, setting: Setting | None, head: Head
) -> dict[str, Cell]:
    """A line's cells by column; means of other columns come last, as these do not depend on one another."""
    cells: dict[str, Cell] = {}
    for name, column in columns.items():
        shown = column.in_place_of if column.here else (name,)
        paper = tuple(table.value(row, c) for c in shown)
        if column.mean_of:
            cells[name] = average(paper, [cells[c] for c in column.mean_of])
        else:
            cells[name] = read_cell(column, table.rows[row], paper, setting, head)
    return cells
