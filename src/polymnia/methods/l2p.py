"""L2P: one pool of prompts for all tasks; every input gets those whose keys are most like its un-prompted features.

S(x) = the N of M prompts with the largest cos(q, k_i),  q = f_m(x) without prompts;  h = f_m([P_i : i in S(x); x]);
L = L_c + weight mean_x sum_{i in S(x)} (1 - cos(q, k_i)).

Wang et al.: *Learning to prompt for continual learning*, CVPR 2022, with a pool a tower: a query and its match choose
for themselves. Cosines leave a query's length out of it, and no gradient reaches it. The prompts enter at the first
block and go on through the others.

Departures. The authors choose by majority ``vote`` of the batch, at test, too: then what an input gets depends on its
neighbours, and scores on how they are batched; here every row chooses for itself unless ``vote`` says otherwise. They
classify the mean over the outputs of the prompts (``read: prompts``); here the heads go on reading what they read
before. A widely used port sums the key term over all pairs of rows of a batch; here each row has its own N keys. The
penalty on prompts that are used often, which the paper names and the authors' settings leave out, is left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.pool import cosines, draw_uniform
from polymnia.continual.prompts import Gates, PromptConfig, ask, begin, prompted, refuse_idle
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt
from polymnia.types import Batch, Known, Modality, Outputs, Task, Terms


class Config(PromptConfig):
    """``pool``: M prompts of ``length`` tokens, of which ``top_n`` serve an input (as the authors' settings for a
    sequence of domains). ``weight`` of the key term. ``init``: prompts and keys are drawn uniformly from [0, init).

    ``vote``: one choice for a whole batch, by majority: rows leak into each other, in evaluation, too. ``read``: the
    features are the ``tower``'s own, or those that it makes of the mean over the ``prompts``' outputs.
    """

    length: PositiveInt = 5
    pool: PositiveInt = 10
    top_n: PositiveInt = 4
    weight: NonNegativeFloat = 1.0
    vote: bool = False
    read: Literal["tower", "prompts"] = "tower"
    init: PositiveFloat = 0.01

    @model_validator(mode="after")
    def _pool_suffices(self) -> Config:
        if self.top_n > self.pool:
            raise ValueError(f"top_n {self.top_n} of a pool of {self.pool}; set top_n to {self.pool} or less")
        return self


class Method(AbstractMethod):
    """Pools and gates of each prompted tower. A tower is plain until a task begins that has its modality."""

    keeps_towers = True

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg, self.asks = cfg, True
        towers = {m: setup.model.tower(m) for m in prompted(setup, cfg)}
        self.pools = nn.ModuleDict({m: _Pool(cfg, t.widths[0], t.out_dim) for m, t in towers.items()})
        # Tokens go on through all blocks, and are gated in all.
        self.gates = nn.ModuleDict({m: Gates(t.depth, cfg.gate) for m, t in towers.items()})

    def begin_task(self, model: Model, task: Task) -> None:
        begin(model, self.cfg)
        refuse_idle(self.cfg, list(self.pools), task)
        for m, pool in self.pools.items():
            if any(m in pair for pair in task.pairs):
                pool.begun.fill_(1)

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if modality not in self.pools or not self.pools[modality].begun:
            return model.features(modality, x)
        pool = self.pools[modality]
        chosen = pool.choose(pool.similar(ask(model, modality, x, known)), self.cfg.vote)
        front = pool.prompts[chosen].flatten(1, 2)
        return model.features(modality, x, Prompt(front=(front,), gate=self.gates[modality](), read=self.cfg.read))

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        terms: Terms = {}
        self.facts = {}
        for m, pool in self.pools.items():
            if m not in batch.inputs or not pool.begun:
                continue
            similar = pool.similar(ask(model, m, batch.inputs[m], batch.known(m)))
            chosen = pool.choose(similar, self.cfg.vote)
            self.facts[f"used/{m}"] = float(chosen.unique().numel())
            if self.cfg.weight:
                terms[f"pull/{m}"] = self.cfg.weight * (1 - similar.gather(1, chosen)).sum(1).mean()
        return terms


class _Pool(nn.Module):
    """Prompts of one tower and their keys. ``begun``: 0 until a task of the modality begins."""

    begun: Tensor

    def __init__(self, cfg: Config, width: int, dim: int):
        super().__init__()
        self.top_n = cfg.top_n
        self.prompts = nn.Parameter(torch.empty(cfg.pool, cfg.length, width))
        self.keys = nn.Parameter(torch.empty(cfg.pool, dim))
        draw_uniform(self, cfg.init)
        self.register_buffer("begun", torch.zeros((), dtype=torch.long))

    def similar(self, query: Float[Tensor, "b d"]) -> Float[Tensor, "b m"]:
        return cosines(query, self.keys)

    def choose(self, similar: Float[Tensor, "b m"], vote: bool) -> Int[Tensor, "b n"]:
        """The numbers of each row's prompts, the most similar first; or of those that most rows have among theirs,
        the lower number where as many have it."""
        chosen = similar.detach().topk(self.top_n, dim=1).indices
        if not vote:
            return chosen
        votes = chosen.flatten().bincount(minlength=similar.shape[1])
        return votes.argsort(descending=True, stable=True)[: self.top_n].expand(len(similar), -1)
