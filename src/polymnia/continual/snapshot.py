"""A teacher: a frozen copy of what trains, sharing what is frozen."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from polymnia.continual.method import AbstractMethod, Setup
from polymnia.models.model import Model
from polymnia.types import Batch, Known, Modality, Outputs, UserError


class Snapshot(nn.Module):
    """The model as it was at the last ``take``, prompts included. Always in eval mode, never a gradient.

    Its state has the model's shapes from construction on, so that a checkpoint that holds it loads strictly. Under
    prompts, which leave the towers as they are, it copies the prompts and shares the towers.
    """

    def __init__(self, setup: Setup):
        super().__init__()
        model, prompts = setup.model, setup.prompts
        if prompts is not None and not prompts.keeps_towers:
            raise UserError("a teacher beside a method that prompts towers and trains them, too, is not supported")
        self.moving = tuple(m for m in model.modalities if m in model.learn)
        copied = self.moving if prompts is None else ()
        self.towers = nn.ModuleDict({m: copy.deepcopy(model.towers[m]) for m in copied})
        self.heads = copy.deepcopy(model.heads)
        self.prompts = copy.deepcopy(prompts)
        self._live: tuple[Model, AbstractMethod | None] = (model, prompts)  # in a tuple: no part of the state
        self.requires_grad_(False)
        self.eval()

    def take(self, model: Model) -> None:
        """Become a copy of the model as it is now."""
        for m, tower in self.towers.items():
            tower.load_state_dict(model.towers[m].state_dict())
        self.heads.load_state_dict(model.heads.state_dict())
        if self.prompts is not None and self._live[1] is not None:
            self.prompts.load_state_dict(self._live[1].state_dict())

    def train(self, mode: bool = True) -> Snapshot:
        return super().train(False)

    @torch.no_grad()
    def features(
        self, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known | None = None
    ) -> Float[Tensor, "b o"]:
        """As the old model would serve these inputs: it is not told their task."""
        if self.prompts is None:
            return self.towers[modality](x)
        query = None if known is None else known.query
        return self.prompts.features(self._live[0], modality, x, Known(query=query))

    def compare(
        self, batch: Batch, out: Outputs
    ) -> Iterator[tuple[Modality, Float[Tensor, "_ o"], Float[Tensor, "_ o"]]]:
        """Modality, new and old features of the same inputs, for every modality of the batch whose features move."""
        for m, h in out.features.items():
            if m in self.moving:
                yield m, h, self.features(m, batch.inputs[m], batch.known(m))

    def head(self, modality: Modality, h: Float[Tensor, "b o"]) -> Float[Tensor, "b d"]:
        """The old head's raw output; gradient passes through to ``h`` (LwF: g of the old task on new features)."""
        return self.heads[modality](h)
