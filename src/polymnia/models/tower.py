"""A tower turns one modality into features. It knows no tasks, and takes prompts where it is a transformer."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from polymnia.config import Frozen
from polymnia.models.prompting import Prompt
from polymnia.types import Frames, Modality, Spec, UserError


class TowerConfig(Frozen):
    """Keys that every tower has. ``frozen``: never a gradient, always eval, its features computed once and cached."""

    frozen: bool = False


class PictureConfig(TowerConfig):
    """Keys for videos: features are the ``mean`` over ``fps`` frames a second, or those of the ``middle`` frame."""

    fps: float = Field(default=1.0, gt=0, le=240)
    frames: Frames = "mean"


class WholeClipsConfig(TowerConfig):
    """Keys of towers that take sounds of any length: ``seconds`` of training crop, whole clips up to ``max_seconds``
    in evaluation."""

    seconds: PositiveFloat
    max_seconds: PositiveFloat = 30.0

    @model_validator(mode="after")
    def _crop_fits(self) -> WholeClipsConfig:
        if self.seconds > self.max_seconds:
            raise ValueError(f"seconds {self.seconds} is longer than max_seconds {self.max_seconds}")
        return self


def stack(raw: Sequence[Any]) -> Shaped[Tensor, "b ..."]:
    """Arrays of one shape as one tensor."""
    return torch.from_numpy(np.stack(raw))


class AbstractTower(nn.Module):
    """One encoder.

    Attributes set by every tower at construction: ``modality``; ``spec`` (what it eats); ``out_dim`` (features);
    ``depth`` (how many blocks take prompts, 0 for none) and ``width`` (of a prompt token, or one a block where the
    tower widens on the way); ``room`` (prompt tokens that it has positions for beside its longest text, None for any
    number); ``class_names`` (of its own classifier, empty for none). ``settings`` is set by who builds it from a
    recipe: two towers of equal weights but other settings (pooling, hop) are not the same encoder.
    """

    modality: Modality
    spec: Spec
    out_dim: int
    depth: int = 0
    width: int | tuple[int, ...] = 0
    room: int | None = None
    class_names: Sequence[str] = ()
    settings: str = ""

    @abc.abstractmethod
    def forward(self, x: Shaped[Tensor, "b ..."], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        """Features of a batch made by ``prepare``. ``prompt``: what its rows bring along, block by block."""

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of a prompt token at each block."""
        return self.width if isinstance(self.width, tuple) else (self.width,) * self.depth

    def prepare(self, raw: Sequence[Any]) -> Shaped[Tensor, "b ..."]:
        """Decoded media to one tensor: equally long float32 waveforms, uint8 pictures of one size, or strings."""
        return stack(raw)

    @property
    def collate(self) -> Callable[[Sequence[Any]], Shaped[Tensor, "b ..."]]:
        """``prepare`` for the processes of a loader, without the weights where it needs none of the tower."""
        return stack if type(self).prepare is AbstractTower.prepare else self.prepare

    def classify(self, h: Float[Tensor, "b o"]) -> Float[Tensor, "b c"]:
        """Logits of the tower's own classifier on its features, one a name in ``class_names``."""
        raise UserError(f"the {self.modality} tower {type(self).__module__} has no classifier of its own")

    def frames(self, x: Float[Tensor, "b n"]) -> tuple[Float[Tensor, "b t o"], Float[Tensor, " t"]]:
        """Features over time, for towers of sound that have them: rows, and the centre of each in seconds."""
        raise UserError(f"the {self.modality} tower {type(self).__module__} has no features over time")

    def tokens(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b t o"]:
        """What another tower may stack blocks on: the features over time, or the whole last map, a token a place."""
        return self.frames(x)[0]

    def split(self) -> tuple[AbstractTower, AbstractTower] | None:
        """For a tower that stands on a frozen one: that front, and the rest of it, sharing its weights. The rest eats
        what the front gives (a ``VectorSpec``), so that this is computed once for every item. None for all others.
        """
        return None

    def no_prompt(self, prompt: Prompt | None) -> None:
        """For towers of depth 0: refuse prompts."""
        if prompt is not None:
            raise UserError(f"{type(self).__module__} takes no prompts (depth 0); use a transformer tower")
