"""Prompts of two towers look at each other, layer by layer, through affine maps of low rank.

M^{v->t}[l, i, j] = 1/r sum_k a[l, k] b[i, k] c[j, k], the bias being one more input row, and M^{t->v} of its own;
V <- LN_v((1 - mix) V + mix [H, 1] M^{t->v}[l]),  H <- LN_t((1 - mix) H + mix [V, 1] M^{v->t}[l]),  both from the old
V and H; one pair of LayerNorms a task for all layers.

LPI: *Low-rank Prompt Interaction for Continual Vision-Language Retrieval*, ACM MM 2024. Its release runs both towers
in lock-step (for grounding). Towers that serve retrieval never see each other: the vector of a picture must not depend
on the caption that it is compared with. So here a tower's slots look at the other's *prompt* of that layer and task,
which is the same for all inputs, in place of the other's slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from polymnia.config import Frozen
from polymnia.models.prompting import Mix
from polymnia.types import Modality, UserError

Message = Callable[[Float[Tensor, "*b p d"]], Float[Tensor, "*b p e"]]
DEPTH = 9  # of the paper, for prompts and interaction alike


class InteractionConfig(Frozen):
    """``rank`` of the maps (None: full matrices, as in deeply coupled prompts); ``mix``: the share of what is heard.

    It is at work before blocks ``first`` to ``depth`` - 1 (None: 9, or the blocks of the smallest tower). ``blocks``:
    how many the maps have factors for (None: the blocks of the deepest tower; 12 in the paper).
    """

    rank: PositiveInt | None = 4
    mix: float = Field(0.1, ge=0, le=1)
    first: NonNegativeInt = 1
    depth: PositiveInt | None = None
    blocks: PositiveInt | None = None


class Interactions(nn.Module):
    """The maps and LayerNorms of all tasks, each task's in parameters of its own.

    ``widths``: numbers of a token, by modality; ``depths``: blocks of the towers. Nothing trains until ``begin``.
    Raises UserError for a rank above a width, and for blocks that there are not.
    """

    def __init__(
        self, cfg: InteractionConfig, tasks: int, widths: Mapping[Modality, int], depths: Mapping[Modality, int]
    ):
        super().__init__()
        self.mix, self.first, self.partner = cfg.mix, cfg.first, partners(tuple(widths))
        self.depth = cfg.depth or min(DEPTH, *depths.values())
        blocks = cfg.blocks or max(depths.values())
        _refuse(cfg, self.depth, blocks, widths, depths)
        self.tasks = nn.ModuleList(_Task(widths, self.partner, blocks, cfg.rank) for _ in range(tasks))
        self.requires_grad_(False)

    def begin(self, task: int) -> None:
        """From now on the maps and LayerNorms of task number ``task`` (from 1) train, and no others."""
        for number, own in enumerate(self.tasks, start=1):
            own.requires_grad_(number == task)

    def forward(
        self, modality: Modality, prompts: Float[Tensor, "u l p e"], used: Sequence[int], place: Int[Tensor, " b"]
    ) -> Mix:
        """What changes the slots of a tower on their way (see ``Prompt.mix``), row by row as its task's.

        ``used``: tasks (from 1); ``prompts``: the partner's, of these tasks; ``place``: of each row's task among them.
        Behind the partner's last prompted layer its last prompt stands.
        """
        own = [self.tasks[task - 1] for task in used]
        weight = _by_row([task.norms[modality].weight[None] for task in own], place)
        bias = _by_row([task.norms[modality].bias[None] for task in own], place)

        def mix(i: int, slots: Float[Tensor, "b q w"]) -> Float[Tensor, "b q w"]:
            if not self.first <= i < self.depth:
                return slots
            layer = min(i, prompts.shape[1] - 1)
            heard = _by_row([t.maps[modality](prompts[n, layer], i) for n, t in enumerate(own)], place)
            state = slots.reshape(heard.shape)  # slots of a tower that has widened are fewer and wider
            return receive(state, heard.to(slots.dtype), self.mix, weight, bias).reshape(slots.shape).to(slots.dtype)

        return mix


def partners(modalities: Sequence[Modality]) -> dict[Modality, Modality]:
    """Whom each tower looks at: all at the first, and the first at the text, or at the next where there is none."""
    leader, *others = modalities
    if not others:
        return {}
    return {leader: "text" if "text" in others else others[0], **dict.fromkeys(others, leader)}


def receive(
    state: Float[Tensor, "*b p d"],
    heard: Float[Tensor, "*b p d"],
    mix: float,
    weight: Float[Tensor, "*c d"],
    bias: Float[Tensor, "*c d"],
) -> Float[Tensor, "*b p d"]:
    """LayerNorm((1 - mix) state + mix heard), with the norm's weight and bias, which may differ by row."""
    mixed = (1 - mix) * state + mix * heard
    return layer_norm(mixed, mixed.shape[-1:]) * weight + bias


def interact(
    v: Float[Tensor, "*b p d"],
    h: Float[Tensor, "*b p e"],
    to_v: Message,
    to_h: Message,
    norm_v: nn.LayerNorm,
    norm_h: nn.LayerNorm,
    mix: float = 0.1,
) -> tuple[Float[Tensor, "*b p d"], Float[Tensor, "*b p e"]]:
    """Both sides of one step, each from the other as it was before the step."""
    new_v = receive(v, to_v(h), mix, norm_v.weight, norm_v.bias)
    return new_v, receive(h, to_h(v), mix, norm_h.weight, norm_h.bias)


class _Task(nn.Module):
    """One task's maps to each tower from its partner, and a LayerNorm a tower."""

    def __init__(
        self, widths: Mapping[Modality, int], partner: Mapping[Modality, Modality], blocks: int, rank: int | None
    ):
        super().__init__()
        sizes = {m: (blocks, widths[partner[m]], widths[m]) for m in widths}
        self.maps = nn.ModuleDict({m: _Full(*s) if rank is None else _LowRank(*s, rank) for m, s in sizes.items()})
        self.norms = nn.ModuleDict({m: nn.LayerNorm(width) for m, width in widths.items()})


class _LowRank(nn.Module):
    """An affine map a block, of low rank and with factors in common. Entries: U(-1/sqrt(r), 1/sqrt(r))."""

    def __init__(self, blocks: int, inside: int, outside: int, rank: int):
        super().__init__()
        self.rank = rank
        bound = 1 / math.sqrt(rank)  # Kaiming-uniform with a = sqrt(5) of a matrix with r columns
        self.a, self.b, self.c = (_uniform(bound, n, rank) for n in (blocks, inside + 1, outside))

    def forward(self, x: Float[Tensor, "*b p i"], block: int) -> Float[Tensor, "*b p o"]:
        inner = x.to(self.b.dtype) @ self.b[:-1] + self.b[-1]
        return (inner * self.a[block]) @ self.c.T / self.rank


class _Full(nn.Module):
    """An affine map a block, drawn as torch draws a linear layer."""

    def __init__(self, blocks: int, inside: int, outside: int):
        super().__init__()
        self.weight = _uniform(1 / math.sqrt(inside), blocks, inside + 1, outside)

    def forward(self, x: Float[Tensor, "*b p i"], block: int) -> Float[Tensor, "*b p o"]:
        return x.to(self.weight.dtype) @ self.weight[block, :-1] + self.weight[block, -1]


def _by_row(parts: Sequence[Float[Tensor, "p d"]], place: Int[Tensor, " b"]) -> Float[Tensor, "b p d"]:
    """Of each row its task's. Of one task alone a view: no copies, no gradients summed row by row."""
    return parts[0].expand(len(place), -1, -1) if len(parts) == 1 else torch.stack(list(parts))[place]


def _uniform(bound: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def _refuse(
    cfg: InteractionConfig, depth: int, blocks: int, widths: Mapping[Modality, int], depths: Mapping[Modality, int]
) -> None:
    narrow, shallow = min(widths, key=widths.__getitem__), min(depths, key=depths.__getitem__)
    if cfg.rank is not None and cfg.rank > widths[narrow]:
        raise UserError(
            f"interaction.rank {cfg.rank} is above the {widths[narrow]} numbers of a token of towers.{narrow}; "
            "lower it, or give rank: null"
        )
    if depth > depths[shallow]:
        raise UserError(f"interaction.depth {depth}: towers.{shallow} has {depths[shallow]} blocks; lower it")
    if cfg.first >= depth:
        raise UserError(
            f"interaction.first {cfg.first}: no block from there on is below {depth}; lower it (0 is the first "
            "block), or set interaction: null"
        )
    if blocks < depth:
        raise UserError(f"interaction.blocks {blocks} is below the {depth} blocks that interact; give that many")
