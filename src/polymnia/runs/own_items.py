"""The items that a run was scored on, or learned from, by the data that its recipe names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from polymnia.recipe import Recipe
from polymnia.runs import assemble
from polymnia.types import Item, Split, UserError


def own_items(
    run: Path, recipe: Recipe, purpose: str, splits: Sequence[Split] = ("test",)
) -> tuple[dict[str, str], list[Item]]:
    """The run's items of these splits that it could use, and the name of the task of each, by id.

    ``purpose``: what they are for, as the error says it. Raises UserError for data that are not where ``recipe.data``
    says.
    """
    advice = f"pass the folder of this run's data: --data FOLDER (data= in Python). The recipe says {recipe.data}"
    if not recipe.data.exists():
        raise UserError(f"the data of {run} are not here; {advice}")
    try:
        curriculum = assemble.read_tasks(recipe)
    except UserError as error:
        raise UserError(f"the data of {run} are not here: {error} To {purpose}, {advice}") from error
    meta = json.loads((run / "meta.json").read_text(encoding="utf-8"))
    broken = {f["id"] for t in meta["tasks"] for f in t["failed"]}
    names: dict[str, str] = {}
    items: dict[str, Item] = {}
    for task, _ in curriculum.tasks:
        for item in (i for split in splits for i in getattr(task, split)):
            if item.id not in broken:
                names.setdefault(item.id, task.name)
                items.setdefault(item.id, item)
    return names, list(items.values())
