"""MaPLe: deep prompts of one tower (text), of which those of the others are linear maps, one a block and tower.

C_j in R^{n x d_t} before block j of the text tower, C_j W^m_j + b^m_j before block j of tower m, j = 1 .. J; slots are
overwritten up to block J and go on behind it.

Khattak et al.: *MaPLe: multi-modal prompt learning*, CVPR 2023. One set, trained on task after task: nothing is done
against forgetting. The paper starts C_1 from the words "a photo of a"; towers here do not tell their word embeddings,
so all tokens are drawn from N(0, 0.02^2). Its pictures have the tokens at the end; behind the class token they do
the same, as prompts have no position.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from pydantic import PositiveInt
from torch import Tensor, nn

from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.prompts import Gates, PromptConfig, Tokens, begin, prompted, reach, refuse_idle
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt
from polymnia.types import Known, Modality, Task, UserError

DEVIATION, DEPTH = 0.02, 9


class Config(PromptConfig):
    """``length`` tokens for each of ``depth`` blocks (None: 9, or those of the shallowest tower). ``lead``: the
    modality whose tokens are learned and mapped to those of the others."""

    length: PositiveInt = 2
    depth: PositiveInt | None = None
    lead: Modality = "text"


class Method(AbstractMethod):
    """Tokens of the leading tower, maps to the others, gates. Until the first task begins, towers are plain."""

    keeps_towers = True
    begun: Tensor

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg = cfg
        towers = {m: setup.model.tower(m) for m in prompted(setup, cfg, at_least=2)}
        if cfg.lead not in towers:
            raise UserError(
                f"lead: {cfg.lead}, but the towers that are prompted are {', '.join(towers)}; set lead to one of "
                f"them, or make towers.{cfg.lead} a transformer with frozen: false"
            )
        depth = reach(cfg.depth, {m: t.depth for m, t in towers.items()}, usual=DEPTH)
        widths = {m: t.widths[:depth] for m, t in towers.items()}
        lead = widths.pop(cfg.lead)
        self.tokens = Tokens(lead, cfg.length, DEVIATION)
        self.maps = nn.ModuleDict({m: nn.ModuleList(map(nn.Linear, lead, w)) for m, w in widths.items()})
        self.gates = nn.ModuleDict({m: Gates(t.depth, cfg.gate) for m, t in towers.items()})
        self.register_buffer("begun", torch.zeros((), dtype=torch.long))

    def begin_task(self, model: Model, task: Task) -> None:
        begin(model, self.cfg)
        refuse_idle(self.cfg, list(self.gates), task)
        self.begun.fill_(1)

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if modality not in self.gates or not self.begun:
            return model.features(modality, x)
        front = [tokens.expand(x.shape[0], -1, -1) for tokens in self._tokens(modality)]
        return model.features(modality, x, Prompt(front=front, gate=self.gates[modality]()))

    def _tokens(self, modality: Modality) -> list[Float[Tensor, "p _"]]:
        """The tokens of each block of a tower, the same for every row."""
        lead = list(self.tokens.blocks)
        if modality == self.cfg.lead:
            return lead
        return [to(tokens) for to, tokens in zip(self.maps[modality], lead, strict=True)]
