"""An index: vectors in a LanceDB table that knows who made them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from polymnia.index.about import About, Settings, Tuned
from polymnia.index.ann import NAME, tune
from polymnia.index.database import (
    ITEMS,
    SETTLING,
    OvertakenError,
    committed,
    connect,
    explained,
    is_local,
    place,
    writing,
)
from polymnia.index.opening import go_back, make_room, there_is
from polymnia.index.reader import Reader
from polymnia.index.rows import Stream, checked, compared, gathered
from polymnia.index.schema import EncoderCard
from polymnia.index.truth import Queries, probes
from polymnia.index.versions import age, versions
from polymnia.index.where import among, to_sql
from polymnia.types import UserError

SCATTERED = 16  # small files that are left as they are
SETTLES = 3  # times that settling is begun again, as others wrote meanwhile
GROWN = 2  # times as many rows: the approximate index is chosen anew


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


class Index(Reader):
    """A table of vectors that can be written to, by several processes at once. Every write is one or more commits."""

    @classmethod
    def create(cls, uri: str | Path, card: EncoderCard, settings: Settings | None = None) -> Index:
        """A new, empty index for an encoder's vectors. Raises UserError where there is something already."""
        uri = place(uri)
        if is_local(uri):
            make_room(Path(uri))
        about = About({card.signature: card}, settings or Settings())
        with writing(uri), explained(uri):
            if there_is(uri):
                raise UserError(f"{uri} is an index already: add to it with `polymnia index add {uri} VECTORS`")
            table = connect(uri).create_table(ITEMS, schema=about.schema(card.dim))
        return cls(uri, table, about)

    def add_encoder(self, card: EncoderCard) -> None:
        """Let the index hold rows of one more encoder, of vectors of the same size."""
        if card.dim != self.dim:
            raise UserError(f"{self.uri} holds vectors of {self.dim} numbers, those of {card.run} have {card.dim}")
        self._tell(lambda about: replace(about, cards={**about.cards, card.signature: card}))

    def bridge(self, cards: Mapping[str, EncoderCard]) -> None:
        """Let rows of some encoders be asked by queries of others, mapped back: the new one by the older signature.

        The index may hold rows of the newer ones, too.
        """
        newer = {c.signature: c for c in cards.values()}
        self._tell(lambda about: replace(about, cards={**about.cards, **newer}, bridges={**about.bridges, **cards}))

    def ask_directly(self, signatures: Collection[str]) -> None:
        """Let rows of some encoders be asked by their own encoder again: no queries are mapped back to them."""
        if self.about.bridges.keys() & set(signatures):
            left = {s: c for s, c in self.about.bridges.items() if s not in signatures}
            self._tell(lambda about: replace(about, bridges=left))

    def add(
        self,
        batches: Iterable[pa.RecordBatch],
        card: EncoderCard,
        progress: Callable[[Added], None] | None = None,
        over: bool = False,
    ) -> Added:
        """Put rows in, by their keys: new ones are inserted, others replaced, and what is there as it is stays.

        Commits of at most 64 MB: memory is bounded, and after a kill the same call goes on. Two processes may add at
        once. ``over``: files of one folder may take the place of others of the same name in another. Raises UserError
        where they would and should not, for rows of another encoder than ``card``, a card that the index does not
        hold, or a full disk; what was committed before stays.
        """
        self._now()
        _ours(card, self.refresh().about, self.uri)
        done = Added()
        for chunk in gathered((checked(b, self.cards, self.dim, {card.signature}) for b in batches), self.dim):
            done += committed(self.uri, lambda chunk=chunk: self._merge(chunk, card, over))
            if progress is not None:
                progress(done)
        self.refresh()
        return done

    def _merge(self, chunk: pa.Table, card: EncoderCard, over: bool) -> Added:
        _ours(card, self.refresh().about, self.uri)  # again: it may have been upgraded meanwhile
        changes = compared(self.table, chunk)
        if changes.clash is not None and not over:
            raise UserError(_taken(*changes.clash))
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

    def settle(self, queries: Queries | None = None, say: Callable[[str], None] = lambda _: None) -> Tuned | None:
        """Make approximate search fit for what is there now: to be called when much was added or rewritten.

        Builds and measures an approximate index where an encoder has more rows than are searched exactly, and there
        is none, or the rows have doubled since; otherwise takes new rows into it once they are many (until then they
        are compared one by one). Joins small files where many commits have left many: each costs every search a
        millisecond. ``queries``: unit vectors by signature and modality, of kinds that are asked but not
        among the rows, such as texts where there are only sounds. Gives how it searches now.
        """
        self._now()
        for tried in range(SETTLES):
            try:
                with writing(self.uri, SETTLING):  # who waited for another finds nothing left to do
                    return self._settle(queries, say)
            except OvertakenError:  # rows came while an index of them was built
                if tried + 1 == SETTLES:
                    raise
        raise AssertionError

    def _settle(self, queries: Queries | None, say: Callable[[str], None]) -> Tuned | None:
        tuned = self.refresh().about.tuned
        if self._scattered:
            self._compact()
        if not self.unsettled:
            if tuned is not None and tuned.kind != "exact":
                self._take_in()
            return tuned
        with explained(self.uri):
            measured = probes(self.table, self.about, queries or {})
        self._tell(lambda about: replace(about, tuned=None))  # if this is killed, every row is compared
        with explained(self.uri):
            tuned = tune(self.table, measured, self.about.settings, say)
        self._tell(lambda about: replace(about, tuned=tuned))
        return tuned

    @property
    def unsettled(self) -> bool:
        """Whether ``settle`` would choose the approximate index, for the first time or anew."""
        tuned, most = self.about.tuned, max(self.spaces.values(), default=0)
        if tuned is not None:
            return self.count() >= GROWN * tuned.rows
        return most > self.about.settings.exact_below

    @property
    def _scattered(self) -> bool:
        with explained(self.uri):
            return self.table.stats()["fragment_stats"]["num_small_fragments"] > SCATTERED

    def _take_in(self) -> None:
        with explained(self.uri):
            stats = self.table.index_stats(NAME)
        if stats is None or stats.num_unindexed_rows > self.about.settings.exact_below:
            self._compact()

    def compact(self, keep_days: int | float | None = None, keep_versions: int | None = None) -> None:
        """Join small files, take new rows into the approximate index, and forget versions if asked to.

        ``keep_days``: versions older than that go; ``keep_versions``: all but so many of the latest.
        """
        self._now()
        with writing(self.uri, SETTLING):
            self._compact(keep_days, keep_versions)

    def _compact(self, keep_days: int | float | None = None, keep_versions: int | None = None) -> None:
        with writing(self.uri), explained(self.uri):
            self.refresh()
            oldest = age(versions(self.table), keep_days, keep_versions)
            # Under both locks nobody else writes here: what a killed one left behind is no one's.
            self.table.optimize(cleanup_older_than=oldest, delete_unverified=is_local(self.uri))
            self.refresh()

    def restore(self, version: int) -> None:
        """Make an earlier version the latest, as one more version."""
        self._now()
        with writing(self.uri), explained(self.uri):
            go_back(self.table, version, self.uri)
            self.table.restore()
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


def _taken(item: str, there: str, new: str) -> str:
    return (
        f"'{item}' of {new} has the name of another file, of {there}, which is in the index: embed the folder that "
        "holds both, so that their names differ, or pass --replace to put the one in the other's place"
    )


def _ours(card: EncoderCard, about: About, uri: str) -> None:
    if card.signature in about.cards:
        return
    own = " and ".join(f"{c.signature} ({c.run}, task {c.task})" for c in about.cards.values())
    raise UserError(
        f"these vectors are of the encoder {card.signature} ({card.run}, task {card.task}), {uri} is of {own}: embed "
        f"with that one, bring the index to the new encoder (`polymnia index upgrade {uri} {card.run}`), or create an "
        "index of their own"
    )
