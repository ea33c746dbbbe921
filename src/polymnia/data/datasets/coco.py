"""COCO: 123 thousand photographs of everyday scenes, each with about five captions, their objects in 80 categories.

Where to get it: https://cocodataset.org (Lin et al., 2014; captions: Chen et al., 2015): the images of train and val
(2014 or 2017) and "annotations trainval".
Licence: annotations CC BY 4.0; each photograph its own of Flickr (in the JSON).
Layout, ``form: coco``: ``root/annotations/captions_<split>.json`` and ``instances_<split>.json``, the images in
``root/<split>`` under the names that the JSON gives; a split is train2014, val2014, train2017, val2017.
Layout, ``form: lpi``: ``root/annotations/retrieval_<split>.json``, LPI's own (ACM MM 2024) or what ``polymnia data
build coco-supercategory`` makes of the official files; quicker to read.
Keys: ``train``, ``valid``, ``test`` (which splits are for what), ``valid_share`` of the images for training (by a hash
of the image id); ``clean: true`` drops the marks as LPI does, ``max_words`` cuts captions; ``annotations``, another
folder for the JSON; ``objects: false`` (of ``form: coco``) does without instances, and so without topics.

An item is an image with its captions, and a group of its own. ``topic`` is one of the twelve supercategories: the one
whose objects cover most of it (``polymnia.data.coco`` has the rule, which is ours: LPI's authors do not say theirs).
Left out are images without captions and, unless ``objects: false``, those without any object (about one in 100);
``polymnia data build`` counts them. 2017 divides the images of 2014 anew, so the two must not be mixed: ``origin`` is
``coco:<image id>`` in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from polymnia.config import nearest
from polymnia.data.captions import bare, clean
from polymnia.data.coco import Picture, captions_file, instances_file, read_split
from polymnia.data.items import OnlineConfig, check
from polymnia.data.layout import find_root
from polymnia.data.lpi_json import image_id, read_entries, split_file
from polymnia.data.shares import place
from polymnia.types import Captions, ImageFile, Item, Split, UserError

Named = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]  # a split: it becomes the name of a folder
FIRST_FILE = {"coco": captions_file, "lpi": split_file}


class Config(OnlineConfig):
    """Which splits are ``train``, ``valid`` and ``test``; the other keys are explained at the top of the file."""

    form: Literal["coco", "lpi"] = "coco"
    train: tuple[Named, ...] = ("train2014",)
    valid: tuple[Named, ...] = ()
    test: tuple[Named, ...] = ("val2014",)
    valid_share: float = Field(default=0.0, ge=0, lt=1)
    clean: bool = False
    max_words: PositiveInt | None = None
    objects: bool = True
    annotations: Path = Path("annotations")

    @model_validator(mode="after")
    def _splits_make_sense(self) -> Config:
        named = self.splits
        if not named:
            raise ValueError("train, valid and test are all empty")
        if twice := [name for name in named if named.count(name) > 1]:
            raise ValueError(f"the split {twice[0]} stands twice in train, valid and test")
        if self.valid and self.valid_share:
            raise ValueError("give valid, or valid_share of train, not both")
        if self.form == "lpi" and not self.objects:
            raise ValueError("objects: false is for form: coco; LPI's files hold only images with a supercategory")
        return self

    @property
    def splits(self) -> tuple[str, ...]:
        """All official splits that are read."""
        return (*self.train, *self.valid, *self.test)


def items(cfg: Config) -> list[Item]:
    """One item an image: those for training, validation, testing, in the order of the files; missing files stay in.

    Raises UserError for a root without the layout, JSON that is broken or does not fit together, an image in two of
    the splits, and where not one image is there.
    """
    _refuse_unknown_splits(cfg)
    root = find_root(cfg.root, [str(cfg.annotations / name) for name in _files(cfg)], "COCO")
    roles: dict[Split, tuple[str, ...]] = {"train": cfg.train, "valid": cfg.valid, "test": cfg.test}
    found = [
        _item(cfg, role, picture, texts)
        for role, splits in roles.items()
        for split in splits
        for picture in _pictures(cfg, root, split)
        if (texts := _texts(cfg, picture)) and (picture.topic or not cfg.objects)
    ]
    what = f"COCO at {root}"
    _refuse_images_twice(found, what)
    _require_an_image(check(found, what), [root / split for split in cfg.splits], what)
    return found


def _files(cfg: Config) -> list[str]:
    of_objects = [instances_file(split) for split in cfg.splits] if cfg.form == "coco" and cfg.objects else []
    return [FIRST_FILE[cfg.form](split) for split in cfg.splits] + of_objects


def _refuse_unknown_splits(cfg: Config) -> None:
    folder, name = cfg.root / cfg.annotations, FIRST_FILE[cfg.form]
    pattern = re.compile(re.escape(name("@")).replace("@", "(.+)"))
    there = [found[1] for path in sorted(folder.glob("*.json")) if (found := pattern.fullmatch(path.name))]
    for split in cfg.splits if there else ():
        if split not in there:
            raise UserError(
                f"COCO: there is no {name(split)} in {folder} (train, valid and test say which splits are read); "
                f"{nearest(split, there)}"
            )


def _pictures(cfg: Config, root: Path, split: str) -> list[Picture]:
    if cfg.form == "lpi":
        return read_entries(root / cfg.annotations / split_file(split), split)
    return read_split(root / cfg.annotations, split, cfg.objects)


def _texts(cfg: Config, picture: Picture) -> tuple[str, ...]:
    cleaned = (bare(text) if cfg.clean else clean(text) for text in picture.captions)
    return tuple(filter(None, (" ".join(text.split()[: cfg.max_words]) for text in cleaned)))


def _item(cfg: Config, role: Split, picture: Picture, texts: tuple[str, ...]) -> Item:
    name, number = PurePosixPath(picture.file).stem, image_id(picture.file)
    return Item(
        name,
        {"image": ImageFile(cfg.root / picture.file), "text": Captions(texts)},
        group=name,
        topic=picture.topic,
        split="valid" if role == "train" and place(number or name) < cfg.valid_share else role,
        origin=(f"coco:{number}",) if number else (),
    )


def _refuse_images_twice(found: Sequence[Item], what: str) -> None:
    of: dict[str, Item] = {}
    for item in found:
        for origin in item.origin:
            first = of.setdefault(origin, item)
            if first is not item:
                raise UserError(
                    f"{what}: '{first.id}' ({first.split}) and '{item.id}' ({item.split}) are one image: 2017 divides "
                    "the images of 2014 anew; choose train, valid and test from one release"
                )


def _require_an_image(found: Sequence[Item], folders: Sequence[Path], what: str) -> None:
    paths = [source.path for item in found for source in item.sources.values() if isinstance(source, ImageFile)]
    if not any(path.is_file() for path in paths):
        raise UserError(
            f"{what}: none of its {len(paths):,} images is there; looked in {', '.join(map(str, folders))} (first for "
            f"{paths[0].name}). Unpack them there, or point data=FOLDER (or the set's root) at the folder that holds "
            "them."
        )
