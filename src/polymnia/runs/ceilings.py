"""How far a task's score could go on its items: ambiguous captions keep it under 100."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from polymnia.eval import matrix
from polymnia.recipe import TaskConfig
from polymnia.types import Item

Ceiling = Callable[[Sequence[Item]], dict[str, float]]  # what a data set may offer, under evaluators' keys


def of_task(cfg: TaskConfig, test: Sequence[Item], measured: Iterable[str]) -> float | None:
    """The ceiling of r[i][j], or None where the task's data set has no ``ceiling(items)`` or scores by other keys.

    ``measured`` are the task's metrics. What a data set leaves out has no ambiguity: its ceiling is 100.
    """
    functions = {vars(part.module).get("ceiling") for part in cfg.data}
    known: Ceiling | None = functions.pop() if len(functions) == 1 else None
    used = list(cfg.score) or [key for key in measured if matrix.PRIMARY.fullmatch(key)]
    if known is None or not used:
        return None
    found = known(test)
    if not all(key in found or matrix.PRIMARY.fullmatch(key) for key in used):
        return None
    return matrix.scalar({key: found.get(key, 100.0) for key in used}, used)
