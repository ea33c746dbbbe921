"""Clips that everyone fetches from a site: their names, the folders they lie in, and whether any is there at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from polymnia.data.layout import AUDIO, Clips
from polymnia.types import AudioFile, Modality, Source, UserError, VideoFile

FILM = (".mp4", ".webm", ".mkv")
SOUND = tuple(suffix for suffix in AUDIO if suffix not in FILM)
YOUTUBE = re.compile(r"[A-Za-z0-9_-]{11}")


def youtube(video: str, where: str) -> str:
    """The origin of a clip of a video. Raises UserError, saying ``where``, for what is no YouTube id (an id from a
    table of others becomes a file name, and must not lead out of the data folder)."""
    if not YOUTUBE.fullmatch(video):
        raise UserError(f"{where}: '{video[:40]}' is no YouTube id of eleven characters")
    return f"youtube:{video}"


def seconds(cell: str, where: str) -> float:
    """A cell as a number of seconds. Raises UserError, saying ``where``, for what is none."""
    try:
        number = float(cell)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise UserError(f"{where}: '{cell[:40]}' is no number of seconds; is this another version of the table?")
    return number


def names(video: str, start: float, end: float) -> Iterator[str]:
    """The names, less the suffix, under which people keep the clip of a video from second ``start`` to ``end``:
    ``Y<id>`` (PANNs, WavCaps), ``<id>`` and those of ``timed``."""
    yield f"Y{video}"
    yield video
    yield from timed(video, start, end)


def timed(video: str, start: float, end: float) -> Iterator[str]:
    """The names that say when the clip starts: ``<id>_30`` (aac-datasets), ``<id>_000030`` (VGGSound), ``<id>_30000``
    (AudioSet's strong labels), ``<id>_30_40`` and ``<id>_30000_40000``."""
    yield f"{video}_{start:.0f}"
    yield f"{video}_{start:06.0f}"
    yield f"{video}_{start * 1000:.0f}"
    yield f"{video}_{start:.0f}_{end:.0f}"
    yield f"{video}_{start * 1000:.0f}_{end * 1000:.0f}"


class Media:
    """The recordings of a set and, with ``films``, its videos; counts how many clips it could find.

    ``places`` are the folders of ``root`` to look in, and in those directly inside them (not inside ``.``, the root
    itself). ``what`` is the set, for messages.
    """

    def __init__(self, root: Path, places: Iterable[str], what: str, films: bool = False):
        self.what, self.root, self.places = what, root, tuple(places)
        self.folders = _folders(root, self.places) or [root]
        self.asked = self.found = 0
        self._sounds = Clips(self.folders, SOUND if films else AUDIO)
        self._films = Clips(self.folders, FILM) if films else None

    def sources(self, stems: Iterable[str]) -> dict[Modality, Source]:
        """A clip under the first of ``stems`` that is there; where none is, under the first, so that it is missed.

        With ``films``, a video gives the pictures, and the sound where no recording lies beside it. If there is any
        video at all, every clip has pictures.
        """
        stems = tuple(stems)
        self.asked += 1
        sound = _first(self._sounds, stems)
        film = _first(self._films, stems) if self._films else None
        self.found += sound is not None or film is not None
        if not self._films:
            return {"audio": AudioFile(sound or self._sounds.path(stems[0]))}
        picture = film or self._films.path(stems[0])
        return {"audio": AudioFile(sound or picture), "image": VideoFile(picture)}

    def require_some(self, *examples: str) -> None:
        """Raises UserError that says where it looked, and for what, if clips were asked for and not one was found."""
        if self.found or not self.asked:
            return
        looked = ", ".join(map(str, self.folders[:8])) + (", ..." if len(self.folders) > 8 else "")
        above = _folders(self.root.absolute().parent, [place for place in self.places if place != "."])
        hint = f" ({self.root} may be a folder too deep: {above[0]} is beside it)" if above else ""
        raise UserError(
            f"{self.what}: not one of its clips is there. Looked for {', '.join(examples)} with any suffix of a "
            f"recording in {looked}{hint}. Point data=FOLDER (or the set's root) at the folder that holds them."
        )


def _folders(root: Path, places: Iterable[str]) -> list[Path]:
    found: dict[Path, None] = {}
    for place in places:
        folder = root / place
        if folder.is_dir():
            found[folder] = None
            if place != ".":
                with os.scandir(folder) as entries:
                    found |= dict.fromkeys(sorted(folder / entry.name for entry in entries if entry.is_dir()))
    return list(found)


def _first(clips: Clips, stems: Sequence[str]) -> Path | None:
    return next((clips.path(stem) for stem in stems if stem in clips), None)
