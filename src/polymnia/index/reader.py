"""The part of an index that reads: counts, rows, searches, versions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from polymnia.index.about import About, read_about
from polymnia.index.background import Samples
from polymnia.index.database import ITEMS, connect, explained, place
from polymnia.index.hit import Hit
from polymnia.index.info import Info, info
from polymnia.index.opening import go_back, look
from polymnia.index.schema import WHOLE, EncoderCard
from polymnia.index.search import Ask, search
from polymnia.index.versions import Version, versions
from polymnia.index.where import among, column, quoted, to_sql
from polymnia.types import Modality

BATCH = 4096
Own = TypeVar("Own")  # whatever is derived from it


class Reader:
    """A table of vectors at one version. Others' commits are seen after ``refresh``; own ones at once.

    ``uri``: where it is; ``past``: whether it was opened at a version, and stays there.
    """

    def __init__(self, uri: str, table: Any, about: About, past: bool = False):
        self.uri, self.table, self.about, self.past = uri, table, about, past
        self._counted: tuple[int, dict[str, int]] = (-1, {})
        self._samples = Samples()

    @classmethod
    def open(cls: type[Own], uri: str | Path, version: int | None = None) -> Own:
        """The index as it is, or as it was at a version. Raises UserError for what is none, or is no longer there."""
        uri = place(uri)
        look(uri)
        with explained(uri):
            table = connect(uri).open_table(ITEMS)
            if version is not None:
                go_back(table, version, uri)
            return cls(uri, table, read_about(table.schema, uri), past=version is not None)

    @property
    def cards(self) -> dict[str, EncoderCard]:
        """The encoders whose rows it may hold, by signature."""
        return dict(self.about.cards)

    @property
    def dim(self) -> int:
        """The size of its vectors."""
        return next(iter(self.about.cards.values())).dim

    @property
    def version(self) -> int:
        """Which of ``versions`` this is."""
        return int(self.table.version)

    @property
    def spaces(self) -> dict[str, int]:
        """How many rows each encoder has, of those that have any."""
        version = self.version
        if self._counted[0] != version:
            with explained(self.uri):
                counts = {s: self.table.count_rows(f"{column('encoder')} = {quoted(s)}") for s in self.about.cards}
            self._counted = version, {s: n for s, n in counts.items() if n}
        return dict(self._counted[1])

    def info(self) -> Info:
        """Counts, encoders, how it searches, size."""
        with explained(self.uri):
            return info(self.table, self.about, self.uri)

    def versions(self) -> list[Version]:
        """All that can be opened, the oldest first."""
        with explained(self.uri):
            return versions(self.table)

    def refresh(self: Own) -> Own:
        """See what others have committed. An index opened at a version stays there."""
        if not self.past:
            with explained(self.uri):
                self.table.checkout_latest()
                self.about = read_about(self.table.schema, self.uri)
        return self

    def count(self, where: str | None = None) -> int:
        """How many rows there are, or pass a filter (see ``where``)."""
        sql = None if where is None else to_sql(where)
        with explained(self.uri):
            return self.table.count_rows(sql)

    def rows(self, columns: Sequence[str], where: str | None = None, batch: int = BATCH) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, or of those that pass a filter, at most ``batch`` at a time, in any order."""
        sql = None if where is None else to_sql(where)
        with explained(self.uri):
            ask = self.table.search().select(list(columns))
            for found in (ask.where(sql) if sql else ask).to_batches(batch):
                for first in range(0, found.num_rows, batch):
                    yield found.slice(first, batch)

    def get(self, ids: Collection[str] = (), keys: Collection[str] = ()) -> pa.Table:
        """Whole rows, by items or by their own names, in the order of keys; names that are not there give none."""
        parts = [among(name, values) for name, values in (("id", ids), ("key", keys)) if values]
        with explained(self.uri):
            found = self.table.search().where(" OR ".join(parts) or "false").to_arrow()
        return found.sort_by("key")

    def wholes(self, ids: Collection[str], columns: Sequence[str]) -> pa.Table:
        """Some columns of the rows of whole items, without their windows, of which an item may have thousands."""
        sql = f"{among('id', ids)} AND {column('window')} = {WHOLE}"
        with explained(self.uri):
            return self.table.search().where(sql).select(list(columns)).to_arrow()

    def search(
        self,
        queries: Mapping[str, Float[np.ndarray, "q d"]],
        k: int = 10,
        modality: Modality | None = None,
        where: str | None = None,
        exact: bool = False,
        per_item: bool = True,
        without: Collection[str] = (),
    ) -> list[list[Hit]]:
        """The ``k`` nearest of each query, best first.

        ``queries``: unit vectors by the signature of the encoder that made them, for each encoder that has rows
        (``spaces``). ``modality``: what to search in (default: all). ``where``: a filter. ``exact``: compare every
        row, even where there is an approximate index. ``per_item``: of an item only its best row. ``without``: ids
        that are no hits. Raises UserError for what cannot be asked.
        """
        ask = Ask(k, modality, where, exact, per_item, tuple(without))
        with explained(self.uri):
            return search(self.table, self.about, self.spaces, self.uri, queries, ask, self._samples)
