"""Miniatures that methods of prompts are tested with: towers, models, batches, settings of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymnia.continual.method import Setup
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.models.towers import tiny_audio, tiny_image, tiny_text
from polymnia.types import MODALITIES, Batch, Modality, Task, VectorSpec

SWIN = (96,) * 2 + (192,) * 2 + (384,) * 6 + (768,) * 2
NAMES = ("small_cats", "big dogs", "rain")
DEEP = {f"towers__{m}__layers": 2 for m in MODALITIES}
PROMPTED = {
    **DEEP,
    "towers__image__frozen": False,
    "towers__text__frozen": False,
    "towers__image__arch": "vit",
    "towers__image__width": 16,
}


class Dummy(AbstractTower):
    """A tower of given widths that nobody runs."""

    def __init__(self, modality: Modality, widths: tuple[int, ...]):
        super().__init__()
        self.modality, self.spec, self.out_dim = modality, VectorSpec(3), 4
        self.depth, self.width = len(widths), widths

    def forward(self, x: Tensor, prompt: Any = None) -> Tensor:
        raise AssertionError("only its widths are asked for")


def setup(of: Model, tasks: int = 3) -> Setup:
    return Setup(of, Objective(ObjectiveConfig(), (("image", "text"),)), tasks, 0, NAMES[:tasks])


def dummies(image: tuple[int, ...] = (768,) * 12, text: tuple[int, ...] = (512,) * 12) -> Model:
    towers: dict[Modality, AbstractTower] = {"image": Dummy("image", image), "text": Dummy("text", text)}
    return Model(towers, {}, 4, frozenset(towers), 12)


def model(*modalities: Modality, layers: int = 3) -> Model:
    """Tiny transformers of different widths, in eval mode."""
    torch.manual_seed(0)
    towers: dict[Modality, AbstractTower] = {
        "audio": tiny_audio.Tower(tiny_audio.Config(seconds=0.1, n_mels=8, width=12, layers=layers, out_dim=6)),
        "image": tiny_image.Tower(tiny_image.Config(arch="vit", size=16, width=8, layers=layers, out_dim=7)),
        "text": tiny_text.Tower(tiny_text.Config(width=16, layers=layers, buckets=64, out_dim=5)),
    }
    chosen = {m: towers[m] for m in modalities or ("image", "text")}
    heads: dict[Modality, HeadConfig] = {m: HeadConfig(kind="linear") for m in chosen}
    return Model(chosen, heads, 4, frozenset(chosen), 3).double().eval()


def task(index: int, *pairs: tuple[Modality, Modality]) -> Task:
    return Task(NAMES[index - 1], index, (), (), (), pairs or (("image", "text"),))


def pictures(rows: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 3, 16, 16), generator=g, dtype=torch.uint8)


def batch(of: Model, rows: int = 6, index: int = 1, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    words = ["cat", "dog", "rain", "bell", "car", "a slow car", "two dogs", "the sea"]
    every = {
        "audio": torch.randn(rows, 1600, generator=g, dtype=torch.double),
        "image": pictures(rows, seed),
        "text": tiny_text.Tower.prepare(of.tower("text"), [words[(i + seed) % 8] for i in range(rows)]),
    }
    inputs = {m: every[m] for m in of.modalities}
    here = torch.arange(rows)
    return Batch(inputs, dict.fromkeys(inputs, here), here, torch.full((rows,), index))
