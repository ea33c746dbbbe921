"""The words of a sheet, before they become Markdown or a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from polymnia.report import words
from polymnia.report.collect import Estimate
from polymnia.report.papers.cells import Cell
from polymnia.report.papers.sheets import Sheet


def digits(value: float | None, *, signed: bool = False) -> str:
    """Two decimals, as the paper prints them."""
    if value is None:
        return words.DASH
    value = round(value, 2) + 0.0  # never "-0.00"
    sign = "+" if signed and value > 0 else ""
    return sign + f"{value:.2f}".replace("-", words.MINUS)


def spread(value: Estimate | None, *, interval: bool = True, signed: bool = False) -> str:
    """Mean ± deviation [95 % interval]; the bare value of one seed."""
    if value is None:
        return words.DASH
    out = digits(value.mean, signed=signed)
    if value.sd is None or value.low is None or value.high is None:
        return out
    ends = f" [{digits(value.low, signed=signed)}, {digits(value.high, signed=signed)}]" if interval else ""
    return f"{out} ± {digits(value.sd)}{ends}"


def papers(sheet: Sheet) -> str:
    """What a line of the paper's numbers is called."""
    return "paper, on its own data" if sheet.stand_in else "paper"


def rows(sheet: Sheet, *, brief: bool = False) -> Iterator[list[str]]:
    """The finished cells of a sheet: row, what, and a word a column. ``brief``: no intervals, no N that is whole."""
    before = ""
    for line in sheet.lines:
        cells = list(line.cells.values())
        if line.row != before:
            yield [line.row, papers(sheet), *(" / ".join(map(digits, c.paper)) or words.DASH for c in cells)]
        before = line.row
        if line.setting is None:
            yield [line.row, "ours", *(words.DASH for _ in cells)]
            continue
        who = ", ".join(filter(None, ("ours", line.label, words.seeds(line.setting.seeds))))
        yield [line.row, who, *(spread(c.ours, interval=not brief) for c in cells)]
        if not sheet.stand_in:
            yield [line.row, "ours \N{MINUS SIGN} paper", *(digits(c.difference, signed=True) for c in cells)]
        if not brief or any(c.n != c.official for c in cells if c.n is not None):
            yield [line.row, "N", *map(_count, cells)]


def _count(found: Cell) -> str:
    if found.n is None:
        return ""
    if found.official is None and found.clips.startswith(f"{found.n} of "):
        return found.clips
    return f"{found.n:,}" + (f" of {found.official:,}" if found.official is not None else "")


def heading(sheet: Sheet, name: str) -> str:
    """A column's head; that of a stand-in says what it is of and what it stands in for."""
    column = sheet.columns[name]
    if not column.here:
        return name
    sizes = {line.cells[name].n for line in sheet.lines} - {None}
    of = f", {next(iter(sizes)):,} {column.unit}" if len(sizes) == 1 else ""
    place = f"in place of {words.listed(column.in_place_of)}" if column.in_place_of else "not in the paper"
    return f"{name} (here: {column.here}{of}; {place})"


def transfer_rows(sheet: Sheet, *, brief: bool = False) -> Iterator[tuple[str, list[str], list[list[str]], list[str]]]:
    """Of each transfer: what it is, the header, the finished cells, and what could not be paired."""
    for transfer, lines in sheet.transfers:
        body = []
        for line in lines:
            what = f"{line.method} \N{MINUS SIGN} {line.minus}"
            gains = list(line.cells.values())
            paper = [" / ".join(digits(v, signed=True) for v in g.paper) or words.DASH for g in gains]
            body.append([what, papers(sheet), *paper])
            body.append([what, "ours", *(spread(g.ours, interval=not brief, signed=True) for g in gains)])
        lacking = [line.note for line in lines if line.note]
        yield f"{transfer.name}: {transfer.words}", ["", "", *lines[0].cells], body, lacking


def notes(sheet: Sheet) -> list[str]:
    """What differs in protocol, with the lines of which it is true; then what is to be known of columns."""
    whole = {line.name for line in sheet.lines if line.setting}
    out = [
        f"{'all of ours' if set(who) == whole and len(who) > 1 else ', '.join(who)}: {note}"
        for note, who in sheet.notes().items()
    ]
    return out + [f"{name}: {column.note}" for name, column in sheet.columns.items() if column.note]
