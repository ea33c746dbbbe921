"""Files as a data set publishes them: what is found is held against what its documentation says."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from polymnia.data.layout import misplaced
from polymnia.data.table import Row
from polymnia.types import AudioFile, Item, UserError

MAX_BYTES = 1 << 30  # of a table or JSON; the largest official one (WavCaps' Freesound) has about 250 MB
LATIN = ("utf-8-sig", "iso-8859-1")  # for tables that their authors saved as ISO-8859-1 and others have converted


def find_layout(root: Path, layouts: Sequence[Sequence[str]], what: str) -> int:
    """The number of the first of several layouts (the paths inside that mark it) that ``root`` has.

    Raises UserError as ``find_root`` does; a layout that a neighbouring folder has is told before what is lacking.
    """
    # one after the other: most often the first will do, and folders can be large
    for folder in chain([root], list(root.resolve().parents)[:2], root.glob("*/"), root.glob("*/*/")):
        for number, inside in enumerate(layouts):
            if all((folder / name).exists() for name in inside):
                if folder != root:
                    raise misplaced(root, inside, what)
                return number
    raise misplaced(root, layouts[0], what)


def read_text(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> str:
    """The text of a file, in the first encoding that fits. UserError if there is no such file or encoding."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES:,} bytes: that is not the official file")
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    fault = None
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            fault = fault or error
    line = raw.count(b"\n", 0, fault.start) + 1 if fault else 1
    raise UserError(f"{path}, line {line}: not UTF-8; take the official file, or save it as UTF-8") from fault


def read_json(path: Path, kind: type = dict, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value in a JSON file, which must be of ``kind``; else a UserError that says what is wrong with it.

    ``hook`` sees every object as soon as it is read, and gives what takes its place.
    """
    text = read_text(path)
    try:
        found = json.loads(text, object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: malformed JSON ({error}); fetch the file again") from error
    if not isinstance(found, kind):
        raise UserError(f"{path}: expected a JSON {kind.__name__}, found a {type(found).__name__}: another version?")
    return found


def read_rows(
    table: Path,
    columns: Sequence[str],
    delimiter: str = ",",
    encodings: Sequence[str] = ("utf-8-sig",),
    header: bool = True,
) -> Iterator[Row]:
    """The rows of an official table; columns beyond ``columns`` are ignored, a table without header has just these.

    UserError for another version (naming the columns found and expected) and, with its line, for a broken row.
    """
    reader = csv.reader(io.StringIO(read_text(table, encodings), newline=""), delimiter=delimiter, strict=True)
    names = None if header else [*columns]
    try:
        for cells in reader:
            if names is None:
                names = [name.strip() for name in cells]
                _check_columns(table, names, columns)
            elif cells:
                row = Row(f"{table}, line {reader.line_num}", {})
                if len(cells) != len(names):
                    expected = f"the {len(names)} columns {', '.join(names)}"
                    raise row.fault(f"{len(cells)} cells where {expected} are expected: {shown(delimiter, cells)}")
                row.cells.update(zip(names, cells, strict=True))
                yield row
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: {error}") from error
    if names is None:
        _check_columns(table, [], columns)


def shown(delimiter: str, cells: Sequence[str]) -> str:
    """The beginning of a line, for a message."""
    return repr(delimiter.join(cells)[:80])


def _check_columns(table: Path, found: Sequence[str], expected: Sequence[str]) -> None:
    if missing := [name for name in expected if name not in found]:
        raise UserError(
            f"{table}: no column {', '.join(missing)}; found: {', '.join(found)[:200] or 'nothing'}; expected: "
            f"{', '.join(expected)}. It may be the table of another version of the data set."
        )


def whole(row: Row, key: str) -> int:
    """A cell that holds a whole number; UserError with its line otherwise."""
    try:
        return int(row.word(key))
    except ValueError as error:
        raise row.fault(f"{key} must be a whole number, not {row.cells[key]!r}") from error


def stem(row: Row, key: str) -> str:
    """The file name in a cell, without its suffix. UserError for a path: a table must not lead out of its folder."""
    name = row.cells[key]
    if not isinstance(name, str):
        raise row.fault(f"{key} must be the name of a file, not a {type(name).__name__}")
    if not name.strip() or "/" in name or "\0" in name or name.strip() in (".", ".."):
        raise row.fault(f"{key} must be the name of a file, without folders, not {name!r}")
    return os.path.splitext(name)[0]


def require_a_clip(items: Sequence[Item], folders: Sequence[Path], what: str) -> None:
    """Raises UserError where not one recording of ``items`` exists; a run counts single missing ones."""
    recordings = [s.path for item in items for s in item.sources.values() if isinstance(s, AudioFile)]
    if recordings and not any(path.is_file() for path in recordings):
        raise UserError(
            f"{what}: none of its {len(recordings):,} recordings is there; looked in "
            f"{', '.join(map(str, folders))} (first for {recordings[0].name}). Unpack the audio there, or point "
            "data=FOLDER (or the set's root) at the folder that holds it."
        )
