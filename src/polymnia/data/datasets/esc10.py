"""ESC-10: 400 environmental recordings of about five seconds, ten classes, five folds that share no source recording.

Where to get it: https://github.com/karolpiczak/ESC-10 (Karol J. Piczak, 2015).
Licence: CC BY 3.0; the licence of each clip is in its README.
Layout: ``root/001 - Dog bark/1-100032-A.ogg``: class, then fold, source recording, take. The takes of a recording are
in one fold, so split by fold only. A ``root/meta.csv`` (columns file, fold, target, category; more are ignored), if
there is one, says where the files are instead.

Clips of a class have the same captions and are positives of each other (``group`` is the category). Items come in
target order, so the order in which ``labels`` first appear is the official order of the classes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from polymnia.config import nearest
from polymnia.data.folds import TEMPLATES
from polymnia.data.items import DatasetConfig, Template, captions, check, require
from polymnia.types import AudioFile, Item, Split, UserError

COLUMNS = ("file", "fold", "target", "category")
PHRASES = {
    "dog_bark": "a dog barking",
    "rain": "rain",
    "sea_waves": "sea waves",
    "baby_cry": "a baby crying",
    "clock_tick": "a clock ticking",
    "person_sneeze": "a person sneezing",
    "helicopter": "a helicopter",
    "chainsaw": "a chainsaw",
    "rooster": "a rooster crowing",
    "fire_crackling": "a crackling fire",
}
PLACE = re.compile(r"(?P<class>\d{3}) - (?P<name>[^/]+)/(?P<fold>\d)-[^/]+\.ogg")
Row = tuple[str, int, int, str]  # file, fold, target, category


class Config(DatasetConfig):
    """``test_fold`` and ``valid_fold`` are held out; ``names`` replaces the phrase of a category in the captions."""

    test_fold: int = 1
    valid_fold: int | None = None
    templates: tuple[Template, ...] = Field(default=TEMPLATES, min_length=1)
    names: dict[str, str] = PHRASES

    @model_validator(mode="after")
    def _folds_and_names_make_sense(self) -> Config:
        if self.valid_fold == self.test_fold:
            raise ValueError(f"valid_fold and test_fold are both {self.test_fold}; choose different folds")
        for name in self.names:
            if name not in PHRASES:
                raise ValueError(f"names: unknown category '{name}'; {nearest(name, list(PHRASES))}")
        return self


def items(cfg: Config) -> list[Item]:
    """One item a clip, in target order; a clip that ``meta.csv`` names and that is missing stays in.

    Raises UserError where ``meta.csv`` is malformed, a held-out fold is unknown, or no recording exists at all.
    """
    meta = require(cfg.root, "the ESC-10 folder") / "meta.csv"
    rows = sorted(_read(meta) if meta.exists() else _walk(cfg.root), key=lambda row: (row[2], row[0]))
    _require_a_file(cfg.root, [cfg.root / file for file, _, _, _ in rows])
    folds = sorted({fold for _, fold, _, _ in rows})
    for key, fold in (("test_fold", cfg.test_fold), ("valid_fold", cfg.valid_fold)):
        if fold is not None and fold not in folds:
            raise UserError(f"{key}: {cfg.root} has no fold {fold}; folds: {', '.join(map(str, folds))}")
    return check([_item(cfg, file, fold, category) for file, fold, _, category in rows], f"ESC-10 at {cfg.root}")


def _walk(root: Path) -> list[Row]:
    matches = [PLACE.fullmatch(path.relative_to(root).as_posix()) for path in root.glob("*/*.ogg")]
    return [(m[0], int(m["fold"]), int(m["class"]) - 1, m["name"].lower().replace(" ", "_")) for m in matches if m]


def _read(meta: Path) -> list[Row]:
    with meta.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        missing = [c for c in COLUMNS if c not in columns]
        if missing:
            raise UserError(f"{meta} lacks the column(s) {', '.join(missing)}; it has: {', '.join(columns)}")
        rows = []
        for row in reader:
            if None in row.values():
                raise UserError(f"{meta}, line {reader.line_num}: the row has fewer cells than there are columns")
            try:
                rows.append((row["file"], int(row["fold"]), int(row["target"]), row["category"]))
            except ValueError as error:
                raise UserError(f"{meta}, line {reader.line_num}: fold and target must be whole numbers") from error
    return rows


def _item(cfg: Config, file: str, fold: int, category: str) -> Item:
    phrase = (PHRASES | cfg.names).get(category, category.replace("_", " "))
    held_out: dict[int | None, Split] = {cfg.valid_fold: "valid", cfg.test_fold: "test"}
    return Item(
        id=Path(file).stem,
        sources={
            "audio": AudioFile(cfg.root / file),
            "text": captions(cfg.templates, phrase),
        },
        group=category,
        topic=category,
        split=held_out.get(fold, "train"),
        labels=(category,),
        fold=fold,
    )


def _require_a_file(root: Path, paths: Sequence[Path]) -> None:
    # the loader counts single missing clips as failed media; none at all means the recordings are somewhere else
    if not any(path.is_file() for path in paths):
        first = f" (looked for {paths[0]} first)" if paths else ""
        raise UserError(
            f"no recordings of ESC-10 in {root}{first}. Point data=FOLDER at the folder of the class folders, "
            "'001 - Dog bark' and so on."
        )
