"""How far an upgraded vector is likely to be from the true one, so that the worst can be embedded again first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

NEAREST, MOST = 5, 256  # anchors that are asked, of at most so many


@dataclass(frozen=True)
class Doubt:
    """Anchors that an adapter was not fitted on: their old vectors, and 1 - cosine of what it made of them."""

    anchors: Float[Tensor, "m d"]
    errors: Float[Tensor, " m"]

    @classmethod
    def of(cls, old: Float[Tensor, "m d"], mapped: Float[Tensor, "m d"], new: Float[Tensor, "m d"]) -> Doubt:
        """From held-out anchors: their old vectors, those mapped, and the true new ones."""
        return cls(old[:MOST], (1 - (mapped * new).sum(1))[:MOST])

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The mean error of the ``NEAREST`` anchors of each old vector; 0 without anchors."""
        if not len(self.anchors):
            return torch.zeros(len(x))
        near = (x @ self.anchors.T).topk(min(NEAREST, len(self.anchors)), dim=1).indices
        return self.errors[near].mean(1).clamp(min=0)
