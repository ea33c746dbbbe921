"""Batches of the right shapes, in place of media: what a model costs does not depend on what it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.types import AudioSpec, Batch, ImageSpec, Modality, Spec, TextSpec

WORDS = "a recording of a slow low drum that fades away over a hum"  # captions are about as long
EPOCH = 1000  # batches: no measurement comes to its end


class MadeUp:
    """Batches of ``rows`` rows that have all ``modalities``, always the same few: two, or as many as hold ``least``
    rows, which is what a method looks at when a task ends."""

    def __init__(self, model: Model, modalities: Sequence[Modality], rows: int, task: int, least: int = 0):
        rng = np.random.default_rng(0)
        self.clean_batches = max(2, -(-least // rows))
        self.made = [_batch(model, modalities, rows, task, rng) for _ in range(self.clean_batches)]

    def __len__(self) -> int:
        return EPOCH

    def batch(self, step: int) -> Batch:
        return self.made[step % self.clean_batches]

    def clean(self, number: int) -> Batch:
        return self.made[number]


def raw_rows(tower: AbstractTower, rows: int) -> Shaped[Tensor, "b ..."]:
    """What a tower takes, as made by its ``prepare``."""
    rng = np.random.default_rng(0)
    return tower.prepare([_raw(tower.spec, rng) for _ in range(rows)])


def _batch(model: Model, modalities: Sequence[Modality], size: int, task: int, rng: np.random.Generator) -> Batch:
    tags = 0 if model.tagger is None else model.tagger.out_features
    rows = torch.arange(size)
    inputs = {m: model.tower(m).prepare([_raw(model.tower(m).spec, rng) for _ in rows]) for m in modalities}
    labels = (torch.rand(size, tags) < 0.1).float() if tags else None
    return Batch(inputs, dict.fromkeys(modalities, rows), rows, torch.full((size,), task), labels)


def _raw(spec: Spec, rng: np.random.Generator) -> Any:
    if isinstance(spec, AudioSpec):
        return rng.uniform(-0.1, 0.1, spec.samples).astype(np.float32)
    if isinstance(spec, ImageSpec):
        return rng.integers(0, 256, (spec.channels, spec.size, spec.size), dtype=np.uint8)
    return WORDS if isinstance(spec, TextSpec) else rng.standard_normal(spec.dim, dtype=np.float32)
