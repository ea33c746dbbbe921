"""Prompts of every task as sums of outer products: a factor for layers, one for tokens, one for channels.

P^m[l, p, d] = 1/r sum_k A[l, k] B^m[p, k] C^m[d, k];  A is common to all prompted towers, B^m and C^m are each tower's
own: r (L + sum_m (P + D_m)) numbers a task, where dense prompts have L P sum_m D_m.

LPI: *Low-rank Prompt Interaction for Continual Vision-Language Retrieval*, ACM MM 2024. Entries of every factor are
drawn from N(0, 0.5^2), as in its release; the dense prompts that it is compared with from N(0, 0.02^2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymnia.types import Modality, UserError

FACTOR, DENSE = 0.5, 0.02  # deviations that entries are drawn with
COMMON = "common"


class Bank(nn.Module):
    """The prompts of all tasks for some towers, each task's in parameters of its own.

    ``widths``: numbers of a token, by modality. ``rank`` None: dense prompts. ``share``: one layer factor for all
    towers, or one each. Nothing trains until ``begin`` says which task does.
    Raises UserError for a rank above a tower's width: it would cost more than it can express.
    """

    def __init__(
        self,
        tasks: int,
        widths: Mapping[Modality, int],
        depth: int,
        length: int,
        rank: int | None = 4,
        share: bool = True,
    ):
        super().__init__()
        for m, width in widths.items():
            if rank is not None and rank > width:
                raise UserError(
                    f"rank {rank} is above the {width} numbers of a token of towers.{m}; lower it, or give rank: null"
                )
        self.modalities = tuple(widths)
        made = [
            _Dense(widths, depth, length) if rank is None else _Factors(widths, depth, length, rank, share)
            for _ in range(tasks)
        ]
        self.tasks = nn.ModuleList(made)
        self.requires_grad_(False)

    def begin(self, task: int) -> None:
        """From now on the prompts of task number ``task`` (from 1) train, and no others."""
        for number, prompts in enumerate(self.tasks, start=1):
            prompts.requires_grad_(number == task)

    def forward(self, modality: Modality, tasks: Sequence[int]) -> Float[Tensor, "t l p d"]:
        """The prompts of these tasks (numbers from 1) for one tower; only these are made."""
        with torch.autocast(next(self.parameters()).device.type, enabled=False):  # losses compare their small means
            return torch.stack([self.tasks[task - 1](modality) for task in tasks])


def distances(bank: Bank) -> dict[Modality, Float[Tensor, "t t"]]:
    """1 - cosine between the prompts of any two tasks, by modality: 0 alike, 1 unrelated, 2 opposite."""
    every = range(1, len(bank.tasks) + 1)
    with torch.no_grad():
        rows = {m: normalize(bank(m, every).flatten(1), dim=1) for m in bank.modalities}
    return {m: 1 - x @ x.T for m, x in rows.items()}


class _Factors(nn.Module):
    """One task's prompts as factors."""

    def __init__(self, widths: Mapping[Modality, int], depth: int, length: int, rank: int, share: bool):
        super().__init__()
        self.rank, self.share = rank, share
        self.layers = nn.ParameterDict({m: _drawn(FACTOR, depth, rank) for m in ((COMMON,) if share else widths)})
        self.tokens = nn.ParameterDict({m: _drawn(FACTOR, length, rank) for m in widths})
        self.channels = nn.ParameterDict({m: _drawn(FACTOR, width, rank) for m, width in widths.items()})

    def forward(self, modality: Modality) -> Float[Tensor, "l p d"]:
        layers = self.layers[COMMON if self.share else modality]
        return (layers[:, None] * self.tokens[modality]) @ self.channels[modality].T / self.rank


class _Dense(nn.Module):
    """One task's prompts as they are."""

    def __init__(self, widths: Mapping[Modality, int], depth: int, length: int):
        super().__init__()
        self.prompts = nn.ParameterDict({m: _drawn(DENSE, depth, length, width) for m, width in widths.items()})

    def forward(self, modality: Modality) -> Float[Tensor, "l p d"]:
        return self.prompts[modality]


def _drawn(deviation: float, *shape: int) -> Float[Tensor, "..."]:
    return torch.randn(shape) * deviation
