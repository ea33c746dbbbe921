"""Vectors of jobs to rows of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from polymnia.index.schema import WHOLE, key, schema
from polymnia.runs.embedding.decode import Piece
from polymnia.runs.embedding.job import Job
from polymnia.runs.embedding.plans import shown
from polymnia.runs.embedding.windows import pooled


@dataclass
class Made:
    """The vectors of a job as they come: ``places`` says what each window is of (start, end, words); ``words``: of a
    text, how it begins."""

    job: Job
    duration: float | None
    words: str | None = None
    places: list[tuple[float | None, float | None, str | None]] = field(default_factory=list)
    vectors: list[Float32[np.ndarray, " d"] | None] = field(default_factory=list)

    def expect(self, piece: Piece) -> int:
        """Make room for the vector of a piece: its number."""
        words = shown(piece.medium) if isinstance(piece.medium, str) else None
        self.places.append((piece.start, piece.end, words))
        self.vectors.append(None)
        return len(self.vectors) - 1

    def put(self, number: int, vector: Float32[np.ndarray, " d"]) -> None:
        self.vectors[number] = vector

    @property
    def finite(self) -> bool:
        return all(vector is not None and bool(np.isfinite(vector).all()) for vector in self.vectors)


def table(made: Sequence[Made], signature: str, dim: int) -> pa.Table:
    """The rows of jobs: of each the whole, then its windows where it has several."""
    columns: dict[str, list[object]] = {name: [] for name in schema(dim).names if name != "vector"}
    vectors: list[Float32[np.ndarray, " d"]] = []
    for one in made:
        for window, (start, end, words), vector in _rows(one):
            vectors.append(vector)
            row = _row(one, window, start, end, words) | {"encoder": signature, "made": "embedded", "doubt": None}
            for name, column in columns.items():
                column.append(row[name])
    wanted = schema(dim)
    arrays = [pa.array(columns[f.name], f.type) for f in wanted if f.name != "vector"]
    flat = np.concatenate(vectors) if vectors else np.zeros(0, np.float32)
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), type=wanted.field("vector").type))
    return pa.Table.from_arrays(arrays, schema=wanted)


def _rows(one: Made) -> list[tuple[int, tuple[float | None, float | None, str | None], Float32[np.ndarray, " d"]]]:
    vectors = np.stack(one.vectors)  # type: ignore[arg-type]
    if len(vectors) == 1:
        return [(WHOLE, one.places[0], vectors[0])]
    whole = (one.places[0][0], one.places[-1][1], one.words or one.places[0][2])
    windows = enumerate(zip(one.places, vectors, strict=True))
    return [(WHOLE, whole, pooled(vectors)), *((number, place, vector) for number, (place, vector) in windows)]


def _row(one: Made, window: int, start: float | None, end: float | None, words: str | None) -> dict[str, object]:
    job = one.job
    return {
        "key": key(job.id, job.modality, window),
        "id": job.id,
        "modality": job.modality,
        "root": job.root,
        "source": job.name,
        "entry": job.entry,
        "window": window,
        "start": start,
        "end": end,
        "duration": one.duration,
        "caption": words or job.caption,
        "topic": job.topic,
        "task": job.task,
        "bytes": job.bytes,
        "changed": job.changed,
    }


def told(job: Job) -> dict[str, object]:
    """What may change in the rows of a job while its vectors stay: see ``Stamp.said``."""
    caption = {} if job.modality == "text" else {"caption": job.caption}
    return {"root": job.root, "topic": job.topic, "task": job.task, **caption}
