"""Which task an input belongs to, where nobody says so: the nearest of a few centres that each task leaves behind.

S-Prompts (Wang et al., NeurIPS 2022) and LPI: k-means over unit features of the un-prompted tower, nearest centre in
L1. Each modality has a selector of its own, and a picture and its caption may choose different tasks.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymnia.config import Frozen
from polymnia.types import Captions, Modality, Source, Task, UserError


class SelectConfig(Frozen):
    """``centres`` a task; ``distance`` to them; ``oracle``: the true task where it is known (for ablations)."""

    centres: PositiveInt = 5
    distance: Literal["l1", "l2"] = "l1"
    oracle: bool = False


class Progress(nn.Module):
    """Which tasks one modality has learned. Its buffers have their final shape from construction on.

    ``current`` is the task that is being learned, ``learned`` the last one that has left something (centres, a key),
    ``left`` says which have: a task without the modality leaves nothing, and is never chosen.
    """

    left: Tensor
    learned: Tensor
    current: Tensor

    def __init__(self, modality: Modality, tasks: int):
        super().__init__()
        self.modality = modality
        self.register_buffer("left", torch.zeros(tasks, dtype=torch.bool))
        self.register_buffer("learned", torch.zeros((), dtype=torch.long))
        self.register_buffer("current", torch.zeros((), dtype=torch.long))

    def begin(self, task: int) -> None:
        """From now on task number ``task`` (from 1) is being learned."""
        self.current.fill_(task)

    def finish(self, task: int) -> None:
        """Task number ``task`` has left what it leaves."""
        self.left[task - 1] = True
        self.learned.fill_(max(task, int(self.learned)))

    def own(self, task: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The tasks of rows in training; in a joint run, whose rows are of many tasks, all are of its only one."""
        return task.clamp(max=int(self.current)) if self.current > self.learned else task

    def told(self, task: Int[Tensor, " b"], oracle: bool = False) -> Bool[Tensor, " b"]:
        """Rows whose known task (0: unknown) is to be believed: the current one, which has left nothing yet to be
        chosen by; with an ``oracle`` the finished ones, too."""
        current, learned = int(self.current), int(self.learned)
        told = (task == current) & (current > learned)
        if oracle:
            told = told | ((task >= 1) & (task <= learned) & self.left[(task - 1).clamp(0, len(self.left) - 1)])
        return told


class Selector(Progress):
    """Centres of finished tasks in one modality: the nearest says which task an input is of.

    An input that is known to be of the current task is served by it: nobody can choose what has left no centres yet.
    """

    centres: Tensor

    def __init__(self, cfg: SelectConfig, modality: Modality, tasks: int, dim: int, seed: int):
        super().__init__(modality, tasks)
        self.cfg, self.seed = cfg, seed
        self.register_buffer("centres", torch.zeros(tasks, cfg.centres, dim))

    def start(self, task: Task) -> None:
        """From now on a task is being learned. Raises UserError where it has fewer samples than centres."""
        if task.train:  # refused before it is learned, not after
            self._enough(task.index, sum(_samples(item.sources.get(self.modality)) for item in task.train))
        self.begin(task.index)

    def _enough(self, task: int, samples: int) -> None:
        if samples < self.cfg.centres:
            raise UserError(
                f"task {task} has {samples} training samples with {self.modality}, fewer than the "
                f"{self.cfg.centres} centres of its router; set select.centres lower"
            )

    def learn(self, task: int, queries: Float[Tensor, "n d"]) -> None:
        """Keep the centres of a finished task. Raises UserError for fewer samples than centres."""
        self._enough(task, len(queries))
        from sklearn.cluster import KMeans  # half a second that only these methods need
        from sklearn.exceptions import ConvergenceWarning

        unit = normalize(queries.double(), dim=-1).cpu().numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different inputs than centres: some are equal
            found = KMeans(self.cfg.centres, n_init=3, random_state=self.seed % 2**32).fit(unit).cluster_centers_
        self.centres[task - 1] = torch.from_numpy(found).to(self.centres)
        self.finish(task)

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
        return chosen if task is None else torch.where(self.told(task, self.cfg.oracle), task, chosen)


def _samples(source: Source | None) -> int:
    return len(source.texts) if isinstance(source, Captions) else int(source is not None)
