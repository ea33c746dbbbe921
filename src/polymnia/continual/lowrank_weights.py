"""Low-rank updates of the linear layers of a tower, whose own weights stay as they are.

W' = W + (alpha / r) B A,  A (r, in) uniform within 1 / sqrt(in), B (out, r) zero at first: W' is W, bit for bit.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from polymnia.models.tower import AbstractTower
from polymnia.types import UserError

Shape = tuple[int, int]  # of a weight: (out, in)


def linear_layers(tower: AbstractTower, targets: Sequence[str]) -> dict[str, Shape]:
    """Paths of the tower's linear layers that end in one of ``targets`` (whole names), and their weights' shapes.

    Those of a frozen front are left out: what it gives is cached. Raises UserError where there is none.
    """
    halves = tower.split()
    learning = tower if halves is None else halves[1]
    linear = {n: m for n, m in learning.named_modules() if isinstance(m, nn.Linear)}
    found = {n: (m.out_features, m.in_features) for n, m in linear.items() if _ends(n, targets)}
    if not found:
        names = ", ".join(sorted({n.rpartition(".")[2] for n in linear})) or "none"
        raise UserError(
            f"targets {', '.join(targets)}: towers.{tower.modality} ({type(tower).__module__}) has no linear layer of "
            f"such a name; give targets of its own (it has: {names}), or leave it out of modalities"
        )
    return found


class LowRankWeights(nn.Module):
    """The updates of some linear layers of one tower.

    ``layers``: paths to (out, in), as from ``linear_layers``; ``scale`` is alpha / r. Raises UserError for a rank
    above a side of a weight: it would cost more than it can express.
    """

    def __init__(self, layers: Mapping[str, Shape], rank: int, alpha: float):
        super().__init__()
        self.names, self.rank, self.alpha, self.scale = tuple(layers), rank, alpha, alpha / rank
        for name, shape in layers.items():
            if rank > min(shape):
                raise UserError(f"rank {rank} is above the {min(shape)} of {name} ({shape[0]} x {shape[1]}); lower it")
        self.a = nn.ParameterDict({_key(n): _drawn(rank, inside) for n, (_, inside) in layers.items()})
        self.b = nn.ParameterDict({_key(n): torch.zeros(outside, rank) for n, (outside, _) in layers.items()})

    def pair(self, name: str) -> tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]]:
        """A and B of the layer with this path."""
        return self.a[_key(name)], self.b[_key(name)]

    def forward(self, tower: AbstractTower, x: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b o"]:
        """The tower's features under the updated weights. The tower itself is not touched."""
        changed = {}
        with torch.autocast(x.device.type, enabled=False):  # else a small update is rounded before it is added
            for name in self.names:
                weight = tower.get_submodule(name).weight
                a, b = self.pair(name)
                changed[f"{name}.weight"] = weight + (self.scale * (b @ a)).to(weight.dtype)
        return functional_call(tower, changed, (x,))


def _ends(path: str, targets: Sequence[str]) -> bool:
    return any(path == t or path.endswith(f".{t}") for t in targets)


def _key(name: str) -> str:
    """A path as the name of a parameter, which may hold no dots."""
    return name.replace(".", "/")


def _drawn(rank: int, inside: int) -> Float[Tensor, "r i"]:
    return torch.empty(rank, inside).uniform_(-(inside**-0.5), inside**-0.5)
