"""One medium, looked into: is it there, can its header and its last second be read, how long is it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from polymnia.data.digest import SETTLED_NS, file_digest
from polymnia.data.media import MediaError, audio_length, decode_audio, decode_image
from polymnia.data.video import check_video, frame_count
from polymnia.types import AudioFile, Captions, ImageFile, ImageSpec, Modality, Source, VideoFile

Status = Literal["ok", "short", "missing", "unreadable"]
RATE, TAIL = 16000, 1.0  # what the end of a recording is decoded at, and how many seconds of it
SIZE = 32  # pixels that a picture is decoded to
LOOK = ImageSpec(SIZE)
FINE = 100.0  # frames a second that the length of a video is counted in


@dataclass(frozen=True)
class Clip:
    """What is known of a medium. ``place`` is relative to the data set's root, with ``#t=start,end`` for a stretch in
    seconds and ``#number`` for a row of a container. ``changed`` is the file's time of change in ns (0: may yet
    change); ``seconds`` is None for pictures, ``blake2b`` empty if the content was not hashed."""

    place: str
    bytes: int = 0
    seconds: float | None = None
    blake2b: str = ""
    status: Status = "ok"
    reason: str = ""
    changed: int = 0


Known = Mapping[tuple[str, str], Clip]


class Examiner:
    """Looks at media, several at a time if asked from several threads; what ``known`` says of a file that has not
    changed since is not found out again.

    ``known``: by modality and place. ``hashed``: whether content is hashed. ``min_seconds``: below it, one is short.
    """

    def __init__(self, root: Path, known: Known, hashed: bool, min_seconds: float):
        self.root, self.known, self.hashed, self.min_seconds = root, known, hashed, min_seconds
        self._digests: dict[Path, str] = {}  # a file may hold many clips

    def look(self, modality: Modality, source: Source, there: bool) -> Clip:
        """What is known of a source, found out now or before. ``there``: whether a listing of its folder names it."""
        place = place_of(source, self.root)
        if not there:
            return Clip(place, status="missing")
        if isinstance(source, Captions):
            empty = not all(text.strip() for text in source.texts) or not source.texts
            return Clip(place, status="unreadable", reason="an empty caption") if empty else Clip(place)
        try:
            stat = source.path.stat()
        except OSError:  # a link that leads nowhere, such as those of git-annex
            return Clip(place, status="missing")
        clip = self.known.get((modality, place), Clip(place, status="unreadable"))
        if clip.status == "unreadable" or (clip.bytes, clip.changed) != (stat.st_size, stat.st_mtime_ns):
            settled = stat.st_mtime_ns < time.time_ns() - SETTLED_NS
            clip = _opened(source, Clip(place, stat.st_size, changed=stat.st_mtime_ns if settled else 0))
        if self.hashed and not clip.blake2b:
            clip = replace(clip, blake2b=self._digest(source.path))
        if clip.seconds is None or clip.status == "unreadable":
            return clip
        return replace(clip, status="short" if clip.seconds < self.min_seconds else "ok")

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]


def place_of(source: Source, root: Path) -> str:
    """Where a source lies, relative to ``root``; empty for captions."""
    if isinstance(source, Captions):
        return ""
    place = os.path.relpath(source.path, root)
    if isinstance(source, ImageFile):
        return place if source.index is None else f"{place}#{source.index}"
    if not source.start and source.seconds is None:
        return place
    end = "" if source.seconds is None else f"{source.start + source.seconds:g}"
    return f"{place}#t={source.start:g},{end}"


def _opened(source: AudioFile | ImageFile | VideoFile, clip: Clip) -> Clip:
    """The clip with its length, or with the reason why it cannot be read."""
    try:
        if isinstance(source, ImageFile):
            decode_image(source, SIZE, 3)
            return clip
        if isinstance(source, VideoFile):
            check_video(source, LOOK)
            return replace(clip, seconds=frame_count(source, FINE) / FINE)
        seconds = audio_length(source)
        decode_audio(source, RATE, start=max(0.0, seconds - TAIL))
    except MediaError as error:
        return replace(clip, status="unreadable", reason=error.reason)
    return replace(clip, seconds=round(seconds, 3))
