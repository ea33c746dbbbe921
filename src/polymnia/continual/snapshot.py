"""A teacher: a frozen copy of what trains, sharing what is frozen."""

import copy
from collections.abc import Iterator

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from polymnia.models.model import Model
from polymnia.types import Batch, Modality, Outputs


class Snapshot(nn.Module):
    """The model as it was at the last ``take``. Always in eval mode, never a gradient.

    Its state has the model's shapes from construction on, so that a checkpoint that holds it loads strictly.
    """

    def __init__(self, model: Model):
        super().__init__()
        towers = {m: t for m, t in model.towers.items() if m in model.learn}
        self.towers = nn.ModuleDict({m: copy.deepcopy(t) for m, t in towers.items()})
        self.heads = copy.deepcopy(model.heads)
        self.requires_grad_(False)
        self.eval()

    def take(self, model: Model) -> None:
        """Become a copy of the model as it is now."""
        for m, tower in self.towers.items():
            tower.load_state_dict(model.towers[m].state_dict())
        self.heads.load_state_dict(model.heads.state_dict())

    def train(self, mode: bool = True) -> "Snapshot":
        return super().train(False)

    @torch.no_grad()
    def features(self, modality: Modality, x: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b o"]:
        return self.towers[modality](x)

    def compare(
        self, batch: Batch, out: Outputs
    ) -> Iterator[tuple[Modality, Float[Tensor, "_ o"], Float[Tensor, "_ o"]]]:
        """Modality, new and old features of the same inputs, for every tower of the batch that trains."""
        for m, h in out.features.items():
            if m in self.towers:
                yield m, h, self.features(m, batch.inputs[m])

    def head(self, modality: Modality, h: Float[Tensor, "b o"]) -> Float[Tensor, "b d"]:
        """The old head's raw output; gradient passes through to ``h`` (LwF: g of the old task on new features)."""
        return self.heads[modality](h)
