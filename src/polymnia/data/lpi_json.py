"""The JSON that LPI learns COCO from (ACM MM 2024, its public code): a supercategory a picture, by its number.

``retrieval_train2014.json`` is a list with an entry a caption (image, image_id, caption, category),
``retrieval_val2014.json`` one with an entry a picture (image, caption: a list, category); so for other splits, by
whether their names begin with "train". ``image`` is a path under the data set's root, ``category`` a number from 1 in
COCO's order of supercategories. The authors' own two files can be had from a cloud drive only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from polymnia.data.coco import SUPERCATEGORIES, Picture
from polymnia.data.official import read_json
from polymnia.data.table import Row

NAMED = re.compile(r"(?:COCO_\w+_)?(\d{12})")


def split_file(split: str) -> str:
    """The name of the file of a split, such as train2014."""
    return f"retrieval_{split}.json"


def image_id(file: str) -> str:
    """COCO's id of a picture, from the official names of both releases; empty for another name."""
    found = NAMED.fullmatch(PurePosixPath(file).stem)
    return str(int(found[1])) if found else ""


def entries(split: str, pictures: Iterable[Picture]) -> Iterator[dict[str, Any]]:
    """The entries of a split, in the order of its pictures. Those without captions or topic have no place in it."""
    for picture in pictures:
        if not picture.topic or not picture.captions:
            continue
        category = SUPERCATEGORIES.index(picture.topic) + 1
        if not split.startswith("train"):
            yield {"image": picture.file, "caption": list(picture.captions), "category": category}
            continue
        number = image_id(picture.file)
        for caption in picture.captions:
            named = {"image": picture.file, "image_id": int(number) if number else picture.file}
            yield {**named, "caption": caption, "category": category}


def read_entries(path: Path, split: str) -> list[Picture]:
    """The pictures of a file, in its order. Of an ``image`` that is a bare name, the folder is the split.

    Raises UserError, naming the entry, for what is not in this layout, or leads out of the data set's root.
    """
    pictures: dict[str, Picture] = {}
    for number, cells in enumerate(read_json(path, list), start=1):
        row = Row(f"{path}, entry {number}", cells if isinstance(cells, dict) else {})
        file, texts, topic = _image(row, split), _captions(row), _topic(row)
        known = pictures.get(file, Picture(file, (), topic))
        if known.topic != topic:
            raise row.fault(f"'{file}' is of the category {known.topic} in an earlier entry, and here {topic}")
        pictures[file] = Picture(file, known.captions + texts, topic)
    return list(pictures.values())


def _image(row: Row, split: str) -> str:
    name = row.cells.get("image")
    if not isinstance(name, str) or not name.strip():
        raise row.fault("no image; expected image, caption and category, as LPI has them")
    path = PurePosixPath(name.strip())
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise row.fault(f"image {name!r:.80} leads out of the data set's folder")
    return str(path if len(path.parts) > 1 else split / path)


def _captions(row: Row) -> tuple[str, ...]:
    told = row.cells.get("caption")
    texts = tuple(told) if isinstance(told, list) else (told,)
    if not all(isinstance(text, str) for text in texts):
        raise row.fault("caption must be a text, or a list of texts")
    return texts


def _topic(row: Row) -> str:
    number = row.cells.get("category")
    if type(number) is not int or not 1 <= number <= len(SUPERCATEGORIES):
        raise row.fault(f"category must be a whole number from 1 to {len(SUPERCATEGORIES)}, not {number!r:.40}")
    return SUPERCATEGORIES[number - 1]
