"""Queries mapped back: a newer encoder asks rows of an older one, which stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from numpy import ndarray

from polymnia.runs.compatibility import Upgrades
from polymnia.runs.encoder import Encoder
from polymnia.spaces.adapter import KINDS
from polymnia.types import Modality

Vectors = Float32[ndarray, "n d"]


class Bridge:
    """Encodes with the encoder of a run after ``encoder.task`` tasks, into the space that it had after ``old``.

    What an ``Encoder`` encodes, this does, too. The maps are fitted on the run's anchors, a modality each, when they
    are first needed.
    """

    def __init__(self, encoder: Encoder, run: Path, old: int):
        self.encoder, self.old, self.model = encoder, old, encoder.model
        self._upgrades = Upgrades.of(run, KINDS)

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        return self._back("text", self.encoder.encode_text(texts))

    def encode_image(self, images: Sequence[Any]) -> Vectors:
        return self._back("image", self.encoder.encode_image(images))

    def encode_audio(self, sounds: Sequence[Any], sample_rate: int | None = None) -> Vectors:
        return self._back("audio", self.encoder.encode_audio(sounds, sample_rate))

    def encode_batch(self, modality: Modality, media: Sequence[Any]) -> Vectors:
        return self._back(modality, self.encoder.encode_batch(modality, media))

    def _back(self, modality: Modality, vectors: Vectors) -> Vectors:
        adapter = self._upgrades.between(self.encoder.task, self.old, modality).adapter
        with torch.no_grad():
            return adapter(torch.from_numpy(vectors)).numpy()
