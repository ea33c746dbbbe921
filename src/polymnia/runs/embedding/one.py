"""The rows of a single item, embedded at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa

from polymnia.data.ahead import stream_ahead
from polymnia.data.faults import MediaError
from polymnia.runs.embedding.batches import Batches
from polymnia.runs.embedding.decode import Reader
from polymnia.runs.embedding.job import Job
from polymnia.runs.embedding.rows import Made, table
from polymnia.runs.embedding.windows import Windows, make_windows
from polymnia.runs.encoder import Encoder


def embed_one(encoder: Encoder, job: Job, windows: Windows | None = None) -> pa.Table:
    """The rows of ``schema(encoder.dim)`` that `embed` writes for this sound or picture. MediaError if it cannot."""
    read = Reader(encoder.model.specs, windows or make_windows(encoder))(job)
    place = getattr(job.source, "path", Path(job.id))
    if read.problem or read.lacks:
        raise MediaError(place, read.problem or f"holds no {job.modality}")
    made, batches = Made(job, read.duration), Batches(encoder)
    for piece in iter(read.pieces) if read.stream is None else stream_ahead(read.stream):
        batches.add(job.modality, piece.medium, partial(made.put, made.expect(piece)))
    batches.flush()
    if not made.finite:
        raise MediaError(place, "its vector holds values that are not finite")
    return table([made], encoder.signature, encoder.dim)
