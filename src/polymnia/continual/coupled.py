"""Prompts of several towers from one set of tokens: a leader's own, and linear maps of them for every other tower.

T_pre^(l) = A^(l) W_pre + b_pre  in front of, and  T_post^(l) = A^(l) W_post + b_post  behind, the words at block l;
the leader sees A^(l) itself. The same W for all blocks (Yang et al., DGL, AAAI 2024, linear variant), or one a block
(Khattak et al., MaPLe, CVPR 2023, where text leads). PTAT's "audio-text prompt generation" as we read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from polymnia.continual.prompts import Gates, PromptConfig, Tokens
from polymnia.models.prompting import Prompt
from polymnia.types import MODALITIES, Modality, UserError


class CoupledConfig(PromptConfig):
    """``length``: tokens of a set (0: none, the towers as they are). ``depth``: blocks that get sets of their own,
    each in place of the last (None: as many as the smallest tower has; 1: tokens that enter the first block and go on
    through the others). ``shared_linear``: one map for all blocks, or one a block.

    ``coupling``: ``a->t``: the first prompted tower (audio, else image) leads; ``t->a``: text leads; ``none``: every
    tower has free tokens. ``post``: text has a second set, behind its words.
    """

    length: NonNegativeInt = 4
    depth: PositiveInt | None = None
    shared_linear: bool = True
    coupling: Literal["a->t", "none", "t->a"] = "a->t"
    post: bool = True


class Coupled(nn.Module):
    """The prompts of some towers, the same for every input and every task.

    ``widths``: of the tokens of every block, by modality. The second set of text is mapped from the leader, too; where
    text leads or nobody does, it is free. A leader that widens on the way (Swin) has tokens of each block's width. A
    shared map is then one a distinct pair of widths, as one matrix cannot serve two (96, 192, 384 and 768 numbers to
    768: four maps), and so it is for a follower that widens.
    Raises UserError for a depth above that of a tower, and where text should lead but is not prompted.
    """

    def __init__(self, cfg: CoupledConfig, widths: Mapping[Modality, Sequence[int]]):
        super().__init__()
        self.modalities = tuple(m for m in MODALITIES if m in widths)
        self.leader = _leader(cfg.coupling, self.modalities)
        depth = _depth(cfg.depth, {m: len(w) for m, w in widths.items()})
        used = {m: tuple(widths[m][:depth]) for m in self.modalities}
        led = [m for m in self.modalities if self.leader not in (None, m)]
        free = [m for m in self.modalities if m not in led]
        behind = ["text"] if cfg.post and "text" in used else []
        self.front = nn.ModuleDict({m: Tokens(used[m], cfg.length) for m in free})
        self.back = nn.ModuleDict({m: Tokens(used[m], cfg.length) for m in behind if m in free})
        self.to_front, self.to_back = (
            nn.ModuleDict({m: _Maps(used[self.leader], used[m], cfg.shared_linear) for m in which})
            for which in (led, [m for m in behind if m in led])
        )
        # tokens go on behind the last block that gets new ones, and are gated there, too
        self.gates = nn.ModuleDict({m: Gates(len(widths[m]), cfg.gate) for m in self.modalities})

    def forward(self, modality: Modality, rows: int) -> Prompt:
        """What a batch of so many rows brings along into a tower."""
        front = self._sets(modality, self.front, self.to_front, rows)
        back = self._sets(modality, self.back, self.to_back, rows)
        return Prompt(front=front, back=back, gate=self.gates[modality]())

    def _sets(
        self, modality: Modality, free: nn.ModuleDict, maps: nn.ModuleDict, rows: int
    ) -> list[Float[Tensor, "b p w"]]:
        """The tokens of each block, of a tower's own or the leader's through the maps; empty without either."""
        if modality in free:
            return free[modality](rows)
        if modality not in maps:
            return []
        made = maps[modality](list(self.front[self.leader].blocks))  # once, not once a row
        return [tokens.expand(rows, -1, -1) for tokens in made]


class _Maps(nn.Module):
    """Affine maps of the leader's tokens to another tower's widths, block by block; drawn as torch draws them."""

    def __init__(self, inside: Sequence[int], outside: Sequence[int], shared: bool):
        super().__init__()
        sizes = list(zip(inside, outside, strict=True))
        distinct = list(dict.fromkeys(sizes))
        self.of_block = [distinct.index(size) if shared else n for n, size in enumerate(sizes)]
        self.maps = nn.ModuleList(nn.Linear(*size) for size in (distinct if shared else sizes))

    def forward(self, blocks: Sequence[Float[Tensor, "p _"]]) -> list[Float[Tensor, "p _"]]:
        return [self.maps[n](tokens) for n, tokens in zip(self.of_block, blocks, strict=True)]


def _leader(coupling: str, modalities: Sequence[Modality]) -> Modality | None:
    if coupling == "none":
        return None
    if coupling == "a->t":
        return modalities[0]
    if "text" not in modalities:
        raise UserError(
            f"coupling t->a: text leads, but only {', '.join(modalities)} are prompted; set towers.text.frozen: false "
            "and prompt it, too, or take a->t"
        )
    return "text"


def _depth(given: int | None, depths: Mapping[Modality, int]) -> int:
    shallow = min(depths, key=depths.__getitem__)
    if given is not None and given > depths[shallow]:
        raise UserError(f"depth {given}: towers.{shallow} has {depths[shallow]} blocks; lower it")
    return given or depths[shallow]
