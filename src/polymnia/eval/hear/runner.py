"""A HEAR task from recordings to scores, without HEAR's own kit.

The protocol of hear-eval-kit (Turian et al. 2022): embeddings as they are, the predictor of ``probes/trainer.py``, its
grid searched on the first rotation only and the winner reused on the others; weights by the primary metric on
validation, or by the loss where a task says so; events by threshold 0.5, median filter and least duration, these two
chosen on validation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polymnia.config import nearest
from polymnia.eval.hear import data, embeddings
from polymnia.eval.hear.data import Recording
from polymnia.eval.hear.embeddings import HearEncoder
from polymnia.eval.hear.events import Postprocessing
from polymnia.eval.hear.tasks import Task
from polymnia.eval.probes import trainer
from polymnia.types import UserError

Progress = Callable[[str, int, int], None]
KIT = {"dcase2016_task2": {"check_val_every_n_epoch": [10]}}  # what the kit sets by the name of a task
SETTING = {
    "max_epochs": "epochs",
    "check_val_every_n_epoch": "every",
    "patience": "patience",
    "batch_size": "batch",
    "hidden_dim": "hidden",
    "dropout": "dropout",
}
AXIS = ("hidden_layers", "lr")


@dataclass(frozen=True)
class Options:
    """``kind``: HEAR's predictor, or a linear one under the same trainer. ``points``: of the grid, drawn."""

    kind: Literal["hear", "linear"] = "hear"
    points: int = 8
    settings: trainer.Settings = trainer.Settings()


def score(
    task: Task,
    encoder: HearEncoder,
    cache: Path,
    options: Options,
    rate: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores of every rotation, their mean and deviation, as plain data for JSON: None stands for what has no value.

    Shares are in percent. Raises UserError for recordings that are missing or cannot be embedded.
    """
    points, settings = plan(task, options)
    recordings = data.load(task, encoder, cache, rate, progress)
    folds, winner = [], None
    for number, (train, valid, test) in enumerate(task.rotations):
        parts = [[r for split in names for r in recordings[split]] for names in (train, (valid,), (test,))]
        winner, found = _rotation(task, [winner] if winner else points, settings, parts)
        folds.append({"test": test, **found})
        if progress:
            progress(f"{task.name} probe", number + 1, len(task.rotations))
    means = {m: _mean([f["metrics"][m] for f in folds]) for m in task.metrics}
    deviations = {m: _deviation([f["metrics"][m] for f in folds]) for m in task.metrics}
    return {
        "task": task.name,
        "kind": task.kind,
        "primary": task.metrics[0],
        "score": means[task.metrics[0]],
        "std": deviations[task.metrics[0]],
        "N": sum(f["N"] for f in folds),
        "folds": folds,
        "mean": means,
        "deviation": deviations,
        "point": asdict(winner) if winner else None,
        "probe": options.kind,
        "settings": settings._asdict(),
        "searched": len(points),
        "encoder": encoder.signature,
        "sample_rate": encoder.sample_rate,
        "recordings_rate": rate or encoder.sample_rate,
    }


def plan(task: Task, options: Options) -> tuple[list[trainer.Point], trainer.Settings]:
    """The grid and the settings of a task, its own included. Raises UserError for a setting that is not known."""
    own = KIT.get(task.task, {}) | dict(task.params.get("task_specific_param_grid") or {})
    for key, values in own.items():
        if key not in (*SETTING, *AXIS):
            known = nearest(key, [*SETTING, *AXIS])
            raise UserError(f"{task.name}: task_specific_param_grid: unknown key '{key}'; {known}")
        if not isinstance(values, list) or not values or (key in SETTING and len(values) > 1):
            raise UserError(f"{task.name}: task_specific_param_grid: {key} must be a list of one, not {values!r}")
    changed = {SETTING[key]: values[0] for key, values in own.items() if key in SETTING}
    layers = (0,) if options.kind == "linear" else tuple(own.get("hidden_layers", (1, 2)))
    lrs = tuple(own.get("lr", (3.2e-3, 1e-3, 3.2e-4, 1e-4)))
    draw = options.points if options.kind == "hear" else 0
    seed = options.settings.seed
    points = trainer.grid(layers, ("xavier_uniform", "xavier_normal"), lrs, draw, seed)
    return points, options.settings._replace(**changed)


def _rotation(
    task: Task, points: Sequence[trainer.Point], settings: trainer.Settings, parts: Sequence[list[Recording]]
) -> tuple[trainer.Point, dict[str, Any]]:
    train, valid, test = parts
    x, xv, xt = (embeddings.rows([r.part for r in part]) for part in parts)

    first = replace(task, metrics=task.metrics[:1])

    def value(logits: np.ndarray) -> float:
        return data.gain(task, data.measure(first, valid, logits, data.best_postprocessing(first, valid, logits)))

    decide = value if task.early_stop_by_score else None
    truth = data.stack(train), data.stack(valid)
    fitted = trainer.train(points, settings, x, truth[0], xv, truth[1], decide, task.exclusive)
    point, best = trainer.best(points, fitted)
    how = data.best_postprocessing(first, valid, best.logits(xv))
    found = data.measure(task, test, best.logits(xt), how)
    return point, {
        "N": len(test),
        "metrics": {m: _plain(v) for m, v in found.items()},
        "valid": _plain(best.value),
        "epoch": best.epoch,
        "postprocessing": how._asdict() if isinstance(how, Postprocessing) else None,
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.std(known, ddof=1)) if len(known) == len(values) > 1 else None
