"""COCO's twelve supercategories as LPI learns them, one after another: its split, from the official JSON.

LPI's own files lie on a cloud drive only, and how an image with objects of several supercategories got its one is not
told. Here it is the supercategory with the largest total area (see ``polymnia.data.coco``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from polymnia.data.builders import write
from polymnia.data.coco import SUPERCATEGORIES, Picture, captions_file, instances_file, read_split
from polymnia.data.layout import find_root
from polymnia.data.lpi_json import entries, split_file
from polymnia.types import UserError

FOLDER = "annotations"


def build(root: Path, out: Path | None = None) -> list[str]:
    """Write ``retrieval_<split>.json`` for every split of which captions and instances are in ``root/annotations``,
    into that folder or ``out``; how many images of each supercategory, and how many were left out, in lines.

    Raises UserError as ``read_split`` does, where there is no split, and for a place that cannot be written to.
    """
    folder = find_root(root, [FOLDER], "COCO") / FOLDER
    captioned = sorted(path.name for path in folder.glob(captions_file("*")))
    splits = [name.removeprefix("captions_").removesuffix(".json") for name in captioned]
    whole = [split for split in splits if (folder / instances_file(split)).is_file()]
    if not whole:
        raise UserError(
            f"{folder} has no split with both {captions_file('<split>')} and {instances_file('<split>')}; there: "
            f"{', '.join(captioned) or 'no captions'}. Unpack COCO's annotations there."
        )
    pictures = {split: read_split(folder, split) for split in whole}
    files = {split_file(split): list(entries(split, some)) for split, some in pictures.items()}
    paths = write(out or folder, files)
    skipped = [f"{split} has no {instances_file(split)} and was skipped" for split in splits if split not in whole]
    return [*_table(pictures), *skipped, *(f"written: {path}" for path in paths)]


def _table(pictures: Mapping[str, Sequence[Picture]]) -> Iterator[str]:
    told = {split: [p for p in some if p.topic and p.captions] for split, some in pictures.items()}
    sizes = {split: Counter(p.topic for p in some) for split, some in told.items()}
    yield _line("images", list(pictures))
    for number, name in enumerate(SUPERCATEGORIES, start=1):
        yield _line(f"{number:>2} {name}", [f"{size[name]:,}" for size in sizes.values()])
    yield _line("all", [f"{len(some):,}" for some in told.values()])
    yield _line("their captions", [f"{sum(len(p.captions) for p in some):,}" for some in told.values()])
    bare = [sum(not p.topic for p in some) for some in pictures.values()]
    yield _line("left out: no object", [f"{count:,}" for count in bare])
    mute = [sum(bool(p.topic) and not p.captions for p in some) for some in pictures.values()]
    yield _line("left out: no caption", [f"{count:,}" for count in mute])


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<22}" + "".join(f"{cell:>12}" for cell in cells)
