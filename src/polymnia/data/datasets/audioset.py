"""AudioSet: clips of ten seconds from two million videos, each with some of 527 labels.

Where to get it: https://research.google.com/audioset/download.html has the tables (Gemmeke et al., 2017); everyone
fetches the clips, and a good part of the videos is gone.
Licence: labels CC BY 4.0; the sound is not distributed.
Layout: ``root/{balanced_train,eval,unbalanced_train}_segments.csv`` and ``root/class_labels_indices.csv``, or all in
``root/metadata``; clips ``root/audios/balanced_train_segments/Y<id>.wav`` (PANNs; also one folder deeper, as in the
parts of ``unbalanced_train_segments``), ``root/audio/bal_train/<id>.flac`` and the like: the folders and the clips may
have any of the usual names.

An item is a row of the tables, missing clips included, with the display names of its labels in official order.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from polymnia.data.items import OnlineConfig, check
from polymnia.data.official import find_layout, read_rows, whole
from polymnia.data.online import Media, names, seconds, youtube
from polymnia.data.shares import SharesConfig
from polymnia.types import Item, Split, UserError

Segments = Literal["balanced_train", "unbalanced_train", "eval"]
COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
CLASSES = "class_labels_indices.csv"
FOLDERS: dict[Segments, tuple[str, ...]] = {
    "balanced_train": ("balanced_train_segments", "balanced_train", "bal_train", "train", "balanced"),
    "unbalanced_train": ("unbalanced_train_segments", "unbalanced_train", "unbal_train", "unbalanced"),
    "eval": ("eval_segments", "eval", "evaluation", "test"),
}
Classes = Mapping[str, tuple[int, str]]  # machine id -> index, display name


class Config(SharesConfig, OnlineConfig):
    """``splits`` says what each official part is for. ``valid_share`` and ``test_share`` of what is for training are
    held out: ``{balanced_train: train}`` with a ``test_share`` splits the balanced part within itself."""

    splits: dict[Segments, Split] = Field({"balanced_train": "train", "eval": "test"}, min_length=1)


def items(cfg: Config) -> list[Item]:
    """One item a row of the chosen parts, in the order of the tables.

    Raises UserError for a table that is missing or of another version, an unknown label, and a part without any clip.
    """
    tables = [CLASSES, *(f"{part}_segments.csv" for part in cfg.splits)]
    layouts = [tables, [f"metadata/{name}" for name in tables]]
    folder = cfg.root / ("", "metadata")[find_layout(cfg.root, layouts, "AudioSet")]
    rows = read_rows(folder / CLASSES, ("index", "mid", "display_name"))
    classes = {row.word("mid"): (whole(row, "index"), row.word("display_name")) for row in rows}
    found = []
    for part, split in cfg.splits.items():
        places = [f"{above}/{name}" for above in ("audios", "audio") for name in FOLDERS[part]]
        media = Media(cfg.root, [*places, "audios", "audio", *FOLDERS[part], "."], f"AudioSet ({part})")
        table = folder / f"{part}_segments.csv"
        found += [_item(cfg, where, cells, split, classes, media) for where, cells in _rows(table)]
        media.require_some("Y<id>", "<id>", "<id>_<start>_<end>")
    return check(found, f"AudioSet at {cfg.root}")


def _rows(table: Path) -> Iterator[tuple[str, list[str]]]:
    with table.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, skipinitialspace=True, strict=True)
        try:
            for cells in reader:
                if not cells or cells[0].startswith("#"):  # no id does: an id has letters, digits, - and _
                    continue
                where = f"{table}, line {reader.line_num}"
                if len(cells) != len(COLUMNS):
                    raise UserError(
                        f"{where}: {len(cells)} cell(s), the first '{cells[0][:40]}', where {', '.join(COLUMNS)} are "
                        "expected; is this another version of the table?"
                    )
                yield where, cells
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{table}, behind line {reader.line_num}: {error}") from error


def _item(cfg: Config, where: str, cells: list[str], split: Split, classes: Classes, media: Media) -> Item:
    video = cells[0]
    origin = youtube(video, where)
    stems = names(video, seconds(cells[1], where), seconds(cells[2], where))
    mids = [mid.strip() for mid in cells[3].split(",")]
    if unknown := [mid for mid in mids if mid not in classes]:
        raise UserError(f"{where}: {CLASSES} has no label '{unknown[0][:40]}'")
    return Item(
        video,
        media.sources(stems),
        group=video,
        split=cfg.drawn(video) if split == "train" else split,
        labels=tuple(name for _, name in sorted(classes[mid] for mid in mids)),
        origin=(origin,),
    )
