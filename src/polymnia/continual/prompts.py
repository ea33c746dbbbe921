"""What prompt methods are made of: which towers they prompt, what trains beside the prompts, and banks of tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from polymnia.continual.method import MethodConfig, Setup
from polymnia.continual.select import Selector
from polymnia.models.model import Model
from polymnia.types import Batch, Batches, Known, Modality, Task, UserError


class SteerConfig(MethodConfig):
    """Keys of every method that steers towers and leaves their weights as they are.

    ``modalities``: whose towers (none given: all that are not ``frozen``). ``heads``, ``scale``: whether projection
    heads and temperatures train beside.
    """

    modalities: tuple[Modality, ...] = ()
    heads: bool = True
    scale: bool = True


class PromptConfig(SteerConfig):
    """Keys of every method that prompts.

    ``length``: tokens. ``gate``: an attention logit that is added for prompts and learned from this value on (-4 all
    but hides them at first, so that untrained tokens do not dilute the attention of small towers); none given: no
    gate, as in the papers.
    """

    length: PositiveInt = 4
    gate: float | None = None


def steered(setup: Setup, cfg: SteerConfig, at_least: int = 1) -> tuple[Modality, ...]:
    """The modalities whose towers a method steers.

    Raises UserError for a tower that is frozen (its features are cached: nothing could enter), and for fewer towers
    than the method couples.
    """
    model = setup.model
    chosen = cfg.modalities or tuple(m for m in model.modalities if m in model.learn)
    for m in chosen:
        model.tower(m)  # raises where there is none
        if m not in model.learn:
            raise UserError(f"towers.{m} is frozen: its features are cached and take no prompts; set frozen: false")
    if len(chosen) < at_least:
        raise UserError(
            f"the method prompts {at_least} tower(s) or more, but {', '.join(chosen) or 'none'} can be prompted; set "
            "frozen: false on a transformer tower"
        )
    return chosen


def prompted(setup: Setup, cfg: PromptConfig, at_least: int = 1) -> tuple[Modality, ...]:
    """The same for a method that prompts. Raises UserError for a tower that takes no prompts, too."""
    chosen = steered(setup, cfg, at_least)
    for m in chosen:
        tower = setup.model.tower(m)
        if not tower.depth:
            raise UserError(f"towers.{m} ({type(tower).__module__}) takes no prompts; use a transformer tower")
    return chosen


def begin(model: Model, cfg: SteerConfig) -> None:
    """Towers stay as they are; heads and temperatures train as the config says."""
    for m in model.learn:
        model.freeze(m)
    model.heads.requires_grad_(cfg.heads)
    model.log_scale.requires_grad_(cfg.scale)


def refuse_idle(cfg: SteerConfig, modalities: Collection[Modality], task: Task) -> None:
    """Raise UserError for a task that would train nothing: none of its towers is prompted, and no head trains."""
    if not (cfg.heads or cfg.scale or any(m in pair for pair in task.pairs for m in modalities)):
        pairs = ", ".join("-".join(pair) for pair in task.pairs)
        raise UserError(
            f"task '{task.name}' ({pairs}) trains nothing: only {', '.join(modalities)} is prompted, and heads and "
            "scale are false; set heads: true, or add to modalities"
        )


def reach(given: int | None, depths: Mapping[Modality, int], usual: int | None = None) -> int:
    """How many blocks get tokens: ``given``, or else ``usual`` (None: all) as far as the shallowest tower goes.

    Raises UserError for a given depth that a tower does not have.
    """
    shallow = min(depths, key=depths.__getitem__)
    if given is not None and given > depths[shallow]:
        raise UserError(f"depth {given}: towers.{shallow} has {depths[shallow]} blocks; lower it")
    return given or min(usual or depths[shallow], depths[shallow])


@torch.no_grad()
def ask(model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known) -> Float[Tensor, "b o"]:
    """What the tower says without prompts: known beforehand, or computed now."""
    return model.features(modality, x).float() if known.query is None else known.query


def asked(model: Model, modality: Modality, batches: Batches) -> Float[Tensor, "n o"]:
    """The same for all rows of some batches that have the modality."""
    rows = [ask(model, modality, b.inputs[modality], b.known(modality)) for b in batches if modality in b.inputs]
    return torch.cat(rows) if rows else torch.zeros(0, model.tower(modality).out_dim)


def routed(
    router: Selector, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known, training: bool
) -> Int[Tensor, " b"]:
    """The task that serves each row, from 1; 0 for none: in training its own, else the one that the router chooses."""
    task = known.task
    if task is not None and router.current > router.learned:
        task = task.clamp(max=router.current)  # a joint run, whose rows are of many tasks, is one to the method
    if training and task is not None:
        return task
    return router.choose(ask(model, modality, x, known), task)


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
    """The tasks that a batch uses, and for each row the place of its own among them: only these are made.

    Raises IndexError for a number below 1, which would be one of the last in a list.
    """
    used, place = chosen.unique(return_inverse=True)
    tasks = used.tolist()
    if tasks and tasks[0] < 1:
        raise IndexError(f"task {tasks[0]} has nothing of its own; tasks count from 1")
    return tasks, place


def current_rows(batch: Batch, modality: Modality, task: int) -> Int[Tensor, " n"]:
    """Places, in ``inputs[modality]``, of the rows that are of this task and not rehearsed."""
    return (batch.task[batch.rows[modality]] == task).nonzero()[:, 0]
