"""AudioCaps: people's descriptions of 51 thousand clips of AudioSet, ten seconds each.

Where to get it: https://github.com/cdjkim/audiocaps has the tables (Kim et al., 2019; version 2: 2025). Everyone
fetches the sound, with packages such as aac-datasets or audiocaps-download; a good part of the videos is gone.
Licence: for academic purposes only.
Layout: ``train.csv``, ``val.csv`` and ``test.csv`` with the columns audiocap_id, youtube_id, start_time, caption in
``root``, or (version 1) in ``root/dataset`` or ``root/csv_files_v1``, (version 2) in ``root/dataset2.0`` or
``root/csv_files_v2``. Clips ``Y<youtube_id>.wav``, ``<youtube_id>_<start>.flac`` or ``<audiocap_id>.wav`` in ``root``,
``root/audio``, ``root/audio/<split>`` or ``root/audio_32000Hz/<split>``.

An item is a clip, missing ones included, with all its captions: one in training, five in validation and test. The
clips are part of AudioSet: training on the one and testing on the other is a leak, which ``origin`` shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from polymnia.data.captions import clean
from polymnia.data.items import OnlineConfig, check
from polymnia.data.official import find_layout, read_rows
from polymnia.data.online import Media, names, seconds, youtube
from polymnia.data.table import Row
from polymnia.types import Captions, Item, Split

COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
SPLITS: dict[str, Split] = {"train": "train", "val": "valid", "test": "test"}
TABLES = {1: ("dataset", "csv_files_v1", "."), 2: ("dataset2.0", "csv_files_v2", ".")}
FOLDERS = ("audio_32000Hz", "audio", "audios", "waveforms", "wav", *SPLITS, ".")


class Config(OnlineConfig):
    """``version`` of the tables. Captions are in lower case with mended spaces; ``punctuation: false`` drops marks."""

    version: Literal[1, 2] = 1
    punctuation: bool = True


def items(cfg: Config) -> list[Item]:
    """One item a clip, in the order in which the tables first name it.

    Raises UserError for a table that is missing or of another version, an empty caption, and where no clip is there.
    """
    layouts = [[f"{folder}/{name}.csv" for name in SPLITS] for folder in TABLES[cfg.version]]
    tables = layouts[find_layout(cfg.root, layouts, f"AudioCaps (version {cfg.version})")]
    media = Media(cfg.root, FOLDERS, f"AudioCaps at {cfg.root}")
    found = []
    for name, table in zip(SPLITS, tables, strict=True):
        clips: dict[str, list[Row]] = {}
        for row in read_rows(cfg.root / table, COLUMNS):
            clips.setdefault(row.word("youtube_id"), []).append(row)
        found += [_item(cfg, name, rows, media) for rows in clips.values()]
    media.require_some("Y<youtube_id>", "<youtube_id>_<start>", "<audiocap_id>")
    return check(found, f"AudioCaps at {cfg.root}")


def _item(cfg: Config, name: str, rows: Sequence[Row], media: Media) -> Item:
    first = rows[0]
    video, start = first.word("youtube_id"), seconds(first.word("start_time"), first.where)
    origin = youtube(video, first.where)
    sources = media.sources([*names(video, start, start + 10), *map(_number, rows)])
    sources["text"] = Captions(tuple(_caption(cfg, row) for row in rows))
    key = f"{name}/{video}"
    return Item(key, sources, group=key, split=SPLITS[name], origin=(origin,))


def _number(row: Row) -> str:
    number = row.word("audiocap_id")
    if not number.isalnum():
        raise row.fault(f"audiocap_id must be a number, not '{number[:40]}'")
    return number


def _caption(cfg: Config, row: Row) -> str:
    text = clean(row.word("caption"), cfg.punctuation)
    if not text:
        raise row.fault("empty caption")
    return text
