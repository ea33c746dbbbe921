"""Upgraded rows embedded again from their media, those first that matter most, within a budget.

What matters: the predicted error of a row times one more than how often its item was a hit. Every few items are
committed, so that a kill loses little and the same command goes on with what is left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from polymnia.data.container import is_container
from polymnia.data.faults import MediaError
from polymnia.data.names import unescape
from polymnia.index import popularity
from polymnia.index.rows import sample
from polymnia.index.schema import WHOLE, EncoderCard, schema
from polymnia.index.store import Index
from polymnia.index.where import to_sql
from polymnia.runs.embedding.plans import SHOWN
from polymnia.runs.embedding.windows import pooled
from polymnia.runs.encoder import Encoder
from polymnia.types import AudioFile, ImageFile, VideoFile

SAMPLE = 9  # media that say how long all would take
COMMIT = 32  # items embedded between two commits


@dataclass
class Again:
    """Items embedded again; ``left``: items whose rows are still mapped; ``failed``: why some could not be."""

    items: int = 0
    left: int = 0
    took: float = 0.0
    failed: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Budget:
    """At most so many items, or so many seconds; None: no bound."""

    items: int | None = None
    seconds: float | None = None

    def spent(self, items: int, seconds: float) -> bool:
        return (self.items is not None and items >= self.items) or (
            self.seconds is not None and seconds >= self.seconds
        )


def embed_again(index: Index, encoder: Encoder, card: EncoderCard, budget: Budget) -> Again:
    """Embed upgraded items of ``card``'s space again, the most important first. Broken or missing media are listed."""
    done, began = Again(), time.perf_counter()
    queue = ranked(index, card)
    for first in range(0, len(queue), COMMIT):
        some = queue[first : first + COMMIT]
        there = _rows(index, some)
        made: list[dict[str, Any]] = []
        for n, at in enumerate(some, start=first):
            if budget.spent(done.items, time.perf_counter() - began):
                done.left = len(queue) - n
                break
            try:
                made += list(_anew(there.get(at, ()), encoder, card))  # all of an item's rows, or none
                done.items += 1
            except MediaError as error:
                done.failed.append((at[0], error.reason))
        if made:
            index.add([pa.RecordBatch.from_pylist(made, schema=schema(card.dim))], card)
        if done.left:
            break
    done.left += len(done.failed)
    done.took = time.perf_counter() - began
    return done


def _rows(index: Index, items: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows of some items and modalities, read at once."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in index.get(ids={item for item, _ in items}).to_pylist():
        found.setdefault((row["id"], row["modality"]), []).append(row)
    return found


def seconds_again(index: Index, encoder: Encoder) -> float | None:
    """How long embedding all media of the index again would take, from a few of them; None where none can be read."""
    where = "modality != 'text'"
    long = index.count(f"{where} AND window = 1")  # items of several windows: their whole is no pass of its own
    total = index.count(where) - long
    keys = sample(index.table, to_sql(where), SAMPLE)["key"].to_pylist()
    took = []
    for row in index.get(keys=keys).to_pylist() if keys else []:
        began = time.perf_counter()
        with suppress(MediaError):
            _vectors([row], encoder)
            took.append(time.perf_counter() - began)
    return total * median(took) if took else None


def ranked(index: Index, card: EncoderCard) -> list[tuple[str, str]]:
    """Items and modalities that were only mapped, by doubt x (1 + hits), the largest first."""
    where = f"made = 'upgraded' AND encoder = '{card.signature}'"
    worst: dict[tuple[str, str], float] = {}
    for batch in index.rows(["id", "modality", "doubt"], where=where, batch=65_536):
        for row in batch.to_pylist():
            at = (row["id"], row["modality"])
            worst[at] = max(worst.get(at, 0.0), row["doubt"] or 0.0)
    hits = popularity.counts(index.uri, {item for item, _ in worst})
    return sorted(worst, key=lambda at: (-worst[at] * (1 + hits.get(at[0], 0)), at))


def _anew(rows: Sequence[dict[str, Any]], encoder: Encoder, card: EncoderCard) -> Iterator[dict[str, Any]]:
    """The rows of one item in one modality with vectors made now; the whole of several windows is their mean again."""
    windows = [r for r in rows if r["window"] != WHOLE]
    made = _vectors(windows, encoder) if windows else None
    if made is not None:
        yield from (_told(row, vector, card) for row, vector in zip(windows, made, strict=True))
    for row in (r for r in rows if r["window"] == WHOLE):
        yield _told(row, _vectors([row], encoder)[0] if made is None else pooled(made), card)


def _told(row: dict[str, Any], vector: Float32[np.ndarray, " d"], card: EncoderCard) -> dict[str, Any]:
    return row | {"vector": vector.tolist(), "encoder": card.signature, "made": "embedded", "doubt": None}


def _vectors(rows: Sequence[dict[str, Any]], encoder: Encoder) -> Float32[np.ndarray, "n d"]:
    """Vectors of rows of one modality, in one call."""
    if rows[0]["modality"] == "text":
        return encoder.encode_text([_words(r) for r in rows])
    sources = [_source(r) for r in rows]
    return encoder.encode_audio(sources) if rows[0]["modality"] == "audio" else encoder.encode_image(sources)


def _source(row: Mapping[str, Any]) -> Any:
    path = media_path(row)
    stat = _stat(path)
    if (row["bytes"], row["changed"]) != (stat.st_size, stat.st_mtime_ns):
        raise MediaError(path, "was changed since it was embedded: run `polymnia embed` and `index add` on it")
    start, end = row["start"] or 0.0, row["end"]
    seconds = None if end is None else end - start
    if row["modality"] == "audio":
        return AudioFile(path, start, seconds)
    return VideoFile(path, start, seconds) if is_container(path) else ImageFile(path, row["entry"])


def _words(row: Mapping[str, Any]) -> str:
    words = row["caption"] or ""
    if not words.strip() or len(words) >= SHOWN:
        raise MediaError(Path(row["source"] or row["id"]), "only the beginning of this text is in the index")
    return words


def media_path(row: Mapping[str, Any]) -> Path:
    """The file that a row is of."""
    if row["root"] is None or row["source"] is None:
        raise MediaError(Path(row["id"]), "the index does not know where its file is")
    return Path(os.fsdecode(unescape(row["root"]))) / os.fsdecode(unescape(row["source"]))


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise MediaError(path, error.strerror or str(error)) from error
