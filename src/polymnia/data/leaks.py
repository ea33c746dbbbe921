"""Contamination: recordings that a recipe trains on and tests with, within and across its data sets.

The rule. Learned are the training and validation items of every stage and task; scored are the test items of every
task and watched set (all items, where its evaluators ask for all).

1. Two items of different data sets are the same material if they share an ``origin`` (``youtube:<id>``: AudioCaps is
   part of AudioSet, AVE of VGGSound; ``freesound:<id>``: Clotho, FSD50K, ESC-50, UrbanSound8K, WavCaps), or a file
   where their stretches of it overlap. Learning the one and scoring the other is a leak.
2. Within a data set (one name, one root) the official splits are trusted, even where two items of one recording fall
   on both sides (8 of AVE's 402 test clips do). These are counted and told, but are no leak.
3. One item that is learned and is a test item, because two tasks split one set differently (two folds), is a leak. If
   an evaluator of a watched set looks at all items of a set, training items included, it does so on purpose: see 2.

What the weights of a pre-trained tower have seen is not known here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from polymnia.data.tasks import Reading
from polymnia.types import AudioFile, ImageFile, Item, Source, UserError, VideoFile

SHOWN, SAID = 5, 3  # examples of each pair of data sets that are kept, and said
TOLD = {
    "trusted": "; these are the data set's own splits, or items that a watched set looks at on purpose",
    "allowed": "; allowed by allow_leaks",
    "dropped": "; drop_leaks left those out of training",
}
Home = tuple[str, Path]  # the name and the root of a data set
Outcome = Literal["leak", "trusted", "allowed", "dropped"]


@dataclass(frozen=True)
class Leak:
    """Items of the data set ``learned`` that are the same material as scored items of ``scored``.

    ``examples``: ids of a learned and a scored item, and what they share.
    """

    learned: str
    scored: str
    outcome: Outcome
    learned_ids: frozenset[str]
    scored_ids: frozenset[str]
    examples: tuple[tuple[str, str, str], ...]

    def plain(self) -> dict[str, Any]:
        """The leak as data, numbers in place of the ids."""
        return {
            "learned": self.learned,
            "scored": self.scored,
            "outcome": self.outcome,
            "learned_items": len(self.learned_ids),
            "scored_items": len(self.scored_ids),
            "examples": [list(e) for e in self.examples],
        }

    def __str__(self) -> str:
        shown = "; ".join(f"{a} = {b} by {why}" if a != b else a for a, b, why in self.examples[:SAID])
        said = (
            f"{len(self.scored_ids):,} scored items of {self.scored} are the same material as "
            f"{len(self.learned_ids):,} training items of {self.learned} (such as {shown})"
        )
        return said + TOLD.get(self.outcome, "")


def find(
    learned: Iterable[Item], scored: Iterable[Item], held_out: Iterable[Item], readings: Sequence[Reading]
) -> list[Leak]:
    """What is both learned and scored, a pair of data sets at a time; each either a "leak" or "trusted".

    ``held_out``: the items of ``scored`` that their data set itself holds out. ``readings``: where all of them come
    from. Time grows with the number of items and of overlaps, memory with ``scored``.
    """
    homes: dict[str, Home] = {}
    for reading in readings:
        homes |= dict.fromkeys((i.id for i in reading.items), (reading.name, reading.root.resolve()))
    index, test = _Index(scored), {i.id for i in held_out}
    pairs: dict[tuple[str, str, Outcome], list[tuple[str, str, str]]] = {}
    for item in {i.id: i for i in learned}.values():
        home = homes[item.id]
        for other, why in index.overlaps(item).items():
            trusted = other not in test if other == item.id else home == homes[other]
            key: tuple[str, str, Outcome] = (home[0], homes[other][0], "trusted" if trusted else "leak")
            pairs.setdefault(key, []).append((item.id, other, why))
    return [
        Leak(*key, frozenset(a for a, _, _ in both), frozenset(b for _, b, _ in both), tuple(both[:SHOWN]))
        for key, both in pairs.items()
    ]


def settle(leaks: Sequence[Leak], allow: Iterable[tuple[str, str]], drop: bool) -> list[Leak]:
    """The leaks, each with what becomes of it: all "dropped" if ``drop``, else "allowed" by a pair of names.

    "dropped" says that its ``learned_ids`` are to be left out of training. Raises UserError that names every leak
    that is neither, and the ways out.
    """
    pairs = list(allow)

    def outcome(leak: Leak) -> Outcome:
        if leak.outcome == "trusted":
            return "trusted"
        if drop:  # over allow_leaks: who asks for it on top of a recipe that allows some wants none of them
            return "dropped"
        return "allowed" if any(_names(a, leak.learned) and _names(b, leak.scored) for a, b in pairs) else "leak"

    settled = [replace(leak, outcome=outcome(leak)) for leak in leaks]
    left = [leak for leak in settled if leak.outcome == "leak"]
    if left:
        keys = ", ".join(dict.fromkeys(f"[{leak.learned}, {leak.scored}]" for leak in left))
        items = len(frozenset().union(*(leak.learned_ids for leak in left)))
        raise UserError(
            f"training and test data overlap: {'; '.join(map(str, left))}. Leave them out with the data set's own "
            f"exclusion list, or set drop_leaks: true (trains without {items:,} of its items), or accept it with "
            f"allow_leaks: [{keys}], which the report will say."
        )
    return settled


def _names(pattern: str, name: str) -> bool:
    """Whether a name in ``allow_leaks`` means this data set: ``manifest`` also means ``manifest.2``."""
    return pattern in ("*", name, name.partition(".")[0])


class _Index:
    """Scored items by what they can share with others."""

    def __init__(self, items: Iterable[Item]):
        self._items = {i.id: i for i in items}
        self._exact: dict[object, list[str]] = {}  # an origin, or a row of a container
        stretches: dict[Path, list[tuple[float, float, str]]] = {}
        for item in self._items.values():
            for key in (*item.origin, *_pictures(item.sources)):
                self._exact.setdefault(key, []).append(item.id)
            for path, start, end in _stretches(item.sources):
                stretches.setdefault(path, []).append((start, end, item.id))
        self._stretches = {path: _Stretches(sorted(found)) for path, found in stretches.items()}

    def overlaps(self, item: Item) -> dict[str, str]:
        """What each scored item shares with this one, by its id."""
        found = {item.id: "the same item"} if item.id in self._items else {}
        for key in (*item.origin, *_pictures(item.sources)):
            for other in self._exact.get(key, ()):
                found.setdefault(other, key if isinstance(key, str) else f"the file {key[0].name}")
        for path, start, end in _stretches(item.sources):
            if path in self._stretches:
                for other in self._stretches[path].between(start, end):
                    found.setdefault(other, f"the file {path.name}")
        return found


class _Stretches:
    """Stretches of one file in order; a file may hold thousands."""

    def __init__(self, stretches: list[tuple[float, float, str]]):
        self._stretches = stretches
        self._starts = [start for start, _, _ in stretches]
        self._longest = max(end - start for start, end, _ in stretches)

    def between(self, start: float, end: float) -> Iterator[str]:
        """The ids of those that overlap with ``start`` to ``end``."""
        first, last = bisect_right(self._starts, start - self._longest), bisect_left(self._starts, end)
        return (id for begin, stop, id in self._stretches[first:last] if begin < end and start < stop)


def _pictures(sources: Mapping[Any, Source]) -> list[tuple[Path, int | None]]:
    return [(s.path, s.index) for s in sources.values() if isinstance(s, ImageFile)]


def _stretches(sources: Mapping[Any, Source]) -> list[tuple[Path, float, float]]:
    media = [s for s in sources.values() if isinstance(s, (AudioFile, VideoFile))]
    return [(s.path, s.start, float("inf") if s.seconds is None else s.start + s.seconds) for s in media]
