"""The map of the tasks that a run leaves: how far they are from each other by name, by prompt and by data.

LPI (ACM MM 2024) is motivated by such a picture: tasks whose names mean something similar should have similar prompts.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymnia.continual.select import Selector
from polymnia.continual.taskdistance import TaskSimilarity, can_read, task_map
from polymnia.continual.tasktokens import TaskTokens
from polymnia.data.disk import write_text

if TYPE_CHECKING:
    from polymnia.runs.life import Session

FILE = "taskmap.json"
NAMES = "semantic"


def write(session: Session) -> None:
    """``taskmap.json``: ``tasks``, and ``maps``, square matrices of cosine distances (0 to 2) by what is compared.

    null stands where a task was not learned with that modality. No file for methods that keep nothing of single tasks,
    and for fewer than two tasks.
    """
    names = [task.name for task, _ in session.curriculum.tasks]
    prompter = session.method.prompter
    if prompter is None or len(names) < 2:
        return
    found = task_map(prompter) | of_tokens(prompter)
    if not found.keys() - {NAMES}:
        return
    if NAMES not in found and can_read(session.model):  # a method that asks nobody about names
        similarity = TaskSimilarity(names).to(session.recipe.device)
        similarity.learn(session.model)
        found = {NAMES: 1 - similarity.matrix, **found}
    content = {"tasks": names, "maps": {name: rounded(square) for name, square in found.items()}}
    write_text(session.folder / FILE, json.dumps(content, indent=1, allow_nan=False))


def of_tokens(prompter: nn.Module) -> dict[str, Float[Tensor, "t t"]]:
    """``prompts/<modality>`` of methods whose tasks have tokens as they are, all blocks in one; NaN as elsewhere."""
    left = {s.modality: s.left for s in prompter.modules() if isinstance(s, Selector)}
    found: dict[str, Tensor] = {}
    for bank in (part for part in prompter.modules() if isinstance(part, TaskTokens)):
        for m in bank.tasks[0]:
            rows = torch.stack([torch.cat([t.flatten() for t in own[m].blocks]) for own in bank.tasks]).detach()
            unit = normalize(rows, dim=1)
            lacks = ~left[m] if m in left else torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
            found[f"prompts/{m}"] = (1 - unit @ unit.T).masked_fill(lacks[:, None] | lacks[None, :], torch.nan)
    return found


def rounded(square: Float[Tensor, "t t"]) -> list[list[float | None]]:
    """A matrix as JSON can hold it, to six digits behind the point; null for NaN."""
    return [[None if math.isnan(v) else round(v, 6) + 0.0 for v in row] for row in square.tolist()]
