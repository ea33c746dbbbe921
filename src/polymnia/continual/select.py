"""Which task an input belongs to, where nobody says so: the nearest of a few centres that each task leaves behind.

S-Prompts (Wang et al., NeurIPS 2022) and LPI: k-means over unit features of the un-prompted tower, nearest centre in
L1. Each modality has a selector of its own, and a picture and its caption may choose different tasks.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymnia.config import Frozen
from polymnia.types import Modality, UserError


class SelectConfig(Frozen):
    """``centres`` a task; ``distance`` to them; ``oracle``: the true task where it is known (for ablations)."""

    centres: PositiveInt = 5
    distance: Literal["l1", "l2"] = "l1"
    oracle: bool = False


class Selector(nn.Module):
    """Centres of finished tasks in one modality. Its buffers have their final shape from construction on.

    ``current`` is the task that is being learned, ``learned`` the last one that has left centres, ``left`` says which
    have: a task without the modality leaves none, and is never chosen. An input that is known to be of the current
    task is served by it: nobody can choose what has left no centres yet.
    """

    centres: Tensor
    left: Tensor
    learned: Tensor
    current: Tensor

    def __init__(self, cfg: SelectConfig, modality: Modality, tasks: int, dim: int, seed: int):
        super().__init__()
        self.cfg, self.modality, self.seed = cfg, modality, seed
        self.register_buffer("centres", torch.zeros(tasks, cfg.centres, dim))
        self.register_buffer("left", torch.zeros(tasks, dtype=torch.bool))
        self.register_buffer("learned", torch.zeros((), dtype=torch.long))
        self.register_buffer("current", torch.zeros((), dtype=torch.long))

    def begin(self, task: int) -> None:
        """From now on task number ``task`` (from 1) is being learned."""
        self.current.fill_(task)

    def learn(self, task: int, queries: Float[Tensor, "n d"]) -> None:
        """Keep the centres of a finished task. Raises UserError for fewer samples than centres."""
        if len(queries) < self.cfg.centres:
            raise UserError(
                f"task {task} has {len(queries)} training samples with {self.modality}, fewer than the "
                f"{self.cfg.centres} centres of its router; set select.centres lower"
            )
        from sklearn.cluster import KMeans  # half a second that only these methods need
        from sklearn.exceptions import ConvergenceWarning

        unit = normalize(queries.double(), dim=-1).cpu().numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different inputs than centres: some are equal
            found = KMeans(self.cfg.centres, n_init=3, random_state=self.seed % 2**32).fit(unit).cluster_centers_
        self.centres[task - 1] = torch.from_numpy(found).to(self.centres)
        self.left[task - 1] = True
        self.learned.fill_(max(task, int(self.learned)))

    def choose(self, query: Float[Tensor, "b d"], task: Int[Tensor, " b"] | None = None) -> Int[Tensor, " b"]:
        """The number of each row's task, from 1; 0 while no task was learned. ``task``: what is known (0: nothing)."""
        learned = int(self.learned)
        chosen = torch.zeros(len(query), dtype=torch.long, device=query.device)
        if learned:
            p = 1.0 if self.cfg.distance == "l1" else 2.0
            centres = self.centres[:learned].flatten(0, 1)
            far = torch.cdist(normalize(query, dim=-1).to(centres.dtype), centres, p=p)
            none = ~self.left[:learned].repeat_interleave(self.cfg.centres)
            chosen = far.masked_fill(none, torch.inf).argmin(1) // self.cfg.centres + 1
        if task is None:
            return chosen
        current = int(self.current)
        told = (task == current) & (current > learned)
        if self.cfg.oracle:
            told = told | ((task >= 1) & (task <= learned) & self.left[(task - 1).clamp(0, len(self.left) - 1)])
        return torch.where(told, task, chosen)
