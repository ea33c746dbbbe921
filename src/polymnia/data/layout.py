"""Where the files of a data set lie: roots that are one folder off, and recordings under several naming habits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from polymnia.types import UserError

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".mkv")


def find_root(root: Path, inside: Sequence[str], what: str) -> Path:
    """``root``, if every path of ``inside`` exists under it.

    Raises UserError that says whether ``root`` is missing, one or two folders too high or too deep (and which folder
    to give instead), or what it lacks.
    """
    if _holds(root, inside):
        return root
    raise misplaced(root, inside, what)


def misplaced(root: Path, inside: Sequence[str], what: str) -> UserError:
    """The error for a ``root`` that lacks something of ``inside``, as ``find_root`` raises it."""
    hint = f"Point data=FOLDER (or the set's root) at the folder that holds {', '.join(inside)}."
    if not root.exists():
        return UserError(f"{what} not found: {root} does not exist. {hint}")
    for above in list(root.resolve().parents)[:2]:
        if _holds(above, inside):
            return UserError(f"{what}: {root} is a folder too deep; give {above} (data=FOLDER, or the set's root)")
    for below in sorted(_folders(root)) + sorted(b for a in _folders(root) for b in _folders(a)):
        if _holds(below, inside):
            return UserError(f"{what}: {root} is a folder too high; give {below} (data=FOLDER, or the set's root)")
    lacking = [name for name in inside if not (root / name).exists()]
    return UserError(f"{what}: {root} has no {', '.join(lacking)}. {hint}")


def refuse_neighbour(base: Path, inside: Path) -> None:
    """Raises UserError where ``inside`` is not under ``base``, the recipe's data folder, but under the folder above it
    or under one in it; the error says which to give."""
    if inside.is_absolute() or not inside.parts or (base / inside).exists():
        return
    above = base.resolve().parent
    for folder in (above, *sorted(_folders(base))):
        if (folder / inside).exists():
            off = "deep" if folder == above else "high"
            raise UserError(f"data={base} is a folder too {off} to hold {inside}; give data={folder}")


def _holds(root: Path, inside: Sequence[str]) -> bool:
    return all((root / name).exists() for name in inside)


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except OSError:
        return []


class Clips:
    """The media files of some folders (not of those inside them), by stem; each folder is listed once, not asked a
    clip at a time. An earlier folder wins over a later one, and an earlier of ``suffixes`` over a later,
    written as given over ``.WAV``."""

    def __init__(self, folders: Iterable[Path], suffixes: Sequence[str] = AUDIO):
        self._folders = list(folders)
        self._suffixes = tuple(suffixes)
        order = {suffix: n for n, suffix in enumerate(suffixes)}
        self._found: dict[str, tuple[int, int, bool, Path]] = {}
        for place, folder in enumerate(self._folders):
            if not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    stem, suffix = os.path.splitext(entry.name)
                    if suffix.lower() not in order:
                        continue
                    new = (place, order[suffix.lower()], suffix not in order, folder / entry.name)
                    if stem not in self._found or new < self._found[stem]:
                        self._found[stem] = new

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, stem: str) -> bool:
        return stem in self._found

    def path(self, *stems: str) -> Path:
        """The file of the first of ``stems`` that is there; where none is, the place where the first would be."""
        for stem in stems:
            if stem in self._found:
                return self._found[stem][-1]
        return self._folders[0] / f"{stems[0]}{self._suffixes[0]}"
