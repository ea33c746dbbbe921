"""Vectors, from a folder of ``polymnia embed`` or from an index, as files that other tools open: npy, Parquet, FAISS.

    rain.npy      float32 (n, d)                rain.parquet   all columns, and the vectors
    rain.faiss    IndexFlatIP behind an id map: the inner product of unit vectors is their cosine
    rain.ids.jsonl   with npy and FAISS: which item row n is, a JSON object a line
    rain.json        with npy and FAISS: the card of the encoder (in Parquet it is metadata, ``polymnia``)

Rows are read and written a few thousand at a time. What was written is read back, and must be what was read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32

from polymnia.data.disk import sync_folder
from polymnia.export.sinks import SINKS, Sink, numbers
from polymnia.index.reader import Reader
from polymnia.index.schema import WHOLE, EncoderCard, schema
from polymnia.index.vectors import ABOUT, read_vectors
from polymnia.types import Modality, UserError
from polymnia.version import __version__

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows: of one ``encoder`` (its signature, or how it begins), of a ``modality``, of a filter of an index.

    ``whole``: a row an item and modality, without those of windows.
    """

    encoder: str = ""
    modality: Modality | None = None
    whole: bool = False
    where: str | None = None


def export_vectors(source: str | Path, out: Path, wanted: Wanted = Wanted()) -> list[str]:
    """Write vectors into the file ``out``, in the format of its suffix; gives what was written, in words.

    ``source``: a folder of vectors, or where an index is. Raises UserError for a suffix that is none of the formats,
    a source that is neither or has no such rows, rows of several encoders, files that are there already, FAISS where
    it is not installed, and where what was written is not what was read.
    """
    kind = SINKS.get(out.suffix)
    if kind is None:
        raise UserError(f"{out} ends in none of {', '.join(SINKS)}, which say the format")
    finals = [out, *(out.with_suffix(s) for s in kind.beside)]
    for path in finals:
        if path.exists() or path.is_symlink():
            raise UserError(f"{path} is there already: give another name, or move it away")
    card, complete, batches = _opened(source, wanted)
    said = {"polymnia": __version__, "format": FORMAT, "card": asdict(card)}
    with _drafts(finals) as drafts, closing(kind(drafts[0], card.dim, said)) as sink:
        told = Digest()
        for batch in _chosen(batches, card, wanted):
            told.take(batch.column("key").to_pylist(), numbers(batch))
            sink.add(batch)
        if not sink.rows:
            raise UserError(f"{source} has no such rows: nothing was written")
        sink.finish()
        verify(sink, told, out)
    lines = [f"{out}: {sink.rows:,} vectors of {card.dim} numbers, of the encoder {card.signature}; read back"]
    if not complete:
        lines.append(f"{source} is not complete: its `polymnia embed` did not come to its end")
    return lines


class Digest:
    """What rows hold, however they are cut into batches: their keys, and their vectors to the bit."""

    def __init__(self) -> None:
        self._keys, self._vectors, self.rows = hashlib.blake2b(), hashlib.blake2b(), 0

    def take(self, keys: Sequence[str], vectors: Float32[np.ndarray, "n d"]) -> None:
        """The next rows."""
        self._keys.update("".join(json.dumps(key) for key in keys).encode())
        self._vectors.update(np.ascontiguousarray(vectors).tobytes())
        self.rows += len(keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and self._told() == other._told()

    def _told(self) -> tuple[str, str, int]:
        return self._keys.hexdigest(), self._vectors.hexdigest(), self.rows


def verify(sink: Sink, wanted: Digest, out: Path) -> None:
    """Read files back from the disk. Raises UserError where they hold other rows, or other numbers, than were read."""
    found = Digest()
    for keys, vectors in sink.again():
        found.take(keys, vectors)
    if found != wanted:
        raise UserError(f"{out} does not hold what was written into it, and was not kept: is the disk well?")


def _opened(source: str | Path, wanted: Wanted) -> tuple[EncoderCard, bool, Iterator[pa.RecordBatch]]:
    """The card of the one encoder, whether all is there, and rows that may be of others, too."""
    if (Path(source) / ABOUT).is_file():
        if wanted.where is not None:
            raise UserError(
                f"{source} is a folder of vectors: filters are for an index; --modality and --whole are not"
            )
        vectors = read_vectors(Path(source))
        return _one({vectors.card.signature: vectors.card}, wanted, source), vectors.complete, iter(vectors)
    if "://" not in str(source) and not Path(source).exists():
        raise UserError(f"{source} is not there: give a folder that `polymnia embed` wrote, or an index")
    index = Reader.open(source)
    cards = {s: card for s, card in index.cards.items() if s in index.spaces} or index.cards
    card = _one(cards, wanted, source)
    return card, True, index.rows(schema(card.dim).names, wanted.where)


def _one(cards: dict[str, EncoderCard], wanted: Wanted, source: str | Path) -> EncoderCard:
    found = [card for signature, card in cards.items() if signature.startswith(wanted.encoder)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{c.signature} ({c.run}, task {c.task})" for c in cards.values())
    if not found:
        raise UserError(f"{source} has no rows of the encoder {wanted.encoder}; it has those of {there}")
    raise UserError(f"{source} has rows of {there}, which are not comparable: say which with --encoder")


def _chosen(batches: Iterator[pa.RecordBatch], card: EncoderCard, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """The rows that are wanted, in the columns of ``schema``."""
    for batch in batches:
        keep = pc.equal(batch.column("encoder"), card.signature)
        if wanted.modality is not None:
            keep = pc.and_(keep, pc.equal(batch.column("modality"), wanted.modality))
        if wanted.whole:
            keep = pc.and_(keep, pc.equal(batch.column("window"), WHOLE))
        rows = batch.filter(keep)
        if rows.num_rows:
            yield rows.select(schema(card.dim).names).replace_schema_metadata(None).cast(schema(card.dim))


@contextmanager
def _drafts(finals: list[Path]) -> Iterator[list[Path]]:
    """Where to write files that get their names together when the block ends, the first of them last."""
    out = finals[0].resolve()
    place = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        place.mkdir(parents=True)
        drafts = [place / path.name for path in finals]
        yield drafts
        for draft, path in list(zip(drafts, finals, strict=True))[::-1]:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)
        sync_folder(out.parent)
    except OSError as error:
        raise UserError(f"{finals[0]} cannot be written ({error.strerror or error}); nothing was kept") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
