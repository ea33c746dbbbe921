"""The 527 classes of AudioSet, which the published audio taggers end in."""

from __future__ import annotations

import csv
from pathlib import Path

from polymnia.types import UserError

CLASSES = 527


def class_names(path: Path) -> tuple[str, ...]:
    """The column display_name of AudioSet's label file; empty if there is none. Raises UserError for another file."""
    if not path.is_file():
        return ()
    with path.open(newline="", encoding="utf-8") as file:
        names = tuple(row.get("display_name") or "" for row in csv.DictReader(file))
    if len(names) != CLASSES or not all(names):
        raise UserError(f"{path} must have {CLASSES} rows with a display_name; it has {sum(map(bool, names))}")
    return names
