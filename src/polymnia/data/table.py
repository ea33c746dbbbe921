"""Tables that people write: rows of cells, each of which knows its file and line."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymnia.types import UserError


@dataclass(frozen=True)
class Row:
    """The cells of a row that are there; ``where`` names the file and the line."""

    where: str
    cells: dict[str, Any]

    def fault(self, what: str) -> UserError:
        """An error to raise, that says where."""
        return UserError(f"{self.where}: {what}")

    def word(self, key: str) -> str:
        """A text without the spaces around it; empty for an empty cell."""
        value = self.cells.get(key, "")
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self.fault(f"{key} must be a text, not {value!r}")
        return str(value).strip()

    def seconds(self, key: str, zero: bool = True) -> float | None:
        """A number of seconds, None for an empty cell; ``zero`` says whether 0 will do."""
        value = self.cells.get(key, "")
        try:
            number = None if value == "" else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if number is not None and (not math.isfinite(number) or number < 0 or (number == 0 and not zero)):
            raise self.fault(f"{key} must be a number of seconds, not {value!r}")
        return number


Check = Callable[[Row, Sequence[str]], None]


def read(table: Path, check: Check) -> list[Row]:
    """The rows of a ``.csv`` (UTF-8, commas, a header) or a ``.jsonl`` (one object a line; null is an empty cell).

    ``check`` sees the names of the columns (of a ``.jsonl``: of every line). Raises UserError, naming file and line.
    """
    raw = table.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{table}, line {line}: not UTF-8 ({error.reason}); save the table as UTF-8") from error
    readers = {".csv": _csv, ".jsonl": _jsonl}
    if table.suffix.lower() not in readers:
        raise UserError(f"{table}: the name of a manifest ends in {' or '.join(readers)}")
    return list(readers[table.suffix.lower()](table, text, check))


def _csv(table: Path, text: str, check: Check) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            row = Row(f"{table}, line {reader.line_num}", {})
            if not columns:
                columns = [name.strip() for name in cells]
                check(row, columns)
            elif cells:  # a blank line is no row
                if len(cells) != len(columns):
                    raise row.fault(f"{len(cells)} cells for {len(columns)} columns; quote a text that has commas")
                yield Row(row.where, dict(zip(columns, cells, strict=True)))
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: {error}") from error


def _jsonl(table: Path, text: str, check: Check) -> Iterator[Row]:
    # not splitlines: a JSON string may hold the line separators of Unicode as they are
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = Row(f"{table}, line {number}", {})
        try:
            cells = json.loads(line)
        except json.JSONDecodeError as error:
            raise row.fault(f"malformed JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(cells, dict):
            raise row.fault("a line must be one JSON object, {...}")
        check(row, list(cells))
        yield Row(row.where, {key: value for key, value in cells.items() if value is not None})
