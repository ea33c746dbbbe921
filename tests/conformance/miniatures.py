"""A tiny copy of each data set in its official layout: name -> function of an empty folder -> settings of Config."""

from __future__ import annotations

import csv
import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from .archive_miniatures import ARCHIVES
from .online_miniatures import ONLINE
from .picture_miniatures import PICTURES

Settings = dict[str, Any]


def sound(path: Path, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(rate // 10, dtype=np.float32), rate)


def esc10(folder: Path) -> Settings:
    rows = []
    for target, category, place in ((1, "rain", "002 - Rain"), (0, "dog_bark", "001 - Dog bark")):
        for fold in (1, 2, 3):
            file = f"{place}/{fold}-10{fold}{target}-A.ogg"
            sound(folder / file, 32000)
            rows.append((file, fold, target, category, "CC0"))
    with (folder / "meta.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "fold", "target", "category", "licence"), *rows])
    return {"root": folder, "valid_fold": 2}


def fsdd(folder: Path) -> Settings:
    for name in ("0_george_0", "0_george_5", "0_george_10", "1_theo_0", "1_theo_5", "1_theo_6"):
        sound(folder / "recordings" / f"{name}.wav")
    return {"root": folder, "valid_takes": (6,)}


def mnist(folder: Path) -> Settings:
    return digits(folder, [i % 10 for i in range(20)]) | {"train": 12, "valid": 4}


def digits(folder: Path, labels: list[int]) -> Settings:
    """An IDX pair of 2 x 2 pictures with these labels."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = struct.pack(">4I", 2051, len(labels), 2, 2) + bytes(4 * len(labels))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(pictures))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, len(labels)) + bytes(labels))
    return {"root": folder}


def join(folder: Path) -> Settings:
    fsdd(folder / "spoken")
    digits(folder / "written", [0, 1] * 20)
    return {
        "root": folder,
        "left": {"use": "fsdd", "root": "spoken"},
        "right": {"use": "mnist", "root": "written", "train": 20},
        "keep_text": "left",
    }


def manifest(folder: Path) -> Settings:
    sound(folder / "a.wav")
    Image.new("RGB", (4, 4)).save(folder / "b.png")
    (folder / "manifest.csv").write_text(
        "id,audio,image,text,text_2,group,topic,split,labels,start,seconds\n"
        "1,a.wav,,a dog,the dog barks,dogs,animals,train,dog;bark,0.01,0.05\n"
        '2,,b.png,"rain, rain",,,weather,test,,,\n'
    )
    return {"root": folder}


def soundworld(folder: Path) -> Settings:
    return {"root": folder, "train": 1, "valid": 1, "test": 1, "base": 1, "combos": 2}


MINIATURES: dict[str, Callable[[Path], Settings]] = {
    "esc10": esc10,
    "fsdd": fsdd,
    "join": join,
    "manifest": manifest,
    "mnist": mnist,
    "soundworld": soundworld,
    **ARCHIVES,
    **ONLINE,
    **PICTURES,
}

GENERATED = frozenset({"soundworld"})  # data sets that write their own files: a missing root is where they will be
