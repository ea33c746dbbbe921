"""Low-rank updates of the towers' own linear layers, in the place of prompts: one set, or one a task.

W' = W + (alpha / r) B A in queries and values of attention;  A is drawn, B is zero at first, W never moves.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022. One set is trained on task after task, and
nothing is done against forgetting. A set of its own (``per_task``) stays as it was when its task ended, and an input
gets that of the nearest centre in the features of the plain tower, as in S-Prompts (Wang et al., NeurIPS 2022).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from polymnia.continual.lowrank_weights import LowRankWeights, linear_layers
from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.peft import read_adapter
from polymnia.continual.prompts import SteerConfig, asked, begin, refuse_idle, routed, steered
from polymnia.continual.select import SelectConfig, Selector
from polymnia.models.model import Model
from polymnia.types import Batches, Known, Modality, Task

# Queries and values: of tiny and PANNs-based towers (keys with them), CLIP and AST, BERT and CLAP, DistilBERT, MPNet.
TARGETS = ("qkv", "q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "attn.q", "attn.v")


class Config(SteerConfig):
    """``rank`` r and ``alpha`` of the updates; ``targets``: what the paths of the linear layers end in that get one.

    ``per_task``: a set of updates a task, frozen afterwards, and how an input finds its own (``select``); else one set
    for all. ``init``: a folder with an adapter of PEFT's for each modality (as ``polymnia export peft`` writes it):
    what every set of updates starts from when the first task begins.
    """

    rank: PositiveInt = 4
    alpha: PositiveFloat = 8.0
    targets: tuple[str, ...] = Field(TARGETS, min_length=1)
    per_task: bool = False
    select: SelectConfig = SelectConfig()
    init: Path | None = None


class Method(AbstractMethod):
    """Updates of each tower, one set or one a task, and then a router a tower."""

    keeps_towers = True

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg, self.asks = cfg, cfg.per_task
        towers = {m: setup.model.tower(m) for m in steered(setup, cfg, at_least=1)}
        layers = {m: linear_layers(t, cfg.targets) for m, t in towers.items()}
        self.modalities, self.now = tuple(towers), tuple[Modality, ...]()
        self.updates = nn.ModuleList(
            nn.ModuleDict({m: LowRankWeights(layers[m], cfg.rank, cfg.alpha) for m in towers})
            for _ in range(setup.tasks if cfg.per_task else 1)
        )
        routed = towers if cfg.per_task else {}
        self.routers = nn.ModuleDict(
            {m: Selector(cfg.select, m, setup.tasks, t.out_dim, setup.seed) for m, t in routed.items()}
        )

    def begin_task(self, model: Model, task: Task) -> None:
        begin(model, self.cfg)
        refuse_idle(self.cfg, self.modalities, task)
        now = task.index if self.cfg.per_task else 1
        for number, updates in enumerate(self.updates, start=1):
            updates.requires_grad_(number == now)
        self.now = tuple(m for m in self.routers if any(m in pair for pair in task.pairs))
        for m in self.now:
            self.routers[m].start(task)
        # Not at construction: before the first task the tower is as it came, and who loads a run needs no such folder.
        if self.cfg.init is not None and task.index == 1:
            self._read_init(model, self.updates)
        elif self.cfg.init is not None and _untouched(self.updates[now - 1]):  # a task that extends a finished run
            self._read_init(model, [self.updates[now - 1]])

    def _read_init(self, model: Model, sets: Iterable[nn.Module]) -> None:
        for updates in sets:
            for m in self.modalities:
                read_adapter(self.cfg.init / m, updates[m], model.tower(m))

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if modality not in self.modalities:
            return model.features(modality, x)
        if not self.cfg.per_task:
            return self.updates[0][modality](model.tower(modality), x)
        tasks = routed(self.routers[modality], model, modality, x, known, self.training)
        parts, order = [], []
        for number in tasks.unique().tolist():  # weights are the same for a whole batch, so that each task goes alone
            rows = (tasks == number).nonzero()[:, 0]
            parts.append(self._serve(model, modality, x[rows], number))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def end_task(self, model: Model, task: Task, batches: Batches) -> None:
        for m in self.now:
            self.routers[m].learn(task.index, asked(model, m, batches))

    def _serve(self, model: Model, modality: Modality, x: Shaped[Tensor, "n ..."], task: int) -> Float[Tensor, "n o"]:
        """Features of rows of one task."""
        return self.updates[task - 1][modality](model.tower(modality), x) if task else model.features(modality, x)


def _untouched(updates: nn.ModuleDict) -> bool:
    """Whether a set is as it was made: nothing was read into it, and nothing learned."""
    return not any(b.any() for update in updates.values() for b in update.b.values())
