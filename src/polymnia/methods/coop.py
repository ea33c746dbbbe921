"""CoOp: free context tokens beside the words at the input of the text tower, one set, trained on task after task.

[start, V_1, ..., V_n, caption, end] (``position: front``) or [start, caption, V_1, ..., V_n, end] (``back``).

Zhou et al.: *Learning to prompt for vision-language models*, IJCV 2022. What is the name of a class there is the
caption here. The paper's contexts take the places of words, so that a caption moves up; here they have no position,
and words keep theirs. A caption has less room in both: tokens and ``max_tokens`` together may not exceed the positions
of the text tower. In a causal text tower tokens at the back stand before the end token, which sees them there. Nothing
is done against forgetting.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.prompts import Gates, PromptConfig, Tokens, begin, prompted, refuse_idle
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt
from polymnia.types import Known, Modality, Task

DEVIATION = 0.02


class Config(PromptConfig):
    """``length`` context tokens, drawn from N(0, 0.02^2). ``position``: before the words or behind them.
    ``modalities``: text alone, as in the paper; others may be named."""

    modalities: tuple[Modality, ...] = ("text",)
    length: PositiveInt = 16
    position: Literal["front", "back"] = "front"

    @model_validator(mode="after")
    def _gate_in_front(self) -> Config:
        if self.gate is not None and self.position == "back":
            raise ValueError("a gate acts on tokens in front; set position: front, or leave the gate out")
        return self


class Method(AbstractMethod):
    """Context tokens and gates of each prompted tower. Until the first task begins, towers are plain."""

    keeps_towers = True
    begun: Tensor

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg = cfg
        towers = {m: setup.model.tower(m) for m in prompted(setup, cfg)}
        self.tokens = nn.ModuleDict({m: Tokens(t.widths[:1], cfg.length, DEVIATION) for m, t in towers.items()})
        self.gates = nn.ModuleDict({m: Gates(t.depth, cfg.gate) for m, t in towers.items()})
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
        tokens = self.tokens[modality](x.shape[0])
        if self.cfg.position == "back":
            return model.features(modality, x, Prompt(back=tokens))
        return model.features(modality, x, Prompt(front=tokens, gate=self.gates[modality]()))
