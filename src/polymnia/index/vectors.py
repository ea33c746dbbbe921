"""Folders of vectors: Parquet files that are each whole or not there, and ``vectors.json``, which says what they are.

    vectors.json         the encoder's card, what was embedded, windows, counts, failures; ``complete`` when all is in
    part-00000.parquet   rows in the columns of ``schema``; all rows of one item and modality are in one part
    lock                 held while a process writes

Parts are read in the order of their numbers, which may have gaps. A part's metadata name its encoder, and hold a stamp
for each item and modality in it: what was embedded, so that it is not embedded again while that stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polymnia.data.disk import read_json, replacing, write_text
from polymnia.index.schema import FORMAT, EncoderCard, schema
from polymnia.types import UserError

ABOUT = "vectors.json"
LOCK = "lock"
ROWS = 4096  # in a batch and in a row group
LARGEST = 64 << 20  # bytes of a vectors.json, whose lists are bounded
PART = re.compile(r"part-(\d{5,9})\.parquet")


class Vectors:
    """A folder of vectors, opened: iterating gives its rows as record batches of ``schema(card.dim)``.

    ``card`` is the encoder's; ``about`` all that ``vectors.json`` says; ``complete``: whether the last `embed` into it
    came to its end. Raises UserError for a folder that is none, is damaged, or was written by a later version; so does
    iterating.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.about = read_about(folder)
        self.card = EncoderCard.from_json(json.dumps(self.about.get("card")), str(folder / ABOUT))
        self.complete = self.about.get("complete") is True

    @property
    def parts(self) -> list[Path]:
        """The files, in order."""
        return list(parts(self.folder).values())

    @property
    def rows(self) -> int:
        """How many rows there are, from the headers of the files."""
        return sum(_count(part) for part in self.parts)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for part in self.parts:
            yield from read_part(part, self.card)


def read_vectors(folder: Path) -> Vectors:
    """The vectors in a folder, and the card of their encoder; raises UserError as ``Vectors`` does."""
    return Vectors(folder)


def read_about(folder: Path) -> dict[str, Any]:
    """What ``vectors.json`` says. Raises UserError where it is missing, damaged or of a later version."""
    path = folder / ABOUT
    if not path.is_file():
        raise UserError(f"{folder} holds no vectors: it has no {ABOUT}; `polymnia embed RUN SOURCE --out {folder}`")
    about = read_json(path) if path.stat().st_size <= LARGEST else {}
    if not isinstance(about.get("format"), int):
        raise UserError(f"{path} is damaged; embed into another folder")
    if about["format"] > FORMAT:
        raise UserError(
            f"{path} is of format {about['format']}, this version reads {FORMAT}: install a newer polymnia"
        )
    return about


def write_about(folder: Path, card: EncoderCard, **about: Any) -> None:
    """Write ``vectors.json`` in one step; ``about`` is plain data."""
    said = {"format": FORMAT, "card": json.loads(card.to_json()), **about}
    write_text(folder / ABOUT, json.dumps(said, indent=1, ensure_ascii=False) + "\n")


def parts(folder: Path) -> dict[int, Path]:
    """The parts by their numbers, ascending."""
    found = {int(m[1]): p for p in folder.iterdir() if (m := PART.fullmatch(p.name))}
    return dict(sorted(found.items()))


def part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.parquet"


def write_part(path: Path, rows: pa.Table, stamps: Mapping[str, str], card: EncoderCard) -> None:
    """Write a part in one step. ``rows`` are of ``schema(card.dim)``, ``stamps`` by ``key`` of the whole."""
    told = {"polymnia": json.dumps({"format": FORMAT, "encoder": card.signature, "stamps": dict(stamps)})}
    with replacing(path) as draft:
        pq.write_table(rows.replace_schema_metadata(told), draft, compression="zstd", row_group_size=ROWS)


def read_part(path: Path, card: EncoderCard) -> Iterator[pa.RecordBatch]:
    """The rows of a part. Raises UserError for one that is damaged, or not of this encoder."""
    with _opened(path) as file:
        found, wanted = file.schema_arrow.remove_metadata(), schema(card.dim)
        if not found.equals(wanted):
            raise UserError(f"{path}: its columns are not those of vectors of {card.dim} numbers; embed again")
        if _told(file, path).get("encoder") != card.signature:
            raise UserError(f"{path} is of another encoder than {path.parent / ABOUT}; embed into another folder")
        for batch in file.iter_batches(ROWS):
            yield batch.replace_schema_metadata(None).cast(wanted)  # Parquet calls the numbers of a list otherwise


def read_stamps(path: Path) -> dict[str, str]:
    """The stamps of what is in a part. Raises UserError for one that is damaged."""
    with _opened(path) as file:
        stamps = _told(file, path).get("stamps")
    if not isinstance(stamps, dict) or not all(isinstance(stamp, str) for stamp in stamps.values()):
        raise UserError(f"{path} has no stamps; delete it, and run the same `polymnia embed` again")
    return stamps


def _count(path: Path) -> int:
    with _opened(path) as file:
        return file.metadata.num_rows


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, and run the same `polymnia embed` again") from error


def _told(file: pq.ParquetFile, path: Path) -> dict[str, Any]:
    try:
        told = json.loads((file.schema_arrow.metadata or {})[b"polymnia"])
        later = told["format"] > FORMAT
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} was not written by `polymnia embed`; move it out of this folder") from error
    if later:
        raise UserError(f"{path} is of format {told['format']}, this version reads {FORMAT}: install a newer polymnia")
    return told
