"""What the server asks of whoever searches: an index and its encoder, or anything else with these methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from polymnia.types import Modality, UserError

GALLERY = "index"


@dataclass(frozen=True, slots=True)
class Narrowed:
    """What a hit must be: of one of these ``modalities``, ``tasks`` and ``topics``, so many seconds long.

    ``where``: a filter in words, of an index only.
    """

    modalities: tuple[Modality, ...] = ()
    tasks: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    shortest: float | None = None
    longest: float | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A query: words, a file, and items to go towards or away from; at least one of them but ``unlike``.

    ``after``: in the test items of the run, with the encoder after so many tasks; None: in the index.
    """

    text: str | None = None
    file: Path | None = None
    kind: Modality | None = None  # of the file
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    k: int = 10
    narrowed: Narrowed = Narrowed()
    after: int | None = None


@dataclass(frozen=True, slots=True)
class Medium:
    """Where a sound or a picture is: ``path`` inside ``root``, a row of a container, a stretch of seconds."""

    root: Path
    path: Path
    entry: int | None = None
    start: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One item: what it is about, and its media by modality."""

    id: str
    modalities: tuple[Modality, ...]
    media: dict[Modality, Medium]
    caption: str | None = None
    topic: str | None = None
    task: str | None = None
    duration: float | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """An entry that was found by one of its rows, and the window of it (seconds), if it was one.

    ``score`` is what hits are ordered by: the cosine, or, in an index of several encoders, a calibrated one.
    """

    entry: Entry
    modality: Modality
    score: float
    cosine: float
    start: float | None = None
    end: float | None = None
    caption: str | None = None  # where a text was found: that text


@dataclass(frozen=True, slots=True)
class State:
    """An encoder of the run that can be searched with: after ``task`` tasks, the last of them ``name``."""

    task: int
    name: str


@dataclass(frozen=True, slots=True)
class Info:
    """What there is to search. ``spaces``: of which encoders the vectors are; ``after`` and ``name``: the newest.

    ``states`` is empty where there is no run to go back in.
    """

    rows: int
    modalities: tuple[Modality, ...]
    queries: tuple[Modality, ...]  # what the encoder can be asked with
    tasks: tuple[str, ...]
    topics: tuple[str, ...]
    encoder: str
    after: int
    name: str
    spaces: tuple[State, ...] = ()
    states: tuple[State, ...] = ()


@dataclass(frozen=True, slots=True)
class Scores:
    """Of each head the rows of scores (before learning, after each task) and the continual numbers."""

    name: str
    tasks: tuple[str, ...]
    after: tuple[int, ...]
    heads: dict[str, tuple[list[list[float | None]], dict[str, float]]]


class NotYet(UserError):
    """What was asked for is being prepared; ask again."""


class Unreadable(UserError):
    """The index is gone, or damaged. What it says is for the log: no client is told more than that."""


@runtime_checkable
class SearchService(Protocol):
    """Everything that the routes call. Each is called from several threads. Bad input raises UserError."""

    def info(self) -> Info: ...

    def search(self, asked: Asked) -> Sequence[Match]: ...

    def item(self, name: str, gallery: str = GALLERY) -> Entry | None: ...

    def add(self, file: Path, suffix: str, kind: Modality, caption: str | None, topic: str | None) -> Entry: ...

    def scores(self) -> Scores | None:
        """The run's matrices, or None where there is no run or no scores."""
