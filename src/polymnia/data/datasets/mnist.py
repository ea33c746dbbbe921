"""MNIST: handwritten digits, grey 28 x 28 pixels.

Where to get it: http://yann.lecun.com/exdb/mnist (LeCun, Cortes, Burges) and its many mirrors.
Licence: CC BY-SA 3.0 as its mirrors state it.
Layout: ``root/{prefix}-images-idx3-ubyte`` and ``root/{prefix}-labels-idx1-ubyte``, each plain or with ``.gz``; the
prefix is ``t10k`` (10,000 digits) or ``train`` (60,000). One pair of files is split here, by a seeded permutation of
its rows: ``train`` rows, then ``valid`` rows, and the rest is the test set.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from polymnia.data import idx
from polymnia.data.items import DIGITS, DatasetConfig, Template, captions, check, require
from polymnia.types import ImageFile, Item, Split, UserError

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


class Config(DatasetConfig):
    """``train`` and ``valid`` are numbers of pictures, the rest is the test set; ``prefix`` chooses the file pair."""

    prefix: Annotated[str, Field(pattern=r"^[\w-]+$")] = "t10k"
    train: int = Field(default=7000, ge=0)
    valid: int = Field(default=0, ge=0)
    seed: int = 0
    templates: tuple[Template, ...] = Field(
        default=("the digit {}", "the number {}", "a handwritten {}", "{}"), min_length=1
    )


def items(cfg: Config) -> list[Item]:
    """One item a picture, in the order of the file.

    Raises UserError where a file is missing, is no IDX file, is cut short, or does not go with the other.
    """
    root = require(cfg.root, "the MNIST folder")
    images, labels = _locate(root, cfg.prefix, IMAGES), _locate(root, cfg.prefix, LABELS)
    count, digits = len(_idx(images, dims=3)), _idx(labels, dims=1)
    if count != len(digits):
        raise UserError(f"{images} has {count} pictures but {labels} has {len(digits)} labels: not of one pair")
    if cfg.train + cfg.valid > count:
        raise UserError(
            f"train + valid is {cfg.train + cfg.valid}, but {images} has only {count} pictures; ask for less"
        )
    splits = _splits(cfg, count)
    return check([_item(cfg, images, i, int(digits[i]), splits[i], labels) for i in range(count)], f"MNIST at {root}")


def _locate(root: Path, prefix: str, kind: str) -> Path:
    plain = root / f"{prefix}-{kind}"
    packed = plain.with_name(plain.name + ".gz")
    if plain.exists() or packed.exists():
        return plain if plain.exists() else packed
    others = sorted(p.name for p in root.glob(f"*{kind}*"))
    raise UserError(
        f"MNIST file not found: {plain} (nor {packed.name}). "
        + (f"The folder has {', '.join(others)}: set prefix. " if others else "")
        + "Point data=FOLDER at the folder that holds the IDX files."
    )


def _idx(path: Path, dims: int) -> UInt8[np.ndarray, "..."]:
    found = idx.read(path, dims)
    if isinstance(found, str):
        raise UserError(f"{path} {found}; download it again")
    return found


def _splits(cfg: Config, count: int) -> list[Split]:
    # a permutation by hash: the same on every machine and under every version of a random generator
    order = sorted(range(count), key=lambda i: blake2b(f"{cfg.seed}/{i}".encode(), digest_size=8).digest())
    splits: list[Split] = ["test"] * count
    for rank, i in enumerate(order[: cfg.train + cfg.valid]):
        splits[i] = "train" if rank < cfg.train else "valid"
    return splits


def _item(cfg: Config, images: Path, index: int, digit: int, split: Split, labels: Path) -> Item:
    if digit >= len(DIGITS):
        raise UserError(f"{labels}, row {index}: label {digit} is not a digit")
    word = DIGITS[digit]
    return Item(
        id=f"{cfg.prefix}-{index:05d}",
        sources={
            "image": ImageFile(images, index),
            "text": captions(cfg.templates, word),
        },
        group=word,
        topic=word,
        split=split,
        labels=(word,),
    )
