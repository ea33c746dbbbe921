"""Visual prompt tuning, for any transformer tower: free tokens in front, one set, trained on task after task.

Shallow: tokens enter the first block and go on through the others. Deep: every block gets tokens of its own, and what
became of the last ones is dropped. Jia et al., ECCV 2022. Nothing is done against forgetting.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from pydantic import PositiveInt
from torch import Tensor, nn

from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.prompts import Gates, PromptConfig, Tokens, begin, prompted, refuse_idle
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt
from polymnia.types import Known, Modality, Task


class Config(PromptConfig):
    """``deep``: tokens for every block, or for the first only. ``length`` tokens (5 in the authors' code)."""

    length: PositiveInt = 5
    deep: bool = True


class Method(AbstractMethod):
    """Tokens and gates of each prompted tower. Until the first task begins, towers are plain."""

    keeps_towers = True
    begun: Tensor

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg = cfg
        widths = {m: setup.model.tower(m).widths for m in prompted(setup, cfg)}
        widths = {m: w if cfg.deep else w[:1] for m, w in widths.items()}
        self.tokens = nn.ModuleDict({m: Tokens(w, cfg.length) for m, w in widths.items()})
        gated = {m: setup.model.tower(m).depth for m in widths}  # propagated tokens are gated, too
        self.gates = nn.ModuleDict({m: Gates(depth, cfg.gate) for m, depth in gated.items()})
        self.register_buffer("begun", torch.zeros((), dtype=torch.long))

    def begin_task(self, model: Model, task: Task) -> None:
        begin(model, self.cfg)
        refuse_idle(self.cfg, list(self.tokens), task)
        self.begun.fill_(1)

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if modality not in self.tokens or not self.begun:
            return model.features(modality, x)
        prompt = Prompt(front=self.tokens[modality](x.shape[0]), gate=self.gates[modality]())
        return model.features(modality, x, prompt)
