"""Cosines of several encoders made comparable: how far a hit lies above what its query has with rows in general.

A cosine of 0.4 is much in one space and little in another. For each query, encoder and modality of the rows found, the
mean and the deviation of the cosines with a sample of that encoder's rows are taken, and the score is how many
deviations a hit is above the mean: test normalisation, as in speaker verification (Auckenthaler, Carey and
Lloyd-Thomas, "Score normalization for text-independent speaker verification systems", 2000). It asks for no examples
of queries, which an index of sounds has not for texts.

Of a handful of rows these are not known (of n rows none can lie more than sqrt(n - 1) deviations above their mean,
and a single one is its own mean): fewer than ``ENOUGH`` lean on what the query has with the rows of the other
encoders, the more the fewer they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from polymnia.index.find import Found
from polymnia.index.rows import sample, vectors
from polymnia.index.where import column, quoted

SAMPLE = 512  # rows of an encoder and a modality
ENOUGH = 16  # of which a mean and a deviation are known by themselves
LEAST = 1e-3  # deviation: of rows that are all alike
Kind = tuple[str, str]  # an encoder's signature, and a modality


class Samples:
    """Vectors of some rows of each encoder and modality, read once a version of the table."""

    def __init__(self) -> None:
        self._version, self._kept = -1, dict[Kind, Float32[np.ndarray, "n d"]]()

    def of(self, table: Any, kind: Kind) -> Float32[np.ndarray, "n d"]:
        """At most ``SAMPLE`` of them, spread evenly."""
        if int(table.version) != self._version:
            self._version, self._kept = int(table.version), {}
        if kind not in self._kept:
            own = f"{column('encoder')} = {quoted(kind[0])} AND {column('modality')} = {quoted(kind[1])}"
            self._kept[kind] = np.array(vectors(sample(table, own, SAMPLE)))
        return self._kept[kind]


@dataclass(frozen=True)
class Level:
    """Of each query: the mean of its cosines with ``rows`` rows, and of their squares."""

    rows: int
    mean: Float[np.ndarray, " q"]
    square: Float[np.ndarray, " q"]

    @classmethod
    def of(cls, cosines: Float[np.ndarray, "q n"]) -> Level:
        wide = cosines.astype(np.float64)
        return cls(wide.shape[1], wide.mean(axis=1), (wide**2).mean(axis=1))

    @property
    def deviation(self) -> Float[np.ndarray, " q"]:
        return np.maximum(np.sqrt(np.maximum(self.square - self.mean**2, 0)), LEAST)

    def leaning(self, others: Sequence[Level]) -> Level:
        """This one, as far as its rows are enough, and for the rest the others, each as much as it has rows."""
        total = sum(o.rows for o in others)
        own = min(1.0, (self.rows - 1) / (ENOUGH - 1)) if total else 1.0  # a single row says nothing of itself
        if own == 1.0:
            return self
        mean, square = (sum(o.rows * getattr(o, k) for o in others) / total for k in ("mean", "square"))
        return Level(self.rows, own * self.mean + (1 - own) * mean, own * self.square + (1 - own) * square)


def scored(
    table: Any,
    samples: Samples,
    queries: Mapping[str, Float[np.ndarray, "q d"]],
    spaces: Mapping[str, Sequence[Sequence[Found]]],
) -> dict[str, list[list[Found]]]:
    """The rows found in each encoder's space, with scores in deviations above the mean."""
    kinds = {(s, one.row["modality"]) for s, found in spaces.items() for hits in found for one in hits}
    levels = {kind: Level.of(queries[kind[0]] @ samples.of(table, kind).T) for kind in sorted(kinds)}
    known = {kind: level.leaning(_others(levels, kind)) for kind, level in levels.items()}
    return {
        s: [
            [replace(h, score=_above(h, q, known[s, h.row["modality"]])) for h in hits] for q, hits in enumerate(found)
        ]
        for s, found in spaces.items()
    }


def _others(levels: Mapping[Kind, Level], kind: Kind) -> list[Level]:
    """Levels of the other encoders: in the same modality, if they have it."""
    others = {k: level for k, level in levels.items() if k[0] != kind[0]}
    return [level for k, level in others.items() if k[1] == kind[1]] or list(others.values())


def _above(hit: Found, query: int, level: Level) -> float:
    return float((hit.cosine - level.mean[query]) / level.deviation[query])
