"""Speech Commands: people saying one of 35 words, 106 thousand recordings of a second (version 2).

Where to get it: http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz and, for the test set of twelve
classes, speech_commands_test_set_v0.02.tar.gz beside it (Warden, 2018).
Licence: CC BY 4.0.
Layout: ``root/<word>/<speaker>_nohash_<take>.wav``, with ``root/validation_list.txt`` and ``root/testing_list.txt``,
which keep each speaker on one side; ``root/_background_noise_`` is ignored. Or ``root`` is the separate test set: the
folders of ten words, ``_unknown_`` and ``_silence_``, and no lists.

Recordings of a word are positives of each other (``group`` is the word).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from polymnia.data.items import DatasetConfig, Template, captions, check
from polymnia.data.layout import find_root
from polymnia.data.official import find_layout, read_text
from polymnia.types import AudioFile, Item, Split, UserError

LISTS: dict[str, Split] = {"validation_list.txt": "valid", "testing_list.txt": "test"}
MARKERS = ("_unknown_", "_silence_")
CORE = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
NAME = re.compile(r"(?P<speaker>[0-9a-f]+)_nohash_(?P<take>\d+)\.wav")
Clip = tuple[str, Path, Split]  # class, file, split


class Config(DatasetConfig):
    """``test_set`` is the folder of the separate test set, under ``root``: it takes the place of ``testing_list.txt``,
    and every word but the ten of the task becomes ``unknown`` (``silence`` is in the test set alone).
    ``templates`` make captions of the word; without them items have no text."""

    test_set: Path | None = None
    templates: tuple[Template, ...] = ()


def items(cfg: Config) -> list[Item]:
    """One item a recording, by folder and file; what a list names and is missing stays in.

    Raises UserError where the layout, or every recording, is missing, a list names what is no recording of the set,
    and a file is not named as the set does.
    """
    what = f"Speech Commands at {cfg.root}"
    if find_layout(cfg.root, [list(LISTS), list(MARKERS)], "Speech Commands") == 1:
        found = list(_archive(cfg.root))
    else:
        found = list(_words(cfg.root))
        if cfg.test_set is not None:
            archive = find_root(cfg.root / cfg.test_set, list(MARKERS), "the test set of Speech Commands")
            found = [(w if w in CORE else "unknown", file, split) for w, file, split in found if split != "test"]
            found += _archive(archive)
    if not any(file.is_file() for _, file, _ in found):
        raise UserError(f"{what}: no recordings <word>/<speaker>_nohash_<take>.wav; point data=FOLDER at their folder")
    return check([_item(cfg, *clip) for clip in found], what)


def _words(root: Path) -> Iterator[Clip]:
    listed: dict[str, Split] = {}
    for name, split in LISTS.items():
        for number, line in enumerate(read_text(root / name).split("\n"), start=1):
            word, _, file = line.strip().partition("/")
            if not word:
                continue
            if word.startswith((".", "_")) or not NAME.fullmatch(file):
                raise UserError(
                    f"{root / name}, line {number}: '{line[:60]}' is not <word>/<speaker>_nohash_<take>.wav"
                )
            listed[f"{word}/{file}"] = split
    there = {f"{path.parent.name}/{path.name}" for path in root.glob("[!._]*/[!.]*.wav")}
    for place in sorted(there | listed.keys()):
        word, _, file = place.partition("/")
        if not NAME.fullmatch(file):
            raise UserError(f"{root / place} is not named <speaker>_nohash_<take>.wav; move it out of the data set")
        yield word, root / place, listed.get(place, "train")


def _archive(root: Path) -> Iterator[Clip]:
    for path in sorted(root.glob("[!.]*/[!.]*.wav")):
        if path.parent.name in (*CORE, *MARKERS):
            yield path.parent.name.strip("_"), path, "test"


def _item(cfg: Config, word: str, file: Path, split: Split) -> Item:
    sources = {"audio": AudioFile(file)}
    place = f"{file.parent.name}/{file.stem}"
    text = {"text": captions(cfg.templates, word)} if cfg.templates else {}
    origin = (f"speech_commands:{place}",) if NAME.fullmatch(file.name) else ()
    return Item(place, sources | text, group=word, topic=word, split=split, labels=(word,), origin=origin)
