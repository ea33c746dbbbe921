"""What a search finds."""

from __future__ import annotations

from dataclasses import dataclass, fields

from polymnia.types import Modality


@dataclass(frozen=True, slots=True)
class Hit:
    """One row found; of an item's rows the best. ``rank`` counts from 1.

    ``score`` is what hits are ordered by: the ``cosine``, or, where rows of several encoders were searched, how many
    deviations the cosine lies above what this query has with that encoder's rows in general. ``start`` and ``end``
    (seconds) say which window of the file was found. ``doubt`` is that of an upgraded vector. The rest: ``schema``.
    """

    rank: int
    score: float
    cosine: float
    id: str
    key: str
    modality: Modality
    source: str | None
    root: str | None
    entry: int | None
    window: int
    start: float | None
    end: float | None
    duration: float | None
    caption: str | None
    topic: str | None
    task: str | None
    encoder: str
    made: str
    doubt: float | None


SHOWN = tuple(f.name for f in fields(Hit))[3:]  # columns of the table
