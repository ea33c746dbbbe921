"""Files of a cache: written whole and flushed to disk before they have their name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from polymnia.types import UserError


def make_folder(folder: Path) -> None:
    """Raises UserError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} for decoded media: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one if there is none, or none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace the file in one step: a reader sees the old object or the new one."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with new.open("w") as file:
        json.dump(value, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
