"""What approximate search is measured against: rows of the collection as queries, and their true nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float

from polymnia.index.about import About
from polymnia.index.find import Found
from polymnia.index.rows import sample, vectors
from polymnia.index.where import column, every, quoted
from polymnia.types import MODALITIES, Modality

NEAREST = 10
QUERIES = 64  # of a modality
NEAR = 1e-5  # cosines that close are equal: of copies, any is right
BATCH = 4096
Queries = Mapping[str, Mapping[Modality, Float[np.ndarray, "_ d"]]]  # by signature of the encoder, and modality


@dataclass(frozen=True)
class Probe:
    """Queries of one modality against rows of one (or all): ``name`` is "text>audio" or "text>all".

    ``keys``: of the rows that are the queries, which are no answers ("" for queries that are no rows). ``tenth``: the
    cosine that an answer must have.
    """

    name: str
    sql: str | None
    gallery: Modality | None
    queries: Float[np.ndarray, "q d"]
    keys: tuple[str, ...]
    tenth: Float[np.ndarray, " q"]


def probes(table: Any, about: About, given: Queries) -> list[Probe]:
    """For each encoder that has more rows than are searched exactly: all pairs of modalities. Reads every row once."""
    out: list[Probe] = []
    several = sum(table.count_rows(f"{column('encoder')} = {quoted(s)}") > 0 for s in about.cards) > 1
    for signature in about.cards:
        own = f"{column('encoder')} = {quoted(signature)}"
        counts = {m: table.count_rows(every(own, _of(m))) for m in MODALITIES}
        if sum(counts.values()) > about.settings.exact_below:
            shown = own if several else None
            asked = _asked(table, own, counts, given.get(signature, {}))
            out += _answered(table, own, _pairs(about, counts, shown, asked))
    return out


def recall(probe: Probe, found: Sequence[Sequence[Found]]) -> tuple[float, float]:
    """The share of the true ten that were found, and its standard error."""
    shares = []
    for key, tenth, hits in zip(probe.keys, probe.tenth, found, strict=True):
        answers = [h.cosine for h in hits if h.row["key"] != key][:NEAREST]
        shares.append(sum(a >= tenth - NEAR for a in answers) / NEAREST)
    return round(float(np.mean(shares)), 4), float(np.std(shares) / np.sqrt(len(shares)))


def _asked(
    table: Any, own: str, counts: Mapping[Modality, int], given: Mapping[Modality, np.ndarray]
) -> dict[Modality, tuple[np.ndarray, tuple[str, ...]]]:
    """Queries of each modality, and the keys of those that are rows."""
    asked = {m: (v[:QUERIES], ("",) * min(QUERIES, len(v))) for m, v in given.items() if len(v)}
    for m in (m for m, n in counts.items() if n):
        rows = sample(table, every(own, _of(m)), QUERIES)
        asked[m] = vectors(rows), tuple(rows["key"].to_pylist())
    return asked


def _pairs(
    about: About, counts: Mapping[Modality, int], shown: str | None, asked: Mapping[Modality, tuple[np.ndarray, tuple]]
) -> list[Probe]:
    large: list[Modality | None] = [m for m, n in counts.items() if n > about.settings.exact_below]
    several = sum(n > 0 for n in counts.values()) > 1
    return [
        Probe(
            name=f"{m}>{gallery or 'all'}",
            sql=every(shown, _of(gallery) if gallery else None),
            gallery=gallery,
            queries=queries,
            keys=keys,
            tenth=np.full(len(queries), -1.0),  # until there are answers
        )
        for (m, (queries, keys)), gallery in product(asked.items(), [None, *(large if several else [])])
    ]


def _answered(table: Any, own: str, asked: list[Probe]) -> list[Probe]:
    """The probes with their answers, from one pass over the rows."""
    best = [np.full((len(p.queries), NEAREST), -1.0, dtype=np.float32) for p in asked]
    for batch in table.search().where(own).select(["key", "modality", "vector"]).to_batches(BATCH):
        rows = vectors(batch)
        for at, probe in enumerate(asked):
            cosines = probe.queries @ rows.T
            for q, place in enumerate(pc.index_in(probe.keys, batch.column("key")).to_pylist()):
                if place is not None:
                    cosines[q, place] = -1
            if probe.gallery:
                cosines[:, ~pc.equal(batch.column("modality"), probe.gallery).to_numpy(zero_copy_only=False)] = -1
            joined = np.concatenate([best[at], cosines], axis=1)
            best[at] = -np.partition(-joined, NEAREST - 1, axis=1)[:, :NEAREST]
    return [replace(p, tenth=b.min(axis=1)) for p, b in zip(asked, best, strict=True)]


def _of(modality: Modality) -> str:
    return f"{column('modality')} = {quoted(modality)}"
