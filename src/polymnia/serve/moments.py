"""The run's own test items, searched with its encoder as it was after each task: what was learned and forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import torch

from polymnia.data.media import MediaError, audio_length
from polymnia.ops.search import top_k
from polymnia.runs.encoder import Encoder, load, read_recipe
from polymnia.runs.gallery import gallery, media_of
from polymnia.runs.lookup import Vector, Weights, encoded, rocchio
from polymnia.runs.own_items import own_items
from polymnia.serve.entries import of_item
from polymnia.serve.service import Asked, Entry, Match, Narrowed, NotYet, State
from polymnia.types import MODALITIES, AudioFile, Captions, Item, Modality, UserError

KEPT = 4  # encoders in memory
WAIT = 8.0  # seconds that a first search waits for its gallery


@dataclass(frozen=True)
class Moment:
    """An encoder, and of each modality the vectors of the items' media, with the number of the item of each.

    One thread encodes at a time: tokenizers are not made for more.
    """

    encoder: Encoder
    lock: Lock
    vectors: dict[Modality, torch.Tensor]
    owners: dict[Modality, list[int]]


class Moments:
    """``states``: the encoders that the run kept. Raises UserError where the run or its data are not there."""

    def __init__(self, run: Path, data: Path | None, loaded: Callable[[int], Encoder] | None = None):
        self.run, self.data = run, data
        self.load = loaded or (lambda task: load(run, task, data))
        recipe = read_recipe(run)
        recipe = recipe.model_copy(update={"data": data or recipe.data})
        self.names, self.items = own_items(run, recipe, "show its test items")
        self.number = {item.id: n for n, item in enumerate(self.items)}
        self.base = Path(recipe.data).absolute()
        order = [t.name for t in recipe.tasks]
        kept = sorted(int(p.stem.split("-")[1]) for p in (run / "encoders").glob("after-*.safetensors"))
        self.states = tuple(State(task, order[task - 1] if task else "") for task in kept if task <= len(order))
        self.made: OrderedDict[int, Future[Moment]] = OrderedDict()
        self.pool, self.lock = ThreadPoolExecutor(1, thread_name_prefix="polymnia-moments"), Lock()

    @cached_property
    def entries(self) -> list[Entry]:
        """What is shown of each item, with the length of each sound that can be read."""
        found = [of_item(item, self.names.get(item.id), self.base) for item in self.items]
        return [replace(e, duration=_length(i)) for e, i in zip(found, self.items, strict=True)]

    def entry(self, name: str) -> Entry | None:
        return self.entries[self.number[name]] if name in self.number else None

    def search(self, asked: Asked) -> list[Match]:
        """The nearest test items by the encoder after ``asked.after`` tasks.

        NotYet while that encoder embeds them for the first time. UserError for a filter in words, or an unknown item.
        """
        if asked.narrowed.where is not None:
            raise UserError("a filter in words works in the index only; test items take tasks, topics and seconds")
        moment = self._moment(asked.after if asked.after is not None else -1)
        query = torch.from_numpy(self._query(moment, asked))[None]
        best: dict[int, Match] = {}
        media = tuple(kind for kind in moment.vectors if kind != "text")
        for kind in asked.narrowed.modalities or media or tuple(moment.vectors):
            for match, number in self._found(moment, kind, query, asked):
                if number not in best or match.score > best[number].score:
                    best[number] = match
        return sorted(best.values(), key=lambda m: -m.score)[: asked.k]

    def _found(self, moment: Moment, kind: Modality, query: torch.Tensor, asked: Asked) -> list[tuple[Match, int]]:
        if kind not in moment.vectors:
            return []
        scores, at = top_k(query, moment.vectors[kind], len(moment.vectors[kind]))
        out: dict[int, Match] = {}
        for score, row in zip(scores[0].tolist(), at[0].tolist(), strict=True):
            number = moment.owners[kind][row]
            entry = self.entries[number]
            if number in out or entry.id in (*asked.like, *asked.unlike) or not fits(entry, asked.narrowed):
                continue
            texts = self.items[number].sources.get("text")
            which = row - moment.owners[kind].index(number)
            said = texts.texts[which] if kind == "text" and isinstance(texts, Captions) else None
            out[number] = Match(entry, kind, score, score, caption=said)
            if len(out) == asked.k:
                break
        return [(match, number) for number, match in out.items()]

    def _query(self, moment: Moment, asked: Asked) -> Vector:
        said = []
        with moment.lock:
            if asked.text is not None:
                said.append(encoded(moment.encoder, "text", asked.text))
            if asked.file is not None and asked.kind is not None:
                said.append(encoded(moment.encoder, asked.kind, asked.file))
        like, unlike = ([self._vector(moment, name) for name in names] for names in (asked.like, asked.unlike))
        return rocchio(said, like, unlike, Weights())

    def _vector(self, moment: Moment, name: str) -> Vector:
        """The unit vector between those of an item's modalities, of several texts the mean of all."""
        if name not in self.number:
            raise UserError(f"there is no test item '{name}' in this run")
        found = []
        for kind, owners in moment.owners.items():
            rows = [row for row, owner in enumerate(owners) if owner == self.number[name]]
            if rows:
                found.append(rocchio(list(moment.vectors[kind][rows].numpy()), [], [], Weights()))
        if not found:
            raise UserError(f"this encoder takes nothing of the test item '{name}'")
        return rocchio(found, [], [], Weights())

    def _moment(self, task: int) -> Moment:
        if task not in [s.task for s in self.states]:
            there = ", ".join(str(s.task) for s in self.states)
            raise UserError(f"the run kept no encoder after task {task}; there are {there}")
        with self.lock:
            if task in self.made and self.made[task].done() and self.made[task].exception() is not None:
                del self.made[task]  # it may go better now
            if task not in self.made:
                self.made[task] = self.pool.submit(self._make, task)
            self.made.move_to_end(task)
            while len(self.made) > KEPT:
                self.made.popitem(last=False)[1].cancel()
            future = self.made[task]
        try:
            return future.result(WAIT)
        except TimeoutError as error:
            raise NotYet("the test items are being embedded with this encoder for the first time") from error

    def _make(self, task: int) -> Moment:
        encoder = self.load(task)
        vectors: dict[Modality, torch.Tensor] = {}
        owners: dict[Modality, list[int]] = {}
        for kind in (m for m in MODALITIES if m in encoder.model.towers):
            having = [n for n, item in enumerate(self.items) if kind in item.sources]
            if having:
                vectors[kind] = gallery(self.run, encoder, [self.items[n] for n in having], kind)
                owners[kind] = [n for n in having for _ in media_of(self.items[n], kind)]
        return Moment(encoder, Lock(), vectors, owners)


def fits(entry: Entry, narrowed: Narrowed) -> bool:
    """Whether an item passes the filters. One without a length passes none that asks for one."""
    if narrowed.tasks and entry.task not in narrowed.tasks:
        return False
    if narrowed.topics and entry.topic not in narrowed.topics:
        return False
    if narrowed.shortest is None and narrowed.longest is None:
        return True
    seconds = entry.duration
    if seconds is None:
        return False
    return (narrowed.shortest or 0) <= seconds and (narrowed.longest is None or seconds <= narrowed.longest)


def _length(item: Item) -> float | None:
    source = item.sources.get("audio")
    if not isinstance(source, AudioFile):
        return None
    if source.seconds is not None:
        return source.seconds
    try:
        return audio_length(source)
    except MediaError:
        return None
