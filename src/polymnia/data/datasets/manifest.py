"""Your own collection: a folder with recordings, pictures or both, and a table that says what belongs together.

Where to get it: you write it, so the licence is yours.
Layout: ``root/manifest.csv`` (UTF-8, commas), or one JSON object a line (``file: list.jsonl``), with the columns

- ``id``: required, unique
- ``audio``, ``image``: a file, relative to ``root`` and inside it; may be empty. Either may be a video (mp4, mkv ...),
  of which the sound or the frames are taken
- ``video``: a file that is both: its sound is the audio and its frames are the image, unless the row gives others
- ``text``, ``text_2``, ...: captions that say the same thing (in JSON lines, ``text`` may be a list). Where the table
  has a column ``text``, every row fills it; further captions may be empty
- ``group``: rows of the same group are positives of each other; the id if empty
- ``topic``: what an item is about, for splitting into tasks and for ``join``; may be empty
- ``split``: train, valid or test; train if empty
- ``labels``: class names, separated by ``;`` (or a list)
- ``start``, ``seconds``: the stretch of the recording and of the video to take, in seconds; the whole file if empty

At least one of audio, image and text is required. Without a column ``split``, ``test_share`` and ``valid_share`` are
drawn by a hash of the group: a row keeps its split when others come and go, and no group is torn apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from polymnia.config import nearest
from polymnia.data.container import is_container
from polymnia.data.items import check, require
from polymnia.data.shares import SharesConfig
from polymnia.data.table import Row, read
from polymnia.types import (
    MODALITIES,
    AudioFile,
    Captions,
    ImageFile,
    Item,
    Modality,
    Source,
    Split,
    UserError,
    VideoFile,
)

COLUMNS = ("id", *MODALITIES, "video", "text_2", "group", "topic", "split", "labels", "start", "seconds")
CAPTION = re.compile(r"text(_[1-9]\d*)?")


class Config(SharesConfig):
    """``file`` is relative to ``root``; the shares are for tables without a column ``split``."""

    file: Path = Path("manifest.csv")


def items(cfg: Config) -> list[Item]:
    """One item a row, in the order of the table; media files that are missing are found out when they are loaded.

    Raises UserError, naming file and line, for a table that cannot be read or a row that breaks the layout.
    """
    table = require(require(cfg.root, "the folder of the collection") / cfg.file, "the manifest")
    rows = read(table, _check_columns)
    has_split = any("split" in row.cells for row in rows)
    if has_split and (cfg.test_share or cfg.valid_share):
        raise UserError(f"{table} has a column 'split': leave out test_share and valid_share, or the column")
    folder = cfg.root.resolve()
    seen: dict[str, str] = {}
    found = []
    for row in rows:
        item = _item(cfg, row, folder, has_split)
        if item.id in seen:
            raise row.fault(f"duplicate id '{item.id}', first at {seen[item.id]}")
        seen[item.id] = row.where
        found.append(item)
    return check(found, str(table))


def _check_columns(row: Row, columns: Sequence[str]) -> None:
    there = f"there are: {', '.join(columns) or 'none'}"
    if "id" not in columns:
        raise row.fault(f"the required column 'id' is missing; {there}")
    if not any(name in ("audio", "image", "video") or CAPTION.fullmatch(name) for name in columns):
        raise row.fault(f"at least one of the columns audio, image, text is required (video is both); {there}")
    for name in columns:
        if name not in COLUMNS and not CAPTION.fullmatch(name):
            raise row.fault(f"unknown column '{name}'; {nearest(name, list(COLUMNS))}")
    if len(set(columns)) < len(columns):
        raise row.fault(f"a column stands there twice; {there}")


def _item(cfg: Config, row: Row, folder: Path, has_split: bool) -> Item:
    name = row.word("id")
    if not name:
        raise row.fault("empty id")
    group = row.word("group") or name
    split = row.word("split") or "train" if has_split else cfg.drawn(group)
    if split not in get_args(Split):
        raise row.fault(f"unknown split '{split}'; {nearest(split, list(get_args(Split)))}")
    sources = _sources(row, folder)
    return Item(name, sources, group, topic=row.word("topic"), split=split, labels=_labels(row))


def _sources(row: Row, folder: Path) -> dict[Modality, Source]:
    start, seconds = row.seconds("start"), row.seconds("seconds", zero=False)
    sources: dict[Modality, Source] = {}
    if sound := _inside(row, folder, "audio") or _inside(row, folder, "video"):
        sources["audio"] = AudioFile(sound, start or 0.0, seconds)
    if picture := _inside(row, folder, "image") or _inside(row, folder, "video"):
        moving = is_container(picture)
        sources["image"] = VideoFile(picture, start or 0.0, seconds) if moving else ImageFile(picture)
    timed = any(isinstance(s, (AudioFile, VideoFile)) for s in sources.values())
    if not timed and (start is not None or seconds is not None):
        raise row.fault("start and seconds cut a recording or a video, but the row has neither")
    if captions := _captions(row):
        sources["text"] = Captions(captions)
    if not sources:
        raise row.fault("the row has none of audio, image and text")
    return sources


def _inside(row: Row, folder: Path, key: str) -> Path | None:
    if not row.word(key):
        return None
    path = folder / row.word(key)
    try:
        inside = path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name no file can have
        inside = False
    if not inside:
        # a table from elsewhere must not make the loader open (or publish) other files of this machine
        raise row.fault(f"{key} '{row.word(key)}' leads out of the data folder {folder}; move the file into it")
    return path


def _captions(row: Row) -> tuple[str, ...]:
    first = row.cells.get("text", [])
    further = sorted((key for key in row.cells if CAPTION.fullmatch(key) and key != "text"), key=lambda k: int(k[5:]))
    texts = [*(first if isinstance(first, list) else [first]), *(row.cells[k] for k in further if row.cells[k] != "")]
    if not all(isinstance(text, str) for text in texts):
        raise row.fault("text must be a caption or a list of captions")
    if not all(text.strip() for text in texts) or ("text" in row.cells and not texts):
        raise row.fault("empty caption; fill it in, or leave the key out in a .jsonl manifest")
    return tuple(text.strip() for text in texts)


def _labels(row: Row) -> tuple[str, ...]:
    value = row.cells.get("labels", "")
    parts = value if isinstance(value, list) else row.word("labels").split(";")
    if not all(isinstance(part, str) for part in parts):
        raise row.fault(f"labels must be texts, not {value!r}")
    return tuple(part.strip() for part in parts if part.strip())
