"""How far tasks are from each other: in the meaning of their names, in their prompts, in their data.

The semantic similarity of two tasks is the cosine of their names in a text tower. LPI (ACM MM 2024) takes a commercial
embedding; any will do, and here it is the model's own text tower, without prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymnia.continual.lowrank import Bank, distances
from polymnia.continual.select import Selector
from polymnia.models.model import Model
from polymnia.types import TextSpec, UserError

Square = Sequence[Sequence[float]]


class TaskSimilarity(nn.Module):
    """Cosines between the names of all tasks, in a buffer: all zero until they are ``known``.

    ``given``: the matrix, from a recipe. Raises UserError if it is no symmetric square of the tasks' size with ones on
    its diagonal and cosines beside it.
    """

    matrix: Tensor

    def __init__(self, names: Sequence[str], given: Square | None = None):
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("matrix", torch.zeros(len(names), len(names)))
        if given is not None:
            self.matrix.copy_(_checked(given, len(names)))

    @property
    def known(self) -> bool:
        return bool(self.matrix.diagonal().all())

    @torch.no_grad()
    def learn(self, model: Model) -> None:
        """Ask the model's text tower, as it is without prompts; once. Raises UserError unless it ``can_read``."""
        if self.known:
            return
        if not can_read(model):
            raise UserError(
                "similarities: the meaning of the tasks' names is asked of the text tower, which is "
                + ("frozen: its features are cached" if "text" in model.modalities else "not there")
                + "; give the cosines between tasks as similarities: [[1, ...], ...], or set towers.text.frozen: "
                "false, or contrast: 0"
            )
        tower = model.tower("text")
        training = tower.training
        tower.eval()
        ids = tower.prepare([words(name) for name in self.names]).to(self.matrix.device)
        unit = normalize(model.features("text", ids), dim=1)
        tower.train(training)
        cosines = (unit @ unit.T).clamp(-1, 1)
        self.matrix.copy_(cosines.fill_diagonal_(1))


def can_read(model: Model) -> bool:
    """Whether the model has a text tower that reads texts, rather than features that were computed before."""
    return "text" in model.modalities and isinstance(model.tower("text").spec, TextSpec)


def words(name: str) -> str:
    """A task's name as a text: ``wild_animals-2`` is "wild animals 2"."""
    return re.sub(r"[_\-\s]+", " ", name).strip()


@torch.no_grad()
def task_map(method: nn.Module) -> dict[str, Float[Tensor, "t t"]]:
    """Cosine distances (0 to 2) between tasks, by what is compared, of a method that prompts (``Chain.prompter``).

    ``semantic``: the names of all tasks; ``prompts/<modality>``: prompts, where they lie in a ``Bank``;
    ``data/<modality>``: the means of the centres that tasks left behind in their routers. In the last two NaN stands
    where a task was not learned with that modality. What the method does not have, or nobody asked for, is left out.
    """
    parts = list(method.modules())
    routers = {s.modality: s for s in parts if isinstance(s, Selector)}
    found: dict[str, Tensor] = {}
    for part in parts:
        if isinstance(part, TaskSimilarity) and part.known:
            found["semantic"] = 1 - part.matrix
        if isinstance(part, Bank):
            for m, square in distances(part).items():
                found[f"prompts/{m}"] = _only(square, routers[m].left) if m in routers else square
    for m, router in routers.items():
        unit = normalize(router.centres.mean(1), dim=1)
        found[f"data/{m}"] = _only(1 - unit @ unit.T, router.left)
    return found


def _only(square: Float[Tensor, "t t"], kept: Tensor) -> Float[Tensor, "t t"]:
    """The square without the rows and columns of tasks that are not kept."""
    return square.masked_fill(~(kept[:, None] & kept[None, :]), torch.nan)


def _checked(given: Square, tasks: int) -> Float[Tensor, "t t"]:
    if len(given) != tasks or any(len(row) != tasks for row in given):
        raise UserError(f"similarities: {tasks} tasks need {tasks} rows of {tasks} numbers, in the order of the tasks")
    matrix = torch.tensor(given, dtype=torch.float64)
    if not torch.allclose(matrix, matrix.T) or not torch.allclose(matrix.diagonal(), torch.ones(tasks).double()):
        raise UserError("similarities: no symmetric matrix with ones on its diagonal")
    if bool((matrix.abs() > 1 + 1e-6).any()):
        raise UserError("similarities: cosines lie between -1 and 1")
    return matrix
