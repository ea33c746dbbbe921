"""The encoder that is exported: on the CPU, with what is known of it beside its weights."""

from __future__ import annotations

from pathlib import Path

from polymnia.continual.prompts import SteerConfig
from polymnia.export import package
from polymnia.runs.encoder import Encoder, load
from polymnia.types import Modality


def open_run(run: Path, task: int | None = None, data: Path | None = None) -> Encoder:
    """As ``polymnia.load``, but always on the CPU: what is written is compared with it there."""
    encoder = load(run, task, data)
    encoder.model.cpu(), encoder.method.cpu()
    encoder.device = "cpu"
    return encoder


def steered(encoder: Encoder) -> frozenset[Modality]:
    """The modalities whose towers give the run's vectors only together with what the method brings."""
    if not encoder.method.prompting:
        return frozenset()
    (part,) = encoder.recipe.method
    chosen = part.config.modalities if isinstance(part.config, SteerConfig) else ()
    return frozenset(chosen or encoder.model.learn)


def stamp(encoder: Encoder, run: Path) -> dict[str, object]:
    """Who made the vectors: what every export bears."""
    recipe, task = encoder.recipe, encoder.task
    return {
        "run": package.plain(run.resolve().name),
        "task": task,
        "name": recipe.tasks[task - 1].name if 0 < task <= len(recipe.tasks) else "",
        "signature": encoder.signature,
        "dim": encoder.dim,
    }
