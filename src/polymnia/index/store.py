"""An index: vectors in a LanceDB table that knows who made them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from polymnia.index.about import About, Settings, read_about
from polymnia.index.database import ITEMS, committed, connect, explained, is_local, place, writing
from polymnia.index.hit import Hit
from polymnia.index.opening import go_back, look, make_room, tables
from polymnia.index.rows import Stream, checked, compared, gathered
from polymnia.index.schema import EncoderCard
from polymnia.index.search import Ask, search
from polymnia.index.versions import Version, age, versions
from polymnia.index.where import among, to_sql
from polymnia.types import Modality, UserError

BATCH = 4096


@dataclass(frozen=True, slots=True)
class Added:
    """Counts of rows: ``removed`` are windows of an earlier state of a file, ``same`` were there already."""

    new: int = 0
    replaced: int = 0
    same: int = 0
    removed: int = 0

    def __add__(self, other: Added) -> Added:
        return Added(
            self.new + other.new, self.replaced + other.replaced, self.same + other.same, self.removed + other.removed
        )


class Index:
    """A table of vectors at one version. Others' commits are seen after ``refresh``; own ones at once.

    ``cards``: the encoders whose rows it may hold, by signature; ``dim``: of their vectors; ``version``: which one.
    """

    def __init__(self, uri: str, table: Any, about: About, past: bool = False):
        self.uri, self.table, self.about, self.past = uri, table, about, past

    @classmethod
    def create(cls, uri: str | Path, card: EncoderCard, settings: Settings | None = None) -> Index:
        """A new, empty index for an encoder's vectors. Raises UserError where there is something already."""
        uri = place(uri)
        if is_local(uri):
            make_room(Path(uri))
        about = About({card.signature: card}, settings or Settings())
        with writing(uri), explained(uri):
            if ITEMS in tables(connect(uri)):
                raise UserError(f"{uri} is an index already: add to it with `polymnia index add {uri} VECTORS`")
            table = connect(uri).create_table(ITEMS, schema=about.schema(card.dim))
        return cls(uri, table, about)

    @classmethod
    def open(cls, uri: str | Path, version: int | None = None) -> Index:
        """The index as it is, or as it was at a version. Raises UserError for what is none, or is no longer there."""
        uri = place(uri)
        if is_local(uri):
            look(Path(uri))
        with explained(uri):
            base = connect(uri)
            if ITEMS not in tables(base):
                raise UserError(f"{uri} is no index: it has no table '{ITEMS}'")
            table = base.open_table(ITEMS)
            if version is not None:
                go_back(table, version, uri)
            return cls(uri, table, read_about(table.schema, uri), past=version is not None)

    @property
    def cards(self) -> dict[str, EncoderCard]:
        return dict(self.about.cards)

    @property
    def dim(self) -> int:
        return next(iter(self.about.cards.values())).dim

    @property
    def version(self) -> int:
        return int(self.table.version)

    def versions(self) -> list[Version]:
        """All that can be opened, the oldest first."""
        with explained(self.uri):
            return versions(self.table)

    def refresh(self) -> Index:
        """See what others have committed. An index opened at a version stays there."""
        if not self.past:
            with explained(self.uri):
                self.table.checkout_latest()
                self.about = read_about(self.table.schema, self.uri)
        return self

    def count(self, where: str | None = None) -> int:
        """How many rows there are; ``where``: a filter, see ``where``."""
        sql = None if where is None else to_sql(where)
        with explained(self.uri):
            return self.table.count_rows(sql)

    def rows(self, columns: Sequence[str], where: str | None = None, batch: int = BATCH) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, or of those that pass a filter, ``batch`` at a time."""
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

    def add_encoder(self, card: EncoderCard) -> None:
        """Let the index hold rows of one more encoder, of vectors of the same size."""
        if card.dim != self.dim:
            raise UserError(f"{self.uri} holds vectors of {self.dim} numbers, those of {card.run} have {card.dim}")
        self._tell(lambda about: replace(about, cards={**about.cards, card.signature: card}))

    def add(
        self,
        batches: Iterable[pa.RecordBatch],
        card: EncoderCard,
        progress: Callable[[Added], None] | None = None,
    ) -> Added:
        """Put rows in, by their keys: new ones are inserted, others replaced, and what is there as it is stays.

        Commits of at most 64 MB: memory is bounded, and after a kill the same call goes on. Two processes may add at
        once. Raises UserError for rows of another encoder than ``card``, a card that the index does not hold, or a
        full disk; what was committed before stays.
        """
        self._now()
        _ours(card, self.about, self.uri)
        done = Added()
        for chunk in gathered((checked(b, self.cards, self.dim, {card.signature}) for b in batches), self.dim):
            done += committed(self.uri, lambda chunk=chunk: self._merge(chunk))
            if progress is not None:
                progress(done)
        self.refresh()
        return done

    def _merge(self, chunk: pa.Table) -> Added:
        self.refresh()
        changes = compared(self.table, chunk)
        rows = pa.concat_tables([changes.new, changes.changed])
        if rows.num_rows or changes.gone:
            merge = self.table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all()
            if changes.gone:
                merge = merge.when_not_matched_by_source_delete(among("key", changes.gone))
            merge.execute(rows)
        return Added(changes.new.num_rows, changes.changed.num_rows, changes.same, len(changes.gone))

    def delete(self, where: str | None = None, ids: Collection[str] = ()) -> int:
        """Take out the rows that pass a filter, or all rows of items. How many these were."""
        self._now()
        if (where is None) == (not ids):
            raise UserError("say what to delete: a filter, or ids of items")
        sql = to_sql(where) if where is not None else among("id", ids)

        def commit() -> int:
            self.refresh()
            found = self.table.count_rows(sql)
            if found:
                self.table.delete(sql)
            return found

        return committed(self.uri, commit)

    def rewrite(self, batches: Iterable[pa.RecordBatch], cards: Mapping[str, EncoderCard]) -> int:
        """Put other rows in the place of all, in one commit, as a stream; the state before stays as a version.

        Raises UserError where others have changed the index since this one was opened or refreshed, and for rows of
        encoders that are not in ``cards``. Gives the number of rows.
        """
        self._now()
        if not cards or len({c.dim for c in cards.values()}) != 1:
            raise UserError("an index holds vectors of one or more encoders, all of the same size")
        about, dim = replace(self.about, cards=dict(cards), tuned=None), next(iter(cards.values())).dim
        stream = Stream((checked(b, cards, dim, set(cards)) for b in batches), about.schema(dim))
        with writing(self.uri), stream.errors(), explained(self.uri):
            base = connect(self.uri)
            if base.open_table(ITEMS).version != self.version:
                raise UserError(f"{self.uri} was changed by another process meanwhile; run the same command again")
            self.table = base.create_table(ITEMS, data=stream.reader(), schema=stream.columns, mode="overwrite")
        self.about = about
        return stream.rows

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

        ``queries``: unit vectors by the signature of the encoder that made them; all encoders that have rows here are
        needed. ``modality``: what to search in (default: all). ``where``: a filter. ``exact``: compare every row, even
        where there is an approximate index. ``per_item``: of an item only its best row. ``without``: ids that are no
        hits. Raises UserError for what cannot be asked.
        """
        ask = Ask(k, modality, where, exact, per_item, tuple(without))
        with explained(self.uri):
            return search(self.table, self.about, self.uri, queries, ask)

    def compact(self, keep_days: float | None = None, keep_versions: int | None = None) -> None:
        """Join small files, take new rows into the approximate index, and forget versions if asked to.

        ``keep_days``: versions older than that go; ``keep_versions``: all but so many of the latest.
        """
        self._now()
        with writing(self.uri), explained(self.uri):
            self.refresh()
            oldest = age(versions(self.table), keep_days, keep_versions)
            # Under the lock there is no other writer here: what a killed one left behind is no one's.
            self.table.optimize(cleanup_older_than=oldest, delete_unverified=is_local(self.uri))
            self.refresh()

    def _tell(self, change: Callable[[About], About]) -> None:
        """Commit what the index says of itself."""
        self._now()

        def commit() -> None:
            self.refresh()
            about = change(self.about)
            gone = {k: None for k in self.about.metadata() if k not in about.metadata()}
            self.table.update_field_metadata({"path": "vector", "metadata": {**about.metadata(), **gone}})
            self.refresh()

        committed(self.uri, commit)

    def _now(self) -> None:
        if self.past:
            raise UserError(f"{self.uri} was opened at its version {self.version}, which stays as it is")


def _ours(card: EncoderCard, about: About, uri: str) -> None:
    if card.signature in about.cards:
        return
    own = " and ".join(f"{c.signature} ({c.run}, task {c.task})" for c in about.cards.values())
    raise UserError(
        f"these vectors are of the encoder {card.signature} ({card.run}, task {card.task}), {uri} is of {own}: embed "
        f"with that one, bring the index to the new encoder (`polymnia index upgrade {uri} {card.run}`), or create an "
        "index of their own"
    )
