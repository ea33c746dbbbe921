"""How often a method that chooses a task for each input chooses the right one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from polymnia.continual.chain import Chain
from polymnia.continual.pool import TaskKeys
from polymnia.continual.select import Selector
from polymnia.data.collection import Collection
from polymnia.runs.curriculum import Curriculum
from polymnia.types import Item, Split


def accuracy(
    method: Chain, collection: Collection, curriculum: Curriculum, split: Split
) -> dict[str, dict[str, float]]:
    """``routing/<modality>`` of each learned task, in percent: the share of its items of a split (captions for text)
    that the method sends to the prompts of their own task (by centres or by keys). Empty for methods that choose none.
    """
    prompter = method.prompter
    selectors = [s for s in prompter.modules() if isinstance(s, Selector | TaskKeys)] if prompter is not None else []
    found: dict[str, dict[str, float]] = {}
    for task, _ in curriculum.tasks:
        scores = {
            f"routing/{s.modality}": _share(s, task.index, getattr(task, split), collection)
            for s in selectors
            if bool(s.left[task.index - 1])
        }
        found[task.name] = {name: score for name, score in scores.items() if score is not None}
    return found


def _share(selector: Selector | TaskKeys, task: int, items: Sequence[Item], collection: Collection) -> float | None:
    asked = collection.queries.get(selector.modality)
    if asked is None:
        return None
    at = [r for item in items for r in asked.rows.get(item.id, ())]
    if not at:
        return None
    true = torch.full((len(at),), task, device=selector.left.device)
    chosen = selector.choose(torch.from_numpy(asked.values[at]).to(true.device), true)
    return 100 * float((chosen == task).float().mean())
