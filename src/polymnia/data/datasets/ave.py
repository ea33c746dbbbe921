"""AVE: 4,143 videos of ten seconds with an event that is both heard and seen; 28 classes.

Where to get it: https://github.com/YapengTian/AVE-ECCV18, AVE_Dataset.zip (Tian et al., 2018).
Licence: none stated; for research. The videos are a part of AudioSet's.
Layout: ``root/{trainSet,valSet,testSet}.txt``, a line ``Category&VideoID&Quality&StartTime&EndTime`` a video, with or
without that line as a header (``Annotations.txt`` is the three together and is not read), and ``root/AVE/<id>.mp4``.

An item is a line, with the pictures and the sound of all ten seconds. 46 videos have two lines: their items are
positives of each other (``group`` is the video), and the second is called ``<id>.2``. Eight of the 402 videos for
testing are for training too, which ``origin`` shows: ``drop_leaks`` drops such lines. One line has an event of no
length; ``drop_empty`` drops it, but as whole clips are taken it does no harm.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from polymnia.data.items import OnlineConfig, Template, captions, check
from polymnia.data.layout import find_root
from polymnia.data.online import Media, seconds, youtube
from polymnia.types import Item, Split, UserError

DAMAGED = "\N{REPLACEMENT CHARACTER}"
# the test set first: there the id of an item is that of its video
LISTS: dict[str, Split] = {"testSet.txt": "test", "valSet.txt": "valid", "trainSet.txt": "train"}
COLUMNS = ("Category", "VideoID", "Quality", "StartTime", "EndTime")
FOLDERS = ("AVE", "video", "videos", "audio", "Audio", "wav", ".")
CATEGORIES = (
    *("Church bell", "Male speech, man speaking", "Bark", "Fixed-wing aircraft, airplane", "Race car, auto racing"),
    *("Female speech, woman speaking", "Helicopter", "Violin, fiddle", "Flute", "Ukulele", "Frying (food)", "Truck"),
    *("Shofar", "Motorcycle", "Acoustic guitar", "Train horn", "Clock", "Banjo", "Goat", "Baby cry, infant cry"),
    *("Bus", "Chainsaw", "Cat", "Horse", "Toilet flush", "Rodents, rats, mice", "Accordion", "Mandolin"),
)
Line = tuple[str, str, float]  # category, video, length of the event


class Config(OnlineConfig):
    """``drop_leaks``: no line for training or validation of a video that is in the test set, nor for training of one
    in validation. ``templates`` make captions of the category; without them items have no text."""

    drop_leaks: bool = False
    drop_empty: bool = False
    templates: tuple[Template, ...] = ()


def items(cfg: Config) -> list[Item]:
    """One item a line: the test set, then validation, then training.

    Raises UserError for a list that is missing or malformed (a stray byte in a category is mended), and where not one
    clip is there.
    """
    root = find_root(cfg.root, list(LISTS), "AVE")
    media = Media(root, FOLDERS, f"AVE at {root}", films=True)
    found = []
    count: Counter[str] = Counter()
    for name, split in LISTS.items():
        held_out = set(count) if cfg.drop_leaks else set()
        for category, video, length in _read(root / name):
            if video in held_out or (cfg.drop_empty and length <= 0):
                continue
            count[video] += 1
            found.append(_item(cfg, category, video, count[video], split, media))
    media.require_some("<id>")
    return check(found, f"AVE at {root}")


def _read(table: Path) -> Iterator[Line]:
    text = table.read_bytes().decode("utf-8-sig", errors="replace")  # a stray byte must not lose the other lines
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{table}, line {number}"
        cells = [cell.strip() for cell in line.split("&")]
        if not line.strip() or (number == 1 and cells == list(COLUMNS)):
            continue
        if len(cells) != len(COLUMNS) or not cells[0]:
            raise UserError(f"{where}: '{line[:60].strip()}' where {'&'.join(COLUMNS)} is expected")
        youtube(cells[1], where)
        yield _mended(cells[0], where), cells[1], seconds(cells[4], where) - seconds(cells[3], where)


def _mended(category: str, where: str) -> str:
    if DAMAGED not in category:
        return category
    known = difflib.get_close_matches(category.replace(DAMAGED, " "), CATEGORIES, n=1, cutoff=0.8)
    if not known:
        raise UserError(f"{where}: '{category[:40]}' is not UTF-8, and near no category of AVE")
    return known[0]


def _item(cfg: Config, category: str, video: str, time: int, split: Split, media: Media) -> Item:
    sources = media.sources([video])
    if cfg.templates:
        sources["text"] = captions(cfg.templates, category)
    name = video if time == 1 else f"{video}.{time}"
    origin = f"youtube:{video}"
    return Item(name, sources, group=origin, topic=category, split=split, labels=(category,), origin=(origin,))
