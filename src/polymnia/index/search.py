"""A search over the spaces of all encoders that an index holds rows of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from polymnia.index import background, find
from polymnia.index.about import About
from polymnia.index.hit import Hit
from polymnia.index.where import among, column, every, quoted, to_sql
from polymnia.types import MODALITIES, Modality, UserError


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked beside the queries: see ``Index.search``. Raises UserError for what cannot be."""

    k: int
    modality: Modality | None
    where: str | None
    exact: bool
    per_item: bool
    without: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k is {self.k}; ask for at least one hit")
        if self.modality is not None and self.modality not in MODALITIES:
            raise UserError(f"there is no modality {self.modality!r}; there are {', '.join(MODALITIES)}")

    def sql(self) -> str | None:
        """The rows that may be hits."""
        return every(
            f"{column('modality')} = {quoted(self.modality)}" if self.modality else None,
            to_sql(self.where) if self.where is not None else None,
            f"NOT {among('id', self.without)}" if self.without else None,
        )


def search(
    table: Any,
    about: About,
    rows: Mapping[str, int],
    uri: str,
    queries: Mapping[str, Float[np.ndarray, "q d"]],
    ask: Ask,
    samples: background.Samples,
) -> list[list[Hit]]:
    """The hits of each query, as ``Index.search`` says. ``rows``: of each encoder that has some."""
    number, given = _asked(queries, about, rows, uri), ask.sql()
    queries = {signature: queries[signature] for signature in rows}
    spaces: dict[str, list[list[find.Found]]] = {}
    for signature, vectors in queries.items():
        own = f"{column('encoder')} = {quoted(signature)}" if len(rows) > 1 else None
        sql = every(own, given)
        tuned = None if ask.exact else find.approximate(table, about.tuned, about.settings.exact_below, sql)
        spaces[signature] = find.nearest(table, vectors, ask.k, sql, tuned, ask.per_item)
    if len(queries) > 1:
        spaces = background.scored(table, samples, queries, spaces)
    return [find.merged([space[q] for space in spaces.values()], ask.k, ask.per_item) for q in range(number)]


def _asked(queries: Mapping[str, np.ndarray], about: About, rows: Mapping[str, int], uri: str) -> int:
    """How many queries these are. Raises UserError where they do not fit the index."""
    strange, missing = [s for s in queries if s not in about.cards], [s for s in rows if s not in queries]
    if strange or missing or not queries:
        own = ", ".join(f"{c.signature} ({c.run}, task {c.task})" for c in about.cards.values())
        wrong = f"is of the encoder {strange[0]}" if strange else f"has no vector of the encoder {', '.join(missing)}"
        raise UserError(f"the query {wrong}; {uri} needs queries of {own}: ask with these, or upgrade the index")
    dim = next(iter(about.cards.values())).dim
    shapes = {q.shape for q in queries.values()}
    if len(shapes) != 1 or any(len(s) != 2 or s[1] != dim for s in shapes):
        raise UserError(f"queries are of shape {sorted(shapes)}; {uri} needs rows of {dim} numbers")
    if not all(np.isfinite(q).all() for q in queries.values()):
        raise UserError("the query's vector holds what is no number")
    return next(iter(shapes))[0]
