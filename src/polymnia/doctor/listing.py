"""The manifest that a check of a data set leaves: a line a medium, written whole or not at all, and resumable."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from polymnia.data.disk import sync_folder
from polymnia.doctor.clips import Clip
from polymnia.types import Item, Modality, UserError

COLUMNS = ("id", "split", "modality", "path", "bytes", "seconds", "blake2b", "status", "reason", "changed")
STATUSES = ("ok", "short", "missing", "unreadable")
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}  # names may be no UTF-8
FLUSHED = 64  # lines after which the journal is on disk


class Listing:
    """A manifest being written: ``add`` a line a medium."""

    def __init__(self, file: IO[str], journal: IO[str]):
        self._file, self._journal_file = csv.writer(file, lineterminator="\n"), journal
        self._journal, self._news = csv.writer(journal, lineterminator="\n"), 0
        self._file.writerow(COLUMNS)

    def add(self, item: Item, modality: Modality, clip: Clip, new: bool) -> None:
        """A line. ``new``: it was found out now, and is remembered if the process dies."""
        seconds = "" if clip.seconds is None else f"{clip.seconds:.3f}"
        row = (item.id, item.split, modality, clip.place, clip.bytes, seconds, clip.blake2b, clip.status, clip.reason)
        self._file.writerow((*row, clip.changed))
        if new:
            self._journal.writerow((*row, clip.changed))
            self._news += 1
            if self._news % FLUSHED == 0:
                self._journal_file.flush()


@contextmanager
def writing(path: Path) -> Iterator[Listing]:
    """A manifest that appears at ``path`` once it is complete; until then, what was found out is in a journal beside.

    Raises UserError for a place that cannot be written to.
    """
    part, journal = path.with_name(f".{path.name}.{os.getpid()}.tmp"), journal_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", **TEXT) as file, journal.open("a", **TEXT) as news:
            yield Listing(file, news)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
        journal.unlink()
    except OSError as error:
        raise UserError(f"cannot write the manifest {path}: {error}; give --out another place") from error
    finally:
        with suppress(OSError):
            part.unlink()


def journal_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")


def known(path: Path) -> dict[tuple[str, str], Clip]:
    """What an earlier manifest, and the journal of one that was not finished, say: by modality and place."""
    found: dict[tuple[str, str], Clip] = {}
    for source in (path, journal_of(path)):
        if source.is_file():
            with source.open(**TEXT) as file:
                for row in csv.reader(line.replace("\0", "") for line in file):
                    if clip := _clip(row):
                        found[row[2], clip.place] = clip
    return found


def _clip(row: Sequence[str]) -> Clip | None:
    """The clip of a line; None for a head, or a line that was cut off when its writer died."""
    if len(row) != len(COLUMNS) or row[7] not in STATUSES or not row[3]:
        return None
    try:
        seconds = float(row[5]) if row[5] else None
        return Clip(row[3], int(row[4]), seconds, row[6], row[7], row[8], int(row[9]))  # type: ignore[arg-type]
    except ValueError:
        return None
