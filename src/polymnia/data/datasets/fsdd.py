"""Free Spoken Digit Dataset: six people saying the digits zero to nine, 8 kHz mono, half a second each.

Where to get it: https://github.com/Jakobovski/free-spoken-digit-dataset (Zohar Jackson and others).
Licence: CC BY-SA 4.0.
Layout: ``{digit}_{speaker}_{take}.wav`` in ``root`` or in ``root/recordings``. Takes 0 to 4 of every digit and speaker
are the official test set; every speaker is in training and in test.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from polymnia.config import nearest
from polymnia.data.items import DIGITS, DatasetConfig, Template, captions, check, require
from polymnia.types import AudioFile, Item, Split, UserError

TEST_TAKES = range(5)
NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")


class Config(DatasetConfig):
    """``valid_takes`` are taken from training; ``speakers``: only these (all when none is named); ``templates`` make
    the captions of a digit word."""

    speakers: tuple[str, ...] = ()
    valid_takes: tuple[int, ...] = ()
    templates: tuple[Template, ...] = Field(
        default=("the digit {}", "the number {}", "someone says {}", "{}"), min_length=1
    )

    @field_validator("valid_takes")
    @classmethod
    def _spare_the_test_takes(cls, takes: tuple[int, ...]) -> tuple[int, ...]:
        if clash := sorted(set(takes) & set(TEST_TAKES)):
            raise ValueError(f"take(s) {', '.join(map(str, clash))} belong to the official test set (takes 0 to 4)")
        return takes


def items(cfg: Config) -> list[Item]:
    """One item a recording, by digit, speaker, take.

    Raises UserError where the folder or the recordings are missing, or a wav file is not named as the data set does.
    """
    root = require(cfg.root, "the folder of the Free Spoken Digit Dataset")
    folder = root / "recordings" if (root / "recordings").is_dir() else root
    # "._0_george_0.wav" and the like are droppings of macOS archives
    files = [path for path in folder.glob("*.wav") if not path.name.startswith(".")]
    if not files:
        raise UserError(
            f"no recordings of the Free Spoken Digit Dataset in {folder}. "
            "Point data=FOLDER at the folder of the wav files, or at the repository that holds recordings/."
        )
    found = sorted((_parse(path), path) for path in files)
    known = {speaker for (_, speaker, _), _ in found}
    for name in cfg.speakers:
        if name not in known:
            raise UserError(f"speakers: nobody called '{name}' in {folder}; {nearest(name, sorted(known))}")
    wanted = set(cfg.speakers) or known
    kept = [_item(cfg, path, digit, take) for (digit, speaker, take), path in found if speaker in wanted]
    return check(kept, f"FSDD at {folder}")


def _parse(path: Path) -> tuple[int, str, int]:
    match = NAME.fullmatch(path.name)
    if match is None:
        raise UserError(
            f"{path} is not named {{digit}}_{{speaker}}_{{take}}.wav; move it out of the data set's folder"
        )
    return int(match[1]), match[2], int(match[3])


def _item(cfg: Config, path: Path, digit: int, take: int) -> Item:
    word = DIGITS[digit]
    split: Split = "test" if take in TEST_TAKES else "valid" if take in cfg.valid_takes else "train"
    return Item(
        id=path.stem,
        sources={
            "audio": AudioFile(path),
            "text": captions(cfg.templates, word),
        },
        group=word,
        topic=word,
        split=split,
        labels=(word,),
    )
