"""What media a folder holds: every regular file by its suffix, in the order of the bytes of its path.

Hidden files and folders (whose names begin with a dot) are left out, and so are links, unless they are asked for: a
link inside the folder leads to what is found anyway, one out of it to what may not be meant. Where links are followed,
each folder is walked once, under the first path that leads to it, so that no loop of links is endless. What is no
regular file (a socket, a pipe, a device) is never opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from polymnia.data.container import SUFFIXES
from polymnia.data.names import escape
from polymnia.types import UserError

SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".m4a", ".mka")
PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
VIDEOS = tuple(sorted(SUFFIXES - {*SOUNDS}))
TEXTS = (".txt",)
Kind = Literal["audio", "image", "video", "text"]
KINDS: dict[str, Kind] = {
    **dict.fromkeys(SOUNDS, "audio"),
    **dict.fromkeys(PICTURES, "image"),
    **dict.fromkeys(VIDEOS, "video"),
    **dict.fromkeys(TEXTS, "text"),
}
SPECIAL = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
NAMED = 5  # examples of what was left out


@dataclass(frozen=True, slots=True)
class Medium:
    """A file: ``name`` is its path under the folder, ``changed`` its time of change in nanoseconds."""

    name: bytes
    kind: Kind
    size: int
    changed: int


@dataclass
class Skipped:
    """What was left out for one reason: how many, and the first few names as by ``escape``."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Walk:
    """``failed``: files with the name of a medium that cannot be one, and folders that cannot be read: name (as by
    ``escape``) and reason. ``unread``: those folders. ``skipped``: what was left out, by reason."""

    media: list[Medium] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    skipped: dict[str, Skipped] = field(default_factory=dict)

    def skip(self, name: bytes, why: str) -> None:
        """Count something that is left out."""
        known = self.skipped.setdefault(why, Skipped())
        known.count += 1
        if known.count <= NAMED:
            known.examples.append(escape(name))


def walk(root: Path, links: bool = False, without: Path | None = None) -> Walk:
    """The media in a folder and the folders inside it; ``links``: follow them. ``without``: a folder to leave out.

    Raises UserError where ``root`` is no folder that can be read. All else that cannot be used is in the answer.
    """
    if not root.is_dir():
        raise UserError(f"{escape(os.fsencode(root))} is no folder")
    found = Walk()
    seen = {_identity(os.stat(root))}
    if without is not None and without.is_dir():
        seen.add(_identity(os.stat(without)))
    try:
        with os.scandir(root):
            pass
    except OSError as error:
        raise UserError(f"the folder {escape(os.fsencode(root))} cannot be read: {error.strerror}") from error
    for name, entry in _files(os.fsencode(root), b"", found, links, seen):
        _take(name, entry, found, links)
    found.media.sort(key=lambda m: m.name)
    found.failed.sort()
    return found


def kind_of(name: bytes) -> Kind | None:
    """What a file is by its suffix."""
    return KINDS.get(os.fsdecode(os.path.splitext(name)[1]).lower())


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _files(
    root: bytes, top: bytes, found: Walk, links: bool, seen: set[tuple[int, int]]
) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Everything that is no folder, with its path under ``root``. A stack, not recursion: folders may be deep."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as listed:
                entries = sorted(listed, key=lambda e: e.name)
        except OSError as error:  # too deep for the system, or not ours to read
            found.failed.append((escape(folder), f"the folder cannot be read: {error.strerror}"))
            found.unread.append(escape(folder))
            continue
        inner = []
        for entry in entries:
            name = os.path.join(folder, entry.name)
            if entry.name.startswith(b"."):
                found.skip(name, "hidden")
            elif not _is_folder(entry, links):
                yield name, entry
            elif _enter(entry, links, seen):
                inner.append(name)
            else:
                found.skip(name, "a folder that was walked already")
        waiting += reversed(inner)


def _is_folder(entry: os.DirEntry[bytes], links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=links)
    except OSError:  # a loop of links
        return False


def _enter(entry: os.DirEntry[bytes], links: bool, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder is new; it is noted. Without links only ``without`` can be met again."""
    try:
        identity = _identity(entry.stat(follow_symlinks=links))
    except OSError:
        return True  # its scan will say why
    if identity in seen:
        return False
    if links:
        seen.add(identity)
    return True


def _take(name: bytes, entry: os.DirEntry[bytes], found: Walk, links: bool) -> None:
    kind = kind_of(name)
    link = entry.is_symlink()
    if link and not links:
        found.skip(name, "a link")
        return
    try:
        status = entry.stat()
    except OSError as error:
        reason = "is a link that leads nowhere" if link else error.strerror or str(error)
        _leave(name, kind, reason, found)
        return
    if not stat.S_ISREG(status.st_mode):
        _leave(name, kind, f"is {SPECIAL.get(stat.S_IFMT(status.st_mode), 'no regular file')}", found)
    elif kind is None:
        suffix = escape(os.path.splitext(name)[1].lower()[:20])
        found.skip(name, f"*{suffix}" if suffix else "no suffix")
    elif status.st_size == 0:
        found.failed.append((escape(name), "is empty (0 bytes)"))
    else:
        found.media.append(Medium(name, kind, status.st_size, status.st_mtime_ns))


def _leave(name: bytes, kind: Kind | None, reason: str, found: Walk) -> None:
    """What has the name of a medium is broken; anything else is only counted."""
    if kind is None:
        found.skip(name, reason.removeprefix("is "))
    else:
        found.failed.append((escape(name), reason))
