"""From rows of an index, or items of a run, to what the server shows of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from polymnia.data.names import unescape
from polymnia.index.schema import WHOLE
from polymnia.serve.service import Entry, Medium
from polymnia.types import MODALITIES, AudioFile, Captions, ImageFile, Item, Modality, VideoFile

SHOWN = (
    "id", "modality", "root", "source", "entry", "window", "start", "end", "duration", "caption", "topic", "task",
)  # fmt: skip


def entries(rows: Iterable[Mapping[str, Any]]) -> dict[str, Entry]:
    """The items of these rows (dicts of the columns ``SHOWN``), by id. Windows say nothing that the whole does not."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["window"] == WHOLE:
            found.setdefault(row["id"], []).append(row)
    return {name: _entry(name, whole) for name, whole in found.items()}


def _entry(name: str, rows: list[Mapping[str, Any]]) -> Entry:
    by_kind: dict[Modality, Mapping[str, Any]] = {row["modality"]: row for row in rows}
    kinds = tuple(m for m in MODALITIES if m in by_kind)
    media = {m: medium for m in kinds if m != "text" and (medium := _medium(by_kind[m])) is not None}

    def first(column: str) -> Any:
        return next((by_kind[m][column] for m in kinds if by_kind[m][column] is not None), None)

    return Entry(name, kinds, media, first("caption"), first("topic"), first("task"), first("duration"))


def _medium(row: Mapping[str, Any]) -> Medium | None:
    if row["root"] is None or row["source"] is None:
        return None
    root, name = (Path(os.fsdecode(unescape(row[column]))) for column in ("root", "source"))
    start, end = row["start"], row["end"]
    seconds = None if start is None or end is None else end - start
    return Medium(root, root / name, row["entry"], start or 0.0, seconds)


def of_item(item: Item, task: str | None, base: Path) -> Entry:
    """A run's item. Files under ``base`` have that as their root, others their own folder."""
    words = item.sources.get("text")
    caption = words.texts[0] if isinstance(words, Captions) and words.texts else None
    media: dict[Modality, Medium] = {}
    for kind, source in item.sources.items():
        if isinstance(source, Captions):
            continue
        path = Path(os.path.abspath(source.path))
        root = base if path.is_relative_to(base) else path.parent
        if isinstance(source, ImageFile):
            media[kind] = Medium(root, path, source.index)
        elif isinstance(source, (AudioFile, VideoFile)):
            media[kind] = Medium(root, path, None, source.start, source.seconds)
    kinds = tuple(m for m in MODALITIES if m in item.sources)
    return Entry(item.id, kinds, media, caption, item.topic or None, task)
