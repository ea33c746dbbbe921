"""The service that `polymnia serve` runs: an index, the encoders of its vectors, and the run that they are of."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from polymnia.data.names import unescape
from polymnia.index import popularity
from polymnia.index.schema import WHOLE, EncoderCard
from polymnia.index.store import Index
from polymnia.report.folders import read_run
from polymnia.runs.lookup import MEDIA, Encoders, Query, ask
from polymnia.serve.adding import Adding
from polymnia.serve.entries import SHOWN, entries
from polymnia.serve.moments import Moments
from polymnia.serve.narrow import where_of
from polymnia.serve.service import GALLERY, Asked, Entry, Info, Match, Narrowed, Scores, State, Unreadable
from polymnia.types import MODALITIES, Modality, UserError

FRESH = 2.0  # seconds after which others' commits are looked for
MOST = 500  # tasks and topics that are named
REMEMBERED = 4096  # items: a page of hits asks for each of them several times


class Seen(NamedTuple):
    """An index at a version that is looked up once."""

    index: Index
    version: int


class IndexService:
    """``run``: where the encoders are, if not where the index says; ``data``: of the run, if it moved.

    ``problem`` says why there are no other moments of the run. Raises UserError for an index whose encoders are not
    there.
    """

    def __init__(self, index: Index, run: Path | None = None, data: Path | None = None, adding: Adding | None = None):
        self.seen, self.adding = Seen(index, index.version), adding
        self.encoders = Encoders([run] if run else [], data)
        self.encoding, self.looking = Lock(), Lock()  # one thread encodes at a time: tokenizers are not made for more
        self.looked = time.monotonic()
        self.known: tuple[int, Info] | None = None
        self.shown: tuple[int, dict[str, Entry]] = (-1, {})
        for signature in index.spaces:
            self.encoders.into(index, index.cards[signature])
        self.run = run or Path(os.fsdecode(unescape(_newest(index).run)))
        self.problem = ""
        self.moments = self._moments(data)

    def info(self) -> Info:
        """What is there, counted anew where the index has changed."""
        index, version = self._now()
        with self.looking:
            if self.known is None or self.known[0] != version:
                self.known = version, self._count(index)
            return self.known[1]

    def search(self, asked: Asked) -> Sequence[Match]:
        """Hits in the index, or, where ``asked.after`` says, among the test items of the run."""
        if asked.after is not None:
            if self.moments is None:
                raise UserError("the test items of the run are not here, so there is nothing else to search")
            return self.moments.search(asked)
        seen, named = self._now(), (*asked.like, *asked.unlike)
        index = seen.index
        if not index.spaces:
            return []
        _refuse_unknown(named, set(index.wholes(named, ("id",))["id"].to_pylist()) if named else set())
        file = None if asked.file is None or asked.kind is None else (asked.kind, asked.file)
        query = Query(text=asked.text, file=file, like=asked.like, unlike=asked.unlike)
        with self.encoding:
            vectors = ask(index, query, self.encoders)
        (hits,) = index.search(vectors, asked.k, where=self._where(asked.narrowed), without=named)
        popularity.count(index.uri, dict.fromkeys(h.id for h in hits))
        there = self._entries(seen, [h.id for h in hits])
        out = []
        for hit in (h for h in hits if h.id in there):
            start, end = (hit.start, hit.end) if hit.window != WHOLE else (None, None)
            said = hit.caption if hit.modality == "text" else None
            out.append(Match(there[hit.id], hit.modality, hit.score, hit.cosine, start, end, said))
        return out

    def item(self, name: str, gallery: str = GALLERY) -> Entry | None:
        """An item of the index, or of the run's test items."""
        if gallery != GALLERY:
            return self.moments.entry(name) if self.moments else None
        return self._entries(self._now(), [name]).get(name)

    def add(self, file: Path, suffix: str, kind: Modality, caption: str | None, topic: str | None) -> Entry:
        """Embed a file and put it in. UserError where the index holds vectors of several encoders, or is full."""
        if self.adding is None:
            raise UserError("this index is only read")
        index = _opened(self.seen.index.uri)
        if len(index.cards) > 1:
            raise UserError("the index holds vectors of several encoders; upgrade it to one before adding to it")
        card = _newest(index)
        with self.encoding:
            rows = self.adding.rows(self.encoders.get(card), file, suffix, kind, caption, topic)
        index.add(rows.to_batches(), card)
        with self.looking:
            self.seen, self.looked = Seen(index, index.version), time.monotonic()
        name = rows["id"][0].as_py()
        return entries(rows.select(list(SHOWN)).to_pylist())[name]

    def scores(self) -> Scores | None:
        """The run's matrices."""
        try:
            found = read_run(self.run)
        except UserError:
            return None
        heads = {}
        for head in found.matrix.get("score") or {}:
            grid = found.grid(head)
            said = {k: v for k, v in found.summary(head).items() if v is not None}
            heads[head] = [grid[i] for i in found.after if i in grid], said
        return Scores(" ".join(found.key), tuple(found.tasks), tuple(found.after), heads)

    def _now(self) -> Seen:
        """The index with what others have put in, looked for every ``FRESH`` seconds.

        An index that is in use is never refreshed, but replaced: a search sees one version from its begin to its end.
        """
        with self.looking:
            if time.monotonic() - self.looked > FRESH:
                fresh = _opened(self.seen.index.uri)
                self.looked = time.monotonic()
                if fresh.version != self.seen.version:
                    self.seen = Seen(fresh, fresh.version)
            return self.seen

    def _moments(self, data: Path | None) -> Moments | None:
        try:
            return Moments(self.run, data)
        except UserError as error:
            self.problem = str(error)
            return None

    def _count(self, index: Index) -> Info:
        kinds, tasks, topics = Counter[str](), Counter[str](), Counter[str]()
        for batch in index.rows(("modality", "task", "topic")):
            for counted, name in ((kinds, "modality"), (tasks, "task"), (topics, "topic")):
                counted.update(v for v in batch[name].to_pylist() if v)
        card = _newest(index)
        return Info(
            rows=sum(kinds.values()),
            modalities=tuple(m for m in MODALITIES if m in kinds),
            queries=tuple(m for m in MODALITIES if m in card.modalities),
            tasks=_most(tasks),
            topics=_most(topics),
            encoder=card.signature,
            after=card.task,
            name=card.name,
            spaces=tuple(State(c.task, c.name) for c in sorted(index.cards.values(), key=lambda c: c.task)),
            states=self.moments.states if self.moments else (),
        )

    def _entries(self, seen: Seen, names: Sequence[str]) -> dict[str, Entry]:
        """Those that are there, by id; of one version of the index they are read once."""
        with self.looking:
            held = self.shown[1] if self.shown[0] == seen.version and len(self.shown[1]) < REMEMBERED else {}
            self.shown = seen.version, held
        if lacking := [name for name in names if name not in held]:
            held |= entries(seen.index.wholes(lacking, SHOWN).to_pylist())
        return {name: held[name] for name in names if name in held}

    def _where(self, narrowed: Narrowed) -> str | None:
        """The filter of a search; without modalities sounds and pictures, where there are any, as ``lookup.find``."""
        where = where_of(narrowed)
        if narrowed.modalities or set(self.info().modalities) <= {"text"}:
            return where
        return MEDIA if where is None else f"{where} AND {MEDIA}"


def _opened(uri: str) -> Index:
    """What was an index when the server started: if it is none any more, that is no fault of who asks."""
    try:
        return Index.open(uri)
    except UserError as error:
        raise Unreadable(str(error)) from error


def _refuse_unknown(named: Sequence[str], there: set[str]) -> None:
    if lacking := [name for name in named if name not in there]:
        raise UserError(f"there is no item '{lacking[0]}' in this index")


def _newest(index: Index) -> EncoderCard:
    return max(index.cards.values(), key=lambda card: card.task)


def _most(counted: Counter[str]) -> tuple[str, ...]:
    """The most frequent, in alphabetical order."""
    return tuple(sorted(name for name, _ in counted.most_common(MOST)))
