"""What is to be embedded: an item in one modality, and everything that its rows say beside the vector."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import NamedTuple

from polymnia.data.texts import TextFile
from polymnia.data.walk import NAMED, Skipped
from polymnia.index.schema import key
from polymnia.types import AudioFile, Captions, ImageFile, Modality, Source, VideoFile

LISTED = 1000  # failures that are named; all are counted


class Stamp(NamedTuple):
    """Two digests: ``content``, of what decides the vector, and ``said``, of what stands beside it."""

    content: str
    said: str

    def __str__(self) -> str:
        return f"{self.content}:{self.said}"

    @classmethod
    def read(cls, text: str) -> Stamp:
        """The stamp that ``str`` gave. Of anything else, one that nothing has."""
        content, _, said = text.partition(":")
        return cls(content, said)


@dataclass(frozen=True, slots=True)
class Job:
    """One item in one modality. ``root``, ``name`` (the column ``source``), ``bytes`` and ``changed``: see ``schema``.

    ``perhaps``: a file that may well lack this modality, such as a silent video; then it has no rows, and is whole.
    """

    id: str
    modality: Modality
    source: Source | TextFile
    root: str | None = None
    name: str | None = None
    caption: str | None = None
    topic: str | None = None
    task: str | None = None
    bytes: int | None = None
    changed: int | None = None
    perhaps: bool = False

    @property
    def key(self) -> str:
        """The key of the row of the whole."""
        return key(self.id, self.modality)

    @property
    def entry(self) -> int | None:
        return self.source.index if isinstance(self.source, ImageFile) else None

    @property
    def stamp(self) -> Stamp:
        """What tells whether it was embedded already, wherever the folder was moved to."""
        place: list[object] = [self.name, self.bytes, self.changed, self.entry]
        if isinstance(self.source, (AudioFile, VideoFile)):
            place += [self.source.start, self.source.seconds]
        if isinstance(self.source, Captions):
            place += self.source.texts
        return Stamp(_digest(place), _digest([self.root, self.caption, self.topic, self.task]))


def _digest(values: list[object]) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()


@dataclass
class Plan:
    """``jobs`` in order, those of one item together; ``failed``: items that cannot be embedded, and why.

    ``skipped``: what was left out on purpose, by reason. ``unread``: folders of which nothing is known now.
    ``about``: where all this is from, for ``vectors.json``.
    """

    about: dict[str, str]
    jobs: list[Job] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: dict[str, Skipped] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def skip(self, id: str, why: str) -> None:
        """Count something that is left out."""
        known = self.skipped.setdefault(why, Skipped())
        known.count += 1
        if known.count <= NAMED:
            known.examples.append(id)


class Failures:
    """Items that could not be embedded: all counted, the first ``LISTED`` named, in the order found."""

    def __init__(self) -> None:
        self.count = 0
        self.listed: list[tuple[str, str]] = []
        self._last: str | None = None

    def add(self, id: str, why: str) -> None:
        """An item, once, however many of its modalities failed (they come one after another)."""
        if id == self._last:
            return
        self._last = id
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append((id, why))
