"""The nearest rows of one encoder's space, and hits of several spaces in one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from polymnia.index.about import Tuned
from polymnia.index.hit import SHOWN, Hit

MORE = 4  # times as many rows and probes, where too few items were among those found
ROWS_PER_HIT = 2  # at first; a long recording has many windows


@dataclass(frozen=True, slots=True)
class Found:
    """A row and how near it is."""

    score: float
    cosine: float
    row: dict[str, Any]


def nearest(
    table: Any,
    queries: Float[np.ndarray, "q d"],
    k: int,
    where: str | None,
    tuned: Tuned | None,
    per_item: bool,
    columns: Sequence[str] = SHOWN,
) -> list[list[Found]]:
    """Of each query the ``k`` nearest rows, best first; ``per_item``: the best row of each of ``k`` items.

    ``tuned`` None: every row is compared. ``columns``: what is wanted of each row, at least its key and id.
    """
    ask, out = list(range(len(queries))), [[] for _ in queries]
    rows = k * ROWS_PER_HIT if per_item else k
    while ask:
        found = _rows(table, queries[ask], rows, where, tuned, columns)
        short = []
        missed = tuned is not None and tuned.probes < tuned.partitions
        for at, got in zip(ask, found, strict=True):
            out[at] = _items(got)[:k] if per_item else got[:k]
            if len(out[at]) < k and (len(got) >= rows or missed):
                short.append(at)
        ask, rows = short, rows * MORE
        if tuned is not None:
            tuned = replace(tuned, probes=min(tuned.partitions, tuned.probes * MORE))
    return out


def approximate(table: Any, tuned: Tuned | None, exact_below: int, sql: str | None) -> Tuned | None:
    """How to search the rows that pass; None where each is compared: there is no index, or few rows pass.

    Where a share of the rows passes, so much more of the index is looked into: a query of one modality lies far from
    the rows of another, and its nearest partitions may hold none that pass.
    """
    if tuned is None or tuned.kind == "exact":
        return None
    if sql is None:
        return tuned
    passing = table.count_rows(sql)
    if passing <= exact_below:
        return None
    probes = ceil(tuned.probes * table.count_rows() / passing)
    return replace(tuned, probes=min(tuned.partitions, probes))


def _rows(
    table: Any,
    queries: Float[np.ndarray, "q d"],
    k: int,
    where: str | None,
    tuned: Tuned | None,
    columns: Sequence[str],
) -> list[list[Found]]:
    ask = table.search(queries if len(queries) > 1 else queries[0], vector_column_name="vector")
    ask = ask.distance_type("dot").select([*columns, "_distance"]).limit(k)
    if where:
        ask = ask.where(where)
    if tuned is None:
        ask = ask.bypass_vector_index()
    else:
        ask = ask.nprobes(tuned.probes)
        ask = ask.refine_factor(tuned.refine) if tuned.refine else ask
    return _split(ask.to_arrow(), len(queries), columns)


def _split(found: pa.Table, queries: int, columns: Sequence[str]) -> list[list[Found]]:
    out: list[list[Found]] = [[] for _ in range(queries)]
    numbers = found["query_index"].to_pylist() if queries > 1 else [0] * found.num_rows
    cosines = np.clip(1 - found["_distance"].to_numpy(), -1, 1).tolist()  # Lance's distance is 1 - q.x
    rows = found.select(list(columns)).to_pylist()
    for number, cosine, row in zip(numbers, cosines, rows, strict=True):
        out[number].append(Found(cosine, cosine, row))
    return [sorted(found, key=_order) for found in out]


def _order(found: Found) -> tuple[float, str]:
    return -found.score, found.row["key"]


def _items(found: Sequence[Found]) -> list[Found]:
    best: dict[str, Found] = {}
    for one in found:
        best.setdefault(one.row["id"], one)
    return list(best.values())


def merged(found: Sequence[Sequence[Found]], k: int, per_item: bool) -> list[Hit]:
    """Hits of several spaces for one query, by score; equal scores by key."""
    joined = sorted((one for space in found for one in space), key=_order)
    joined = _items(joined)[:k] if per_item else joined[:k]
    return [Hit(rank, f.score, f.cosine, **f.row) for rank, f in enumerate(joined, start=1)]
