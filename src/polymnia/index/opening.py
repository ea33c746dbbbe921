"""Where an index is, or may be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymnia.index.database import ITEMS, connect, explained, is_local, place
from polymnia.types import UserError


def tables(base: Any) -> list[str]:
    """The names of a database's tables."""
    return list(base.table_names(limit=1000))


def there_is(uri: str) -> bool:
    """Whether there is a table where an index has it."""
    if is_local(place(uri)):
        return (Path(uri) / f"{ITEMS}.lance").is_dir()
    with explained(uri):
        return ITEMS in tables(connect(uri))


def make_room(folder: Path) -> None:
    """Raises UserError where a new index would lie among other files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name != f"{ITEMS}.lance"]
    except OSError as error:
        raise UserError(f"{folder}: no folder can be made there ({error.strerror or error})") from error
    if others:
        raise UserError(f"{folder} is not empty (it has {others[0]}); create the index in a new folder")


def look(folder: Path) -> None:
    """Raises UserError for a folder that is no index, or is not there."""
    if not folder.exists():
        raise UserError(f"no index at {folder}; make one: `polymnia index create {folder} VECTORS`")
    if (folder / "recipe.yaml").exists():
        raise UserError(f"{folder} is a run, no index; embed with it first: `polymnia embed {folder} FILES --out ...`")
    if not folder.is_dir() or not (folder / f"{ITEMS}.lance").is_dir():
        raise UserError(f"{folder} is no index: there is no {ITEMS}.lance in it")


def go_back(table: Any, version: int, uri: str) -> None:
    """Show a table as it was. Raises UserError for a version that is not there."""
    there = [v["version"] for v in table.list_versions()]
    if version not in there:
        raise UserError(f"{uri} has no version {version}; `polymnia index versions {uri}` lists those there are")
    table.checkout(version)
