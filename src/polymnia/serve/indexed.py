"""The service that `polymnia serve` runs: an index, the encoders of its vectors, and the run that they are of."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from polymnia.data.names import unescape
from polymnia.index.schema import WHOLE, EncoderCard
from polymnia.index.store import Index
from polymnia.index.where import column, quoted, to_sql
from polymnia.report.folders import read_run
from polymnia.runs.encoder import load
from polymnia.serve.adding import Adding
from polymnia.serve.asker import Asker, Vector, joined
from polymnia.serve.entries import SHOWN, entries
from polymnia.serve.moments import Moments
from polymnia.serve.service import GALLERY, Asked, Entry, Info, Match, Narrowed, Scores
from polymnia.types import MODALITIES, Modality, UserError

FRESH = 2.0  # seconds after which others' commits are looked for
MOST = 500  # tasks and topics that are named


class IndexService:
    """``run``: where the encoders are, if not where the index says; ``data``: of the run, if it moved.

    Raises UserError for an index without vectors, or whose encoders are not there.
    """

    def __init__(self, index: Index, run: Path | None = None, data: Path | None = None, adding: Adding | None = None):
        self.index, self.moved, self.data, self.adding = index, run, data, adding
        self.askers: dict[str, Asker] = {}
        self.lock, self.looked = Lock(), time.monotonic()
        self.known: tuple[int, Info] | None = None
        self.problem = ""  # why there are no other moments
        self.run = self._run(self._newest())
        for card in index.cards.values():
            self._asker(card)
        self.moments = self._moments()

    def info(self) -> Info:
        """What is there, read anew where the index has changed."""
        with self.lock:
            self._refresh()
            version = self.index.version
            if self.known is None or self.known[0] != version:
                self.known = version, self._count()
            return self.known[1]

    def search(self, asked: Asked) -> Sequence[Match]:
        """Hits in the index, or, where ``asked.after`` says, among the test items of the run."""
        if asked.after is not None:
            if self.moments is None:
                raise UserError("the test items of the run are not here, so there is nothing else to search")
            return self.moments.search(asked)
        with self.lock:
            self._refresh()
        cards = self.index.cards
        queries = {s: self._query(self._asker(card), card, asked)[None] for s, card in cards.items()}
        where = where_of(asked.narrowed)
        (hits,) = self.index.search(queries, asked.k, where=where, without=[*asked.like, *asked.unlike])
        there = self._entries([h.id for h in hits])
        out = []
        for hit in (h for h in hits if h.id in there):
            window = hit.window != WHOLE
            said = hit.caption if hit.modality == "text" else None
            start, end = (hit.start, hit.end) if window else (None, None)
            out.append(Match(there[hit.id], hit.modality, hit.score, hit.cosine, start, end, said))
        return out

    def item(self, name: str, gallery: str = GALLERY) -> Entry | None:
        """An item of the index, or of the run's test items."""
        if gallery != GALLERY:
            return self.moments.entry(name) if self.moments else None
        return self._entries([name]).get(name)

    def add(self, file: Path, suffix: str, kind: Modality, caption: str | None, topic: str | None) -> Entry:
        """Embed a file and put it in. UserError where the index holds vectors of several encoders, or is full."""
        card = self._newest()
        if self.adding is None:
            raise UserError("this index is only read")
        if len(self.index.cards) > 1:
            raise UserError("the index holds vectors of several encoders; upgrade it to one before adding to it")
        asker = self._asker(card)
        with asker.lock:
            rows = self.adding.rows(asker.encoder, file, suffix, kind, caption, topic)
        with self.lock:
            self.index.add(rows.to_batches(), card)
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

    def _newest(self) -> EncoderCard:
        cards = list(self.index.cards.values())
        if not cards:
            raise UserError(f"{self.index.uri} says of no encoder that its vectors are of it")
        return max(cards, key=lambda c: c.task)

    def _run(self, card: EncoderCard) -> Path:
        run = self.moved or Path(os.fsdecode(unescape(card.run)))
        if not (run / "recipe.yaml").is_file():
            raise UserError(
                f"the run {run}, whose encoder made this index, is not there; say where it is now: --run FOLDER"
            )
        return run

    def _asker(self, card: EncoderCard) -> Asker:
        """The encoder of a card. UserError where the run has another one now."""
        with self.lock:
            if card.signature not in self.askers:
                run = self._run(card)
                encoder = load(run, card.task, self.data)
                if encoder.signature != card.signature:
                    raise UserError(
                        f"the encoder of {run} after task {card.task} is {encoder.signature}, the vectors are of "
                        f"{card.signature}: name the run that made them (--run), or upgrade the index"
                    )
                self.askers[card.signature] = Asker(encoder)
            return self.askers[card.signature]

    def _moments(self) -> Moments | None:
        try:
            return Moments(self.run, self.data)
        except UserError as error:
            self.problem = str(error)
            return None

    def _refresh(self) -> None:
        if time.monotonic() - self.looked > FRESH:
            self.index.refresh()
            self.looked = time.monotonic()

    def _count(self) -> Info:
        card, kinds, tasks, topics = self._newest(), Counter(), Counter(), Counter()
        for batch in self.index.rows(("modality", "task", "topic")):
            for counted, name in ((kinds, "modality"), (tasks, "task"), (topics, "topic")):
                counted.update(v for v in batch[name].to_pylist() if v)
        return Info(
            rows=sum(kinds.values()),
            modalities=tuple(m for m in MODALITIES if m in kinds),
            queries=self.askers[card.signature].modalities,
            tasks=_most(tasks),
            topics=_most(topics),
            encoder=card.signature,
            after=card.task,
            name=card.name,
            states=self.moments.states if self.moments else (),
        )

    def _entries(self, names: Sequence[str]) -> dict[str, Entry]:
        return entries(self.index.get(ids=names).select(list(SHOWN)).to_pylist()) if names else {}

    def _query(self, asker: Asker, card: EncoderCard, asked: Asked) -> Vector:
        said = [] if asked.text is None else [asker.text(asked.text)]
        if asked.file is not None and asked.kind is not None:
            said.append(asker.file(asked.file, asked.kind))
        held = self._vectors([*asked.like, *asked.unlike], card)
        return joined(said, [held[n] for n in asked.like], [held[n] for n in asked.unlike])

    def _vectors(self, names: Sequence[str], card: EncoderCard) -> dict[str, Vector]:
        """Of each item the unit vector between those of its modalities. UserError for one that is not there."""
        if not names:
            return {}
        found: dict[str, list[Vector]] = {}
        rows = self.index.get(ids=names).select(["id", "window", "encoder", "vector"]).to_pylist()
        for row in rows:
            if row["window"] == WHOLE and row["encoder"] == card.signature:
                found.setdefault(row["id"], []).append(np.asarray(row["vector"], dtype=np.float32))
        if lacking := [name for name in names if name not in found]:
            raise UserError(f"there is no item '{lacking[0]}' in this index")
        return {name: joined(vectors, [], []) for name, vectors in found.items()}


def where_of(narrowed: Narrowed) -> str | None:
    """The filters as one condition, in the words of ``index.where``. UserError for one that is none by itself.

    A client may not ask where files are: by asking often enough it would learn the folders of the server.
    """
    parts = []
    if narrowed.where is not None:
        if column("root") in to_sql(narrowed.where):
            raise UserError("the filter asks for the column 'root', which is not shown here")
        parts.append(f"({narrowed.where})")
    named = (("modality", narrowed.modalities), ("task", narrowed.tasks), ("topic", narrowed.topics))
    parts += [f"{name} IN ({', '.join(map(quoted, values))})" for name, values in named if values]
    parts += [] if narrowed.shortest is None else [f"duration >= {narrowed.shortest!r}"]
    parts += [] if narrowed.longest is None else [f"duration <= {narrowed.longest!r}"]
    return " AND ".join(parts) or None


def _most(counted: Counter[str]) -> tuple[str, ...]:
    """The most frequent, in alphabetical order."""
    return tuple(sorted(name for name, _ in counted.most_common(MOST)))
