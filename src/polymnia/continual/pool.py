"""What pools of prompts are made of: queries and keys, draws, the blocks that get prefixes, a key a task.

A query is what the tower says of an input without prompts (``ask``). Everything here takes it at unit norm: only its
direction says which prompts an input gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import AfterValidator, NonNegativeInt
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymnia.continual.select import Progress
from polymnia.models.prompting import Prefix
from polymnia.types import Modality, UserError


def cosines(query: Float[Tensor, "b d"], keys: Float[Tensor, "k d"]) -> Float[Tensor, "b k"]:
    """cos(query, key) in the precision of the keys, mixed precision or not: a choice must not hang on it."""
    with torch.autocast(query.device.type, enabled=False):
        return normalize(query.to(keys.dtype), dim=-1) @ normalize(keys, dim=-1).T


def attention(
    query: Float[Tensor, "b d"], keys: Float[Tensor, "m d"], by: Float[Tensor, "m d"]
) -> Float[Tensor, "b m"]:
    """cos(query * by_i, keys_i), the product number by number: in the precision of the keys, as ``cosines``, and
    without a tensor of b x m x d numbers."""
    with torch.autocast(query.device.type, enabled=False):
        query = normalize(query.to(keys.dtype), dim=-1)
        length = (query.square() @ by.square().T).clamp_min(1e-16).sqrt()
        return query @ (by * normalize(keys, dim=-1)).T / length


def orthogonal(old: Float[Tensor, "k d"], count: int, g: torch.Generator) -> Float[Tensor, "n d"]:
    """``count`` unit rows, orthogonal to the span of ``old`` and to each other while there is room; then a new round
    begins, orthogonal within itself. In double precision on the CPU: the same draws on any device."""
    dim = old.shape[1]
    _, sizes, basis = torch.linalg.svd(old.detach().cpu().double(), full_matrices=False)
    basis = basis[sizes > 1e-9 * sizes.max()] if len(old) else basis[:0]
    rows: list[Tensor] = []
    for _ in range(count):
        if len(basis) >= dim:
            basis = basis[:0]
        row = torch.randn(dim, generator=g, dtype=torch.double)
        for _ in range(2):  # the second time takes away what rounding left
            row = row - basis.T @ (basis @ row)
        rows.append(row / row.norm())
        basis = torch.cat([basis, rows[-1][None]])
    return torch.stack(rows)


@torch.no_grad()
def draw_uniform(module: nn.Module, below: float) -> None:
    """Draw all parameters anew from the uniform distribution over [0, below), as the authors of L2P do."""
    for p in module.parameters():
        p.uniform_(0, below)


def _apart(blocks: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(blocks)) < len(blocks):
        raise ValueError("each block once")
    return tuple(sorted(blocks))


Blocks = Annotated[tuple[NonNegativeInt, ...], AfterValidator(_apart)]  # numbers of a tower's blocks, from 0


def within(key: str, blocks: Blocks, modality: Modality, depth: int) -> Blocks:
    """Blocks that a config asks for. Raises UserError, naming ``key``, for those that a tower does not have."""
    beyond = [b for b in blocks if b >= depth]
    if beyond:
        raise UserError(
            f"{key}: block {beyond[0]}, but towers.{modality} has {depth} blocks, 0 to {depth - 1}; leave out what is "
            "beyond, or the whole key for the usual blocks as far as each tower goes"
        )
    return blocks


def joined(prefixes: Sequence[dict[int, Prefix]]) -> list[Prefix | None]:
    """Prefixes by block as a ``Prompt`` takes them; a block that has several sees all of them, the first in front."""
    last = max((block for given in prefixes for block in given), default=-1)
    out: list[Prefix | None] = []
    for block in range(last + 1):
        here = [given[block] for given in prefixes if block in given]
        both = [torch.cat(tokens, dim=1) for tokens in zip(*here, strict=True)]
        out.append((both[0], both[1]) if here else None)
    return out


class TaskKeys(Progress):
    """A learned key for each task in one modality: the one with the largest cosine says which task an input is of.

    Each key is a parameter of its own, and none trains until a method says so: an optimizer that does not hold a
    finished task's cannot move it. A key counts from the end of its task on; until then an input known to be of that
    task is served by it.
    """

    def __init__(self, modality: Modality, tasks: int, dim: int, below: float):
        super().__init__(modality, tasks)
        self.keys = nn.ParameterList(torch.empty(dim) for _ in range(tasks))
        draw_uniform(self, below)
        self.requires_grad_(False)

    def similar(self, query: Float[Tensor, "b d"]) -> Float[Tensor, "b t"]:
        """Cosines with the keys of all tasks, also of those that are still to come."""
        return cosines(query, torch.stack(list(self.keys)))

    def choose(
        self, query: Float[Tensor, "b d"], task: Int[Tensor, " b"] | None = None, oracle: bool = False
    ) -> Int[Tensor, " b"]:
        """The number of each row's task, from 1; 0 while no task was learned. ``task``: what is known (0: nothing),
        ``oracle``: to be believed for finished tasks, too."""
        chosen = torch.zeros(len(query), dtype=torch.long, device=query.device)
        if self.left.any():
            chosen = self.similar(query).detach().masked_fill(~self.left, -torch.inf).argmax(1) + 1
        return chosen if task is None else torch.where(self.told(task, oracle), task, chosen)
