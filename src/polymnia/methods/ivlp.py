"""IVLP: every tower has deep prompts of its own, and nothing couples them.

[CLS, P^m_l, x^{l-1}] before block l of tower m, what became of P^m_{l-1} being dropped.

Independent vision-language prompting, the ablation of MaPLe (Khattak et al., CVPR 2023) without its coupling: two
tokens in all twelve blocks of both towers, drawn from N(0, 0.02^2). One set, trained on task after task: nothing is
done against forgetting.
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
from polymnia.types import Known, Modality, Task

DEVIATION = 0.02


class Config(PromptConfig):
    """``length`` tokens for each of ``depth`` blocks (None: all of each tower); behind them the last ones go on."""

    length: PositiveInt = 2
    depth: PositiveInt | None = None


class Method(AbstractMethod):
    """Tokens and gates of each prompted tower. Until the first task begins, towers are plain."""

    keeps_towers = True
    begun: Tensor

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg = cfg
        towers = {m: setup.model.tower(m) for m in prompted(setup, cfg)}
        widths = {m: t.widths[: reach(cfg.depth, {m: t.depth})] for m, t in towers.items()}
        self.tokens = nn.ModuleDict({m: Tokens(w, cfg.length, DEVIATION) for m, w in widths.items()})
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
        prompt = Prompt(front=self.tokens[modality](x.shape[0]), gate=self.gates[modality]())
        return model.features(modality, x, prompt)
