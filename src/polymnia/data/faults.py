"""What is said of a medium that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

from polymnia.types import UserError


class MediaError(UserError):
    """A medium that cannot be read: the file, and the reason."""

    def __init__(self, path: Path, reason: str):
        super().__init__(path, reason)  # both in args, so that it crosses process borders
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def check_file(path: Path) -> None:
    """Raise MediaError for what is no regular file, an empty one, or one that may not be read."""
    try:
        found, size = path.is_file(), path.stat().st_size
    except OSError as error:
        raise MediaError(path, error.strerror or str(error)) from error
    if not found:
        raise MediaError(path, "is not a regular file")
    if size == 0:
        raise MediaError(path, "is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise MediaError(path, "may not be read: permission denied")
