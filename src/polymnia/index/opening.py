"""Where an index is, or may be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymnia.index.database import ITEMS, connect, explained, is_local, place
from polymnia.types import UserError


def there_is(uri: str) -> bool:
    """Whether there is a table where an index has it, of which at least one version was committed."""
    if is_local(place(uri)):
        return any((Path(uri) / f"{ITEMS}.lance" / "_versions").glob("*.manifest"))
    with explained(uri):
        base, token = connect(uri), None
        while ITEMS not in (found := base.list_tables(page_token=token)).tables and found.page_token:
            token = found.page_token
        return ITEMS in found.tables


def make_room(folder: Path) -> None:
    """Raises UserError where a new index would lie among other files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name != f"{ITEMS}.lance"]
    except OSError as error:
        raise UserError(f"{folder}: no folder can be made there ({error.strerror or error})") from error
    if others:
        raise UserError(f"{folder} is not empty (it has {others[0]}); create the index in a new folder")


def look(uri: str) -> None:
    """Raises UserError for what is no index, or is not there."""
    folder = Path(uri)
    if is_local(uri) and not folder.exists():
        raise UserError(f"no index at {folder}; make one: `polymnia index create {folder} VECTORS`")
    if is_local(uri) and (folder / "recipe.yaml").exists():
        raise UserError(f"{folder} is a run, no index; embed with it first: `polymnia embed {folder} FILES --out ...`")
    if not there_is(uri):
        raise UserError(f"{uri} is no index: there is no {ITEMS}.lance in it, or nothing was ever written to it")


def go_back(table: Any, version: int, uri: str) -> None:
    """Show a table as it was. Raises UserError for a version that is not there."""
    there = [v["version"] for v in table.list_versions()]
    if version not in there:
        raise UserError(f"{uri} has no version {version}; `polymnia index versions {uri}` lists those there are")
    table.checkout(version)
