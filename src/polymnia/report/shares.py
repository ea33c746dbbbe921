"""What a method costs in parameters: trained in one step, stored after all tasks, each as a share of something."""

from __future__ import annotations

from collections.abc import Sequence

from polymnia.report import versus, words
from polymnia.report.collect import Method, Run


def yardsticks(methods: Sequence[Method]) -> dict[str, float]:
    """Recipe -> parameters that its fine-tuning trains; {} unless every recipe has one to compare with."""
    found = {m.recipe: b.counted[0].trainable for m in methods if (b := versus.baseline(methods, m))}
    return {k: v for k, v in found.items() if v} if all(found.get(m.recipe) for m in methods) else {}


def shared(methods: Sequence[Method]) -> str:
    """What the trained parameters are a share of."""
    return "the parameters that fine-tuning trains" if yardsticks(methods) else "all parameters of the model"


def trained(methods: Sequence[Method], method: Method, run: Run) -> float | None:
    """Trained parameters in percent of what fine-tuning trains, or of the whole model where none was run."""
    return _percent(run.trainable, yardsticks(methods).get(method.recipe) or run.size("total"))


def stored(run: Run) -> float | None:
    """What a method that prompts adds for all tasks, in percent of all parameters; None for other methods."""
    return _percent(run.size("stored"), run.size("total"))


def _percent(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else 100 * part / whole


def tips(methods: Sequence[Method], method: Method) -> dict[str, str]:
    """Both shares in whole numbers, of the first seed."""
    run, whole = method.counted[0], yardsticks(methods).get(method.recipe)
    out = {}
    if run.trainable is not None:
        of = f" of the {whole:,.0f} that fine-tuning trains" if whole else _of_all(run)
        out["trainable"] = f"{words.count(int(run.trainable), 'parameter')} train in one step{of}"
    if (kept := run.size("stored")) is not None:
        out["stored"] = f"{kept:,.0f} numbers are added for all tasks (prompts, centres of routers){_of_all(run)}"
    return out


def _of_all(run: Run) -> str:
    total = run.size("total")
    return "" if total is None else f", of {total:,.0f} in all"
