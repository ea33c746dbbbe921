"""Tiny copies of sets of pictures with captions, in exactly their official layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

Settings = dict[str, Any]
# two of COCO's categories of some supercategories, one of the others, with their official ids
CATEGORIES = {
    1: ("person", "person"),
    2: ("vehicle", "bicycle"),
    3: ("vehicle", "car"),
    10: ("outdoor", "traffic light"),
    16: ("animal", "bird"),
    18: ("animal", "dog"),
    27: ("accessory", "backpack"),
    34: ("sports", "frisbee"),
    44: ("kitchen", "bottle"),
    52: ("food", "banana"),
    62: ("furniture", "chair"),
    72: ("electronic", "tv"),
    78: ("appliance", "microwave"),
    84: ("indoor", "book"),
}
Scene = tuple[Sequence[str], Sequence[tuple[int, float, bool]]]  # captions; category, area, crowd of each object


def file_name(split: str, number: int) -> str:
    """What COCO calls an image: 2017 has dropped the split from it."""
    return f"{number:012d}.jpg" if split.endswith("2017") else f"COCO_{split}_{number:012d}.jpg"


def coco_split(root: Path, split: str, scenes: Mapping[int, Scene], size: tuple[int, int] = (8, 6)) -> None:
    """The two JSON files of a split and its images, each a colour of its own."""
    head = {"info": {"year": 2014, "version": "1.0"}, "licenses": [{"url": "http://a", "id": 1, "name": "CC BY"}]}
    images = [
        {"license": 1, "file_name": file_name(split, number), "height": size[1], "width": size[0], "id": number}
        for number in scenes
    ]
    captions: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, (texts, things) in scenes.items():
        captions += [{"image_id": number, "id": len(captions) + n, "caption": text} for n, text in enumerate(texts)]
        for category, area, crowd in things:
            shape: Any = {"counts": [4, 8], "size": [6, 8]} if crowd else [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0]]
            box = {"bbox": [0, 0, 1, 1], "category_id": category, "id": len(objects), "iscrowd": int(crowd)}
            fact = {"area": int(area) if crowd else area, "image_id": number}  # as COCO writes them
            objects.append({"segmentation": shape, **fact, **box})
        picture = root / split / file_name(split, number)
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (37 * number % 256, 101 * number % 256, 11 * number % 256)).save(picture)
    kinds = [{"supercategory": above, "id": number, "name": name} for number, (above, name) in CATEGORIES.items()]
    write(root / f"annotations/captions_{split}.json", {**head, "images": images, "annotations": captions})
    told = {**head, "images": images, "annotations": objects, "categories": kinds}
    write(root / f"annotations/instances_{split}.json", told)


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def coco(folder: Path) -> Settings:
    """2014: an image of one object, one of a crowd and a single, one without objects; both splits, five captions."""

    def told(what: str) -> list[str]:
        return [f"A {what}, seen {n} times." for n in range(1, 6)]

    train: dict[int, Scene] = {
        57870: (told("dog"), [(18, 900.5, False)]),
        384029: (told("street"), [(3, 50.0, False), (1, 40.0, True), (1, 30.0, False)]),
        222016: (told("field"), []),
        9: (told("bicycle"), [(2, 20.25, False), (3, 20.25, False)]),
    }
    coco_split(folder, "train2014", train)
    val: dict[int, Scene] = {42: (told("chair"), [(62, 7.0, False)]), 73: (told("bird"), [(16, 8.0, False)])}
    coco_split(folder, "val2014", val)
    return {"root": folder}


PICTURES: dict[str, Callable[[Path], Settings]] = {"coco": coco}
