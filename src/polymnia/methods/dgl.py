"""DGL-linear: local prompts of one tower, from which two linear maps make those of the others; global ones beside.

The leader (sounds, or else pictures) has tokens V_l before each block l; tower m gets T_pre = V_l W^m_pre + b^m_pre in
front of its words or patches and T_post = V_l W^m_post + b^m_post behind them, the maps being common to all blocks.
Slots are overwritten at every block. Global tokens enter the leader's first block, go on through all others, and may
be what it is read out from.

Yang et al.: *DGL: dynamic global-local prompt tuning for text-video retrieval*, AAAI 2024, with unified linear
projection; tokens are drawn uniformly by VPT's rule. The authors' code puts T_post behind the end token of a causal
text tower, where it changes nothing; here it stands before it. In the leader the global tokens stand in front and the
local ones behind, which is the same to a tower in which all tokens see each other, as prompts have no position. One
set, trained on task after task: nothing is done against forgetting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.prompts import PromptConfig, Tokens, begin, prompted, reach, refuse_idle
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt, fold
from polymnia.types import MODALITIES, Known, Modality, Task


class Config(PromptConfig):
    """``length`` local tokens of the leader for each of ``depth`` blocks (None: all of the shallowest tower); the
    others get so many in front and so many behind. ``globals``: global tokens. ``read``: the leader's features are
    those of the ``tower``, or (``prompts``, as in the paper) the mean over its global tokens. There is no ``gate``: it
    would hide the tokens in front alone.
    """

    length: PositiveInt = 4
    globals: NonNegativeInt = 4
    depth: PositiveInt | None = None
    read: Literal["tower", "prompts"] = "tower"

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.gate is not None:
            raise ValueError(
                "dgl has no gate: it would hide tokens in front alone, and not those behind; leave it out"
            )
        if self.read == "prompts" and not self.globals:
            raise ValueError("read: prompts means the global tokens, and globals is 0; set globals: 4, or read: tower")
        return self


class Method(AbstractMethod):
    """Local and global tokens of the leader, maps to the others. Until the first task begins, towers are plain."""

    keeps_towers = True
    begun: Tensor

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg = cfg
        chosen = sorted(prompted(setup, cfg, at_least=2), key=MODALITIES.index)
        towers = {m: setup.model.tower(m) for m in chosen}
        depth = reach(cfg.depth, {m: t.depth for m, t in towers.items()})
        self.leader, self.widths = chosen[0], {m: t.widths[:depth] for m, t in towers.items()}
        width = self.widths[self.leader][0]
        self.local = Tokens((width,) * depth, cfg.length)
        self.whole = Tokens((width,) if cfg.globals else (), cfg.globals)
        for w in self.widths.values():  # a tower that widens in a way that the tokens cannot follow is an error now
            self._fitted(w, torch.empty(depth, cfg.length, w[0]), 1)
        self.maps = nn.ModuleDict({m: _Maps(width, self.widths[m][0]) for m in chosen[1:]})
        self.register_buffer("begun", torch.zeros((), dtype=torch.long))

    def begin_task(self, model: Model, task: Task) -> None:
        begin(model, self.cfg)
        refuse_idle(self.cfg, list(self.widths), task)
        self.begun.fill_(1)

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if modality not in self.widths or not self.begun:
            return model.features(modality, x)
        return model.features(modality, x, self._prompt(modality, x.shape[0]))

    def _prompt(self, modality: Modality, rows: int) -> Prompt:
        widths, local = self.widths[modality], list(self.local.blocks)
        if modality == self.leader:
            return Prompt(front=self.whole(rows), back=self._fitted(widths, local, rows), read=self.cfg.read)
        maps = self.maps[modality]
        front, back = (
            self._fitted(widths, map(maps.pre, local), rows),
            self._fitted(widths, map(maps.post, local), rows),
        )
        return Prompt(front=front, back=back)

    def _fitted(
        self, widths: tuple[int, ...], tokens: Iterable[Float[Tensor, "p w"]], rows: int
    ) -> list[Float[Tensor, "b _ _"]]:
        """Tokens of each block, folded to its width, the same for every row."""
        return [fold(t[None], w).expand(rows, -1, -1) for t, w in zip(tokens, widths, strict=True)]


class _Maps(nn.Module):
    """From the leader's tokens to those in front (``pre``) and behind (``post``) in another tower."""

    def __init__(self, width: int, to: int):
        super().__init__()
        self.pre, self.post = nn.Linear(width, to), nn.Linear(width, to)
