"""What a recipe will take, from a few real steps of its own model on made-up batches.

Memory of one run is the sum of

- ``weights``: every tower (frozen ones stay in memory too), the heads, and their copies of finished tasks
- ``method``: what the method holds, such as a teacher or a rehearsal memory (of full size from the start)
- ``gradients`` and ``optimizer``: of what trains, as they are after a step
- ``activations``: the distinct tensors that one forward pass keeps for the backward pass, and its batch
- ``process``: Python, torch and its libraries: what this process held at most, without the parts above

Decoded media are mapped from the cache's files: they fill memory that is free, and are given back when it gets short.

Time is the median step of each kind of task times its number of steps, plus the forward passes of the test items after
every task, as if nothing else ran on this machine. Left out: decoding (once for all runs), probes and clustering,
examples, the report.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymnia.data.loader import Clean
from polymnia.data.tasks import needed
from polymnia.doctor.data import Data
from polymnia.doctor.machine import cores
from polymnia.doctor.madeup import MadeUp
from polymnia.doctor.timing import evaluation, timed
from polymnia.models.towers.cached import Config, Tower
from polymnia.recipe import Recipe
from polymnia.runs import assemble
from polymnia.runs.stages import stage_learner
from polymnia.types import AudioSpec, ImageSpec, Modality


@dataclass
class Cost:
    """Seconds and bytes of one run."""

    seconds: float
    evaluation: float
    steps: int
    parameters: dict[str, int]
    memory: dict[str, int]


def estimate(planned: Sequence[Recipe], data: Data) -> dict[str, Any]:
    """The cost of all runs together. ``data`` must be whole, and that of every run of ``planned``."""
    first, before = planned[0], _peak()
    assert data.curriculum is not None
    stages = _stages(first, data)
    kinds: dict[str, Cost] = {}  # seeds of a variant cost the same
    for recipe in planned:
        if recipe.variant not in kinds:
            kinds[recipe.variant] = _run(recipe, data)
    costs = [kinds[r.variant] for r in planned]
    most = max(costs, key=lambda c: sum(c.memory.values()))
    jobs = min(first.jobs, len(planned))
    seconds = stages * len({r.seed for r in planned}) + sum(c.seconds + c.evaluation for c in costs)
    process = max(before, _peak() - sum(most.memory.values()))  # the first optimizer imports a good deal of torch
    one = sum(most.memory.values()) + process
    return {
        "runs": len(planned),
        "jobs": jobs,
        "steps": sum(c.steps for c in costs),
        "parameters": most.parameters,
        "memory": {**most.memory, "process": process},
        "memory_of_one_run": one,
        "memory_of_all_jobs": one * jobs,
        "disk_for_media": _media(data),
        "seconds": {
            "stages": stages,
            "variants": {v or first.name: c.seconds + c.evaluation for v, c in kinds.items()},
            "all": seconds,
            "all_on_this_many_jobs": seconds / min(jobs, max(1, cores() // first.threads)),
        },
    }


def _peak() -> int:
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _media(data: Data) -> int:
    """Bytes of the decoded media: int16 samples, uint8 pixels."""
    total = 0
    for spec in (t.spec for t in data.towers.values()):
        if isinstance(spec, AudioSpec):
            total += round(sum(data.length.values()) * spec.sample_rate * 2)
        elif isinstance(spec, ImageSpec):
            total += len(data.pictures) * spec.channels * spec.size**2
    return total


def _run(recipe: Recipe, data: Data) -> Cost:
    """One run: every kind of task once as a first and once as a later task, which has a teacher and memories."""
    assert data.curriculum is not None
    tasks = data.curriculum.tasks
    pairs = tuple(dict.fromkeys(p for t, _ in tasks for p in t.pairs))
    model, method, objective = assemble.build_learner(recipe, _shown(recipe, data), pairs, len(tasks))
    seconds, steps, per_step, kept = 0.0, 0, {}, {"activations": 0}
    for task, cfg in tasks:
        kind = (task.pairs, cfg.train.batch, cfg.train.bf16, task.index > 1)
        total = cfg.train.total(max(1, len(task.train) // min(cfg.train.batch, len(task.train))))
        steps += total
        if kind not in per_step:
            batches = MadeUp(model, task, cfg)
            method.begin_task(model, task)
            per_step[kind], kept_here = timed(model, method, objective, batches, cfg, recipe.seed)
            kept = max(kept, kept_here, key=lambda k: k["activations"])
            method.end_task(model, task, Clean(batches, torch.device(recipe.device)))
        seconds += per_step[kind] * total
    towers = [t for m, t in data.towers.items() if m not in model.learn]
    parameters = {id(p): p for module in (model, *towers) for p in module.parameters()}
    trainable = {id(p): p.numel() for module in (model, method) for p in module.parameters() if p.requires_grad}
    return Cost(
        seconds,
        (len(tasks) + 1) * evaluation(model, method, data),
        steps,
        {"trainable": sum(trainable.values()), "total": sum(p.numel() for p in parameters.values())},
        {"weights": sum(map(_bytes, (model, *towers))), "method": _bytes(method), **kept},
    )


def _stages(recipe: Recipe, data: Data) -> float:
    """Seconds of the first stages of one seed, as if none of them were done yet."""
    assert data.curriculum is not None
    seconds = 0.0
    for task, cfg in zip(data.curriculum.stages, recipe.stages, strict=True):
        shown = {
            m: data.towers[m] if m in cfg.learn else _cached(m, data.towers[m].out_dim)
            for m in needed(task, cfg.learn)
        }
        model, method, objective = stage_learner(recipe, task, cfg, shown, recipe.seed)
        method.begin_task(model, task)
        batches = MadeUp(model, task, cfg)
        step, _ = timed(model, method, objective, batches, cfg, recipe.seed)
        seconds += step * cfg.train.total(len(batches))
    return seconds


def _shown(recipe: Recipe, data: Data) -> Mapping[Modality, Any]:
    """The towers as the loop sees them: frozen ones are read from a cache."""
    frozen = {m for m, part in recipe.towers.items() if part.config.frozen}
    return {m: _cached(m, t.out_dim) if m in frozen else t for m, t in data.towers.items()}


def _cached(modality: Modality, dim: int) -> Tower:
    return Tower(Config(modality=modality, dim=dim))


def _bytes(module: nn.Module) -> int:
    return sum(t.nbytes for t in _tensors(module))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
