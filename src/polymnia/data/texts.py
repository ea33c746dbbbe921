"""Texts in files of their own, and long ones in overlapping windows of words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polymnia.data.faults import MediaError, check_file

LARGEST = 16 << 20  # bytes; ten times War and Peace


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text in a file of its own, UTF-8."""

    path: Path


def read_text(path: Path) -> str:
    """The text of a file, without the white space around it.

    MediaError for what is missing, over ``LARGEST`` bytes, no UTF-8, holds NUL or nothing but white space.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise MediaError(path, f"cannot be read: {error.strerror}") from error
    if len(raw) > LARGEST:
        raise MediaError(path, f"is larger than {LARGEST >> 20} MiB; cut it into several files")
    if b"\0" in raw:
        raise MediaError(path, "is no text: it holds a NUL")
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise MediaError(path, f"is no UTF-8 (byte {error.start}: {error.reason})") from error
    if not text:
        raise MediaError(path, "holds nothing but white space")
    return text


def text_windows(text: str, words: int, size: int) -> list[str]:
    """Windows of at most ``words`` words and ``size`` bytes of UTF-8, each beginning in the middle of the one before.

    Words are what stands between white space, and are joined by single spaces; one of more than ``size`` bytes (a
    language that puts no spaces between words) is cut, between characters. The last window ends with the text, and may
    be shorter. At least one word, or one character, is in every window.
    """
    pieces = [piece for word in text.split() for piece in _pieces(word, size)]
    sizes = [len(piece.encode()) for piece in pieces]  # with the space in front, where there is one
    windows, first = [], 0
    while first < len(pieces):
        stop, room = first + 1, size - sizes[first]
        while stop < min(len(pieces), first + words) and sizes[stop] <= room:
            room -= sizes[stop]
            stop += 1
        windows.append("".join(pieces[first:stop]).lstrip())
        if stop == len(pieces):
            break
        first += max(1, (stop - first) // 2)
    return windows


def _pieces(word: str, size: int) -> list[str]:
    """A word with a space in front; a long one in pieces of a quarter of a window, so that windows of them overlap."""
    if len(word.encode()) < size:
        return [f" {word}"]
    pieces, piece = [], " "
    for character in word:
        if len(f"{piece}{character}".encode()) > max(1, size // 4) and piece.strip():
            pieces.append(piece)
            piece = ""
        piece += character
    return [*pieces, piece]
