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


def embed_again(index: Index, encoder: Encoder, card: EncoderCard, budget: Budget) -> Again:
    """Embed upgraded items of ``card``'s space again, the most important first. Broken or missing media are listed."""
    done, began = Again(), time.perf_counter()
    queue = ranked(index, card)
    waiting: list[dict[str, Any]] = []
    for n, (item, modality) in enumerate(queue):
        spent = (budget.items is not None and done.items >= budget.items) or (
            budget.seconds is not None and time.perf_counter() - began >= budget.seconds
        )
        if spent:
            done.left = len(queue) - n
            break
        rows = [r for r in index.get(ids=[item]).to_pylist() if r["modality"] == modality]
        try:
            waiting += _anew(rows, encoder, card)
            done.items += 1
        except MediaError as error:
            done.failed.append((item, error.reason))
        if len({r["id"] for r in waiting}) >= COMMIT:
            waiting = _commit(index, waiting, card)
    _commit(index, waiting, card)
    done.left += len(done.failed)
    done.took = time.perf_counter() - began
    return done


def seconds_again(index: Index, encoder: Encoder) -> float | None:
    """How long embedding all media of the index again would take, from a few of them; None where none can be read."""
    where = f"modality != 'text' AND window = {WHOLE}"
    total = index.count(where)
    keys = sample(index.table, to_sql(where), SAMPLE)["key"].to_pylist()
    took = []
    for row in index.get(keys=keys).to_pylist() if keys else []:
        began = time.perf_counter()
        with suppress(MediaError):
            _vector(row, encoder)
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


def _commit(index: Index, rows: Sequence[Mapping[str, Any]], card: EncoderCard) -> list[dict[str, Any]]:
    if rows:
        index.add([pa.RecordBatch.from_pylist(list(rows), schema=schema(card.dim))], card)
    return []


def _anew(rows: Sequence[dict[str, Any]], encoder: Encoder, card: EncoderCard) -> Iterator[dict[str, Any]]:
    """The rows of one item in one modality with vectors made now; the whole of several windows is their mean again."""
    windows = [r for r in rows if r["window"] != WHOLE]
    made: list[Float32[np.ndarray, " d"]] = [_vector(r, encoder) for r in windows]
    for row, vector in zip(windows, made, strict=True):
        yield _told(row, vector, card)
    for row in (r for r in rows if r["window"] == WHOLE):
        yield _told(row, pooled(np.stack(made)) if made else _vector(row, encoder), card)


def _told(row: dict[str, Any], vector: Float32[np.ndarray, " d"], card: EncoderCard) -> dict[str, Any]:
    return row | {"vector": vector.tolist(), "encoder": card.signature, "made": "embedded", "doubt": None}


def _vector(row: dict[str, Any], encoder: Encoder) -> Float32[np.ndarray, " d"]:
    if row["modality"] == "text":
        return _text(row, encoder)
    path = media_path(row)
    stat = _stat(path)
    if (row["bytes"], row["changed"]) != (stat.st_size, stat.st_mtime_ns):
        raise MediaError(path, "was changed since it was embedded: run `polymnia embed` and `index add` on it")
    start, end = row["start"] or 0.0, row["end"]
    seconds = None if end is None else end - start
    if row["modality"] == "audio":
        return encoder.encode_audio([AudioFile(path, start, seconds)])[0]
    if is_container(path):
        return encoder.encode_image([VideoFile(path, start, seconds)])[0]
    return encoder.encode_image([ImageFile(path, row["entry"])])[0]


def _text(row: dict[str, Any], encoder: Encoder) -> Float32[np.ndarray, " d"]:
    words = row["caption"] or ""
    if not words.strip() or len(words) >= SHOWN:
        raise MediaError(Path(row["source"] or row["id"]), "only the beginning of this text is in the index")
    return encoder.encode_text([words])[0]


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
