"""Prompt tokens of every task in parameters of their own, and how the rows of a mixed batch meet theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from polymnia.continual.prompts import Tokens, spread
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt
from polymnia.types import Modality


class TaskTokens(nn.Module):
    """Tokens of ``tasks`` tasks for some towers.

    ``widths``: of a token at each block that gets some, by modality. ``lengths``: tokens a block, by modality.
    ``init``: see ``Tokens``. Nothing trains until ``begin`` says which task does: a finished task's tokens have no
    gradient, and so no optimizer (weight decay, momentum) ever moves them.
    """

    def __init__(
        self,
        tasks: int,
        widths: Mapping[Modality, Sequence[int]],
        lengths: Mapping[Modality, int],
        init: Literal["vpt"] | NonNegativeFloat = "vpt",
    ):
        super().__init__()
        self.tasks = nn.ModuleList(
            nn.ModuleDict({m: Tokens(w, lengths[m], init) for m, w in widths.items()}) for _ in range(tasks)
        )
        self.requires_grad_(False)

    def begin(self, task: int) -> None:
        """From now on the tokens of task number ``task`` (from 1) train, and no others."""
        for number, tokens in enumerate(self.tasks, start=1):
            tokens.requires_grad_(number == task)

    def forward(self, modality: Modality, tasks: Int[Tensor, " b"]) -> list[Float[Tensor, "b p _"]]:
        """The tokens of each block for rows of these tasks (numbers from 1). Only tasks that occur are touched."""
        used, place = spread(tasks)
        sets = [self.tasks[task - 1][modality].blocks for task in used]
        if len(sets) == 1:
            return [tokens.expand(len(place), -1, -1) for tokens in sets[0]]
        return [torch.stack(block)[place] for block in zip(*sets, strict=True)]


def features_by_kind(
    model: Model,
    modality: Modality,
    x: Shaped[Tensor, "b ..."],
    kinds: Int[Tensor, " b"],
    prompt: Callable[[Int[Tensor, " _"]], Prompt],
) -> Float[Tensor, "b o"]:
    """Tower features of rows, those of one kind together: kind 0 without prompts, others with ``prompt(places)``."""
    parts, order = [], []
    for kind in kinds.unique().tolist():
        rows = (kinds == kind).nonzero()[:, 0]
        parts.append(model.features(modality, x[rows], prompt(rows) if kind else None))
        order.append(rows)
    return torch.cat(parts)[torch.cat(order).argsort()]
