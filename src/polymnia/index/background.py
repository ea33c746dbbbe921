"""Cosines of several encoders made comparable: how far a hit lies above what its query has with rows in general.

A cosine of 0.4 is much in one space and little in another. For each query, encoder and modality of the rows found, the
mean and the deviation of the cosines with a sample of that encoder's rows are taken, and the score is how many
deviations a hit is above the mean: test normalisation, as in speaker verification (Auckenthaler, Carey and
Lloyd-Thomas, "Score normalization for text-independent speaker verification systems", 2000). It asks for no examples
of queries, which an index of sounds has not for texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from polymnia.index.find import Found
from polymnia.index.rows import sample, vectors
from polymnia.index.where import column, quoted

SAMPLE = 512  # rows of an encoder and a modality
LEAST = 1e-3  # deviation: of one row, or of rows that are all alike


def scored(
    table: Any, signature: str, queries: Float[np.ndarray, "q d"], found: Sequence[Sequence[Found]]
) -> list[list[Found]]:
    """The same rows, with scores in deviations above the mean."""
    kinds = {one.row["modality"] for hits in found for one in hits}
    levels = {}
    for kind in kinds:
        own = f"{column('encoder')} = {quoted(signature)} AND {column('modality')} = {quoted(kind)}"
        cosines = queries @ vectors(sample(table, own, SAMPLE)).T
        levels[kind] = cosines.mean(axis=1), np.maximum(cosines.std(axis=1), LEAST)
    out = []
    for q, hits in enumerate(found):
        level = {kind: (float(mean[q]), float(deviation[q])) for kind, (mean, deviation) in levels.items()}
        out.append([replace(h, score=_above(h, level)) for h in hits])
    return out


def _above(hit: Found, level: dict[str, tuple[float, float]]) -> float:
    mean, deviation = level[hit.row["modality"]]
    return (hit.cosine - mean) / deviation
