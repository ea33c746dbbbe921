"""COCO's official JSON: pictures with their captions, and the supercategory that covers most of each.

The rule (ours: LPI, which learns COCO's supercategories one after another, does not say how it chose one where a
picture has several): the supercategory whose objects have the largest total ``area`` (in square pixels, those of
crowds included); of equal ones, that of the lowest category id, which is the first in COCO's own order.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from polymnia.config import nearest
from polymnia.data.official import read_json, stem
from polymnia.data.table import Row
from polymnia.types import UserError

# in the order of their categories' ids, which are in one piece each; LPI numbers them from 1
SUPERCATEGORIES = (
    *("person", "vehicle", "outdoor", "animal", "accessory", "sports", "kitchen", "food", "furniture"),
    *("electronic", "appliance", "indoor"),
)
Areas = dict[int, list[tuple[str, float]]]  # of each picture: supercategory and area of every object


class Picture(NamedTuple):
    """A picture, by its path under the data set's root; ``topic`` is empty where nothing in it is annotated."""

    file: str
    captions: tuple[str, ...]
    topic: str


def supercategory(objects: Iterable[tuple[str, float]]) -> str:
    """The supercategory of a picture, from the supercategory and the area of each of its objects; empty for none."""
    areas: dict[str, list[float]] = {}
    for name, area in objects:
        areas.setdefault(name, []).append(area)
    total = {name: math.fsum(some) for name, some in areas.items()}  # exact: the order of the file decides nothing
    return min(total, key=lambda name: (-total[name], SUPERCATEGORIES.index(name)), default="")


def captions_file(split: str) -> str:
    """The name of the official captions of a split, such as train2014."""
    return f"captions_{split}.json"


def instances_file(split: str) -> str:
    """The name of the official objects of a split."""
    return f"instances_{split}.json"


def read_split(folder: Path, split: str, objects: bool = True) -> list[Picture]:
    """The pictures of a split in the order of its captions' ``images``; without ``objects``, no topics.

    Raises UserError, naming file and entry, for JSON that is missing, broken or not COCO's, and for an annotation of a
    picture or a category that is not there.
    """
    told = _read(folder / captions_file(split))
    files = _files(folder / captions_file(split), told)
    texts = _texts(folder / captions_file(split), told, files)
    areas = _areas(folder / instances_file(split), files) if objects else {}
    return [
        Picture(f"{split}/{name}", tuple(texts.get(number, ())), supercategory(areas.get(number, ())))
        for number, name in files.items()
    ]


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, hook=_lean)


def _lean(found: dict[str, Any]) -> dict[str, Any]:
    found.pop("segmentation", None)  # nine tenths of the file, and several times as much in memory
    return found


def _files(path: Path, told: Mapping[str, Any]) -> dict[int, str]:
    files: dict[int, str] = {}
    for row in _entries(path, told, "images"):
        number = _whole(row, "id")
        if not isinstance(row.cells.get("file_name"), str):
            raise row.fault("no file_name")
        stem(row, "file_name")  # refuses a path
        if number in files:
            raise row.fault(f"the id {number} stands there twice")
        files[number] = row.cells["file_name"].strip()
    return files


def _texts(path: Path, told: Mapping[str, Any], files: Container[int]) -> dict[int, list[str]]:
    texts: dict[int, list[str]] = {}
    for row in _entries(path, told, "annotations"):
        number = _image(row, files)
        if not isinstance(row.cells.get("caption"), str):
            raise row.fault("no caption; is this the file of the captions?")
        texts.setdefault(number, []).append(row.cells["caption"])
    return texts


def _areas(path: Path, files: Container[int]) -> Areas:
    told = _read(path)
    names: dict[int, str] = {}
    for row in _entries(path, told, "categories"):
        name = row.cells.get("supercategory")
        if name not in SUPERCATEGORIES:
            raise row.fault(f"unknown supercategory {name!r:.40}; {nearest(str(name), list(SUPERCATEGORIES))}")
        names[_whole(row, "id")] = name
    areas: Areas = {}
    for row in _entries(path, told, "annotations"):
        number, category, area = _image(row, files), _whole(row, "category_id"), row.cells.get("area")
        if category not in names:
            raise row.fault(f"category_id {category} is not among its categories")
        if not isinstance(area, (int, float)) or not 0 <= area < math.inf:
            raise row.fault(f"area must be a number of square pixels, not {area!r}")
        areas.setdefault(number, []).append((names[category], float(area)))
    return areas


def _entries(path: Path, told: Mapping[str, Any], key: str) -> Iterator[Row]:
    entries = told.get(key)
    if not isinstance(entries, list):
        found = ", ".join(told)[:80] or "nothing"
        raise UserError(f"{path}: no list '{key}', as COCO's official file has it; found: {found}")
    for number, cells in enumerate(entries, start=1):
        row = Row(f"{path}, entry {number} of {key}", cells if isinstance(cells, dict) else {})
        if not row.cells:
            raise row.fault(f"an object with keys is expected, not {cells!r:.40}")
        yield row


def _image(row: Row, files: Container[int]) -> int:
    number = _whole(row, "image_id")
    if number not in files:
        raise row.fault(f"image_id {number} is not among the images of the captions: are the files of one release?")
    return number


def _whole(row: Row, key: str) -> int:
    value = row.cells.get(key)
    if type(value) is not int:  # a bool is an int, too
        raise row.fault(f"{key} must be a whole number, not {value!r:.40}")
    return value
