"""What prompt methods are made of: which towers they prompt, what trains beside the prompts, and banks of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from polymnia.continual.method import MethodConfig, Setup
from polymnia.models.model import Model
from polymnia.types import Batch, Batches, Known, Modality, UserError


class PromptConfig(MethodConfig):
    """Keys of every method that prompts.

    ``modalities``: whose towers are prompted (none given: all that are not ``frozen``). ``length``: tokens.
    ``heads``, ``scale``: whether projection heads and temperatures train beside the prompts. ``gate``: an attention
    logit that is added for prompts and learned from this value on (-4 all but hides them at first, so that untrained
    tokens do not dilute the attention of small towers); none given: no gate, as in the papers.
    """

    modalities: tuple[Modality, ...] = ()
    length: PositiveInt = 4
    heads: bool = True
    scale: bool = True
    gate: float | None = None


def prompted(setup: Setup, cfg: PromptConfig, at_least: int = 1) -> tuple[Modality, ...]:
    """The modalities whose towers a method prompts.

    Raises UserError for a tower that is frozen (its features are cached: nothing could enter), one that takes no
    prompts, one without positions for so many, and for fewer modalities than the method couples.
    """
    model = setup.model
    chosen = cfg.modalities or tuple(m for m in model.modalities if m in model.learn)
    for m in chosen:
        tower = model.tower(m)
        if m not in model.learn:
            raise UserError(f"towers.{m} is frozen: its features are cached and take no prompts; set frozen: false")
        if not tower.depth:
            raise UserError(f"towers.{m} ({type(tower).__module__}) takes no prompts; use a transformer tower")
    if len(chosen) < at_least:
        raise UserError(
            f"the method prompts {at_least} tower(s) or more, but {', '.join(chosen) or 'none'} can be prompted; set "
            "frozen: false on a transformer tower"
        )
    return chosen


def begin(model: Model, cfg: PromptConfig) -> None:
    """Towers stay as they are; heads and temperatures train as the config says."""
    for m in model.learn:
        model.freeze(m)
    model.heads.requires_grad_(cfg.heads)
    model.log_scale.requires_grad_(cfg.scale)


@torch.no_grad()
def ask(model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known) -> Float[Tensor, "b o"]:
    """What the tower says without prompts: known beforehand, or computed now."""
    return model.features(modality, x).float() if known.query is None else known.query


def asked(model: Model, modality: Modality, batches: Batches) -> Float[Tensor, "n o"]:
    """The same for all rows of some batches that have the modality."""
    rows = [ask(model, modality, b.inputs[modality], b.known(modality)) for b in batches if modality in b.inputs]
    return torch.cat(rows) if rows else torch.zeros(0, model.tower(modality).out_dim)


class Tokens(nn.Module):
    """``length`` tokens for each of some blocks, one set for all inputs.

    ``init``: ``vpt``: uniform within sqrt(6 / (3 p^2 + w)), p being 16, VPT's rule for patches; or the deviation of a
    normal distribution.
    """

    def __init__(self, widths: Sequence[int], length: int, init: Literal["vpt"] | NonNegativeFloat = "vpt"):
        super().__init__()
        self.blocks = nn.ParameterList(torch.empty(length, w) for w in widths)
        for tokens in self.blocks:
            draw(tokens, init)

    def forward(self, rows: int) -> list[Float[Tensor, "b p w"]]:
        """The tokens of each block, the same for every row (views, not copies)."""
        return [tokens.expand(rows, -1, -1) for tokens in self.blocks]


def draw(tokens: Float[Tensor, "*_ w"], init: Literal["vpt"] | float) -> None:
    """Draw tokens anew, in place."""
    with torch.no_grad():
        if init == "vpt":
            bound = (6 / (3 * 16 * 16 + tokens.shape[-1])) ** 0.5
            tokens.uniform_(-bound, bound)
        else:
            tokens.normal_(0, init)


class Gates(nn.Module):
    """A learned attention logit a block (see ``PromptConfig.gate``); empty without one."""

    def __init__(self, blocks: int, start: float | None):
        super().__init__()
        self.logits = nn.ParameterList(torch.tensor(start) for _ in range(0 if start is None else blocks))

    def forward(self) -> tuple[Float[Tensor, ""], ...]:
        return tuple(self.logits)


def spread(chosen: Int[Tensor, " b"]) -> tuple[list[int], Int[Tensor, " b"]]:
    """The tasks that a batch uses, and for each row the place of its own among them: only these are made."""
    used, place = chosen.unique(return_inverse=True)
    return used.tolist(), place


def current_rows(batch: Batch, modality: Modality, task: int) -> Int[Tensor, " n"]:
    """Places, in ``inputs[modality]``, of the rows that are of this task and not rehearsed."""
    return (batch.task[batch.rows[modality]] == task).nonzero()[:, 0]
