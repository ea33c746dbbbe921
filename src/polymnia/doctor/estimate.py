"""What a recipe will take, from a few real steps of its own model on made-up batches.

Memory of one run is the sum of

- ``weights``: every tower (frozen ones stay in memory too), the heads, and their copies of finished tasks
- ``method``: what the method holds, such as a teacher or a rehearsal memory (of full size from the start)
- ``gradients`` and ``optimizer``: of what trains, as they are after a step
- ``activations``: the distinct tensors that one forward pass keeps for the backward pass, and its batch
- ``process``: Python, torch and its libraries: what this process held at most, without the parts above

Decoded media are mapped from the cache's files: they fill memory that is free, and are given back when it gets short.

Time is the median step of each kind of task times its number of steps, plus the forward passes of the test items after
every task. Left out: decoding (once for all runs), probes and clustering, examples, the report.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymnia.continual.chain import Chain
from polymnia.continual.method import embed_batch
from polymnia.data.loader import Clean
from polymnia.data.tasks import needed
from polymnia.doctor.data import Data
from polymnia.doctor.madeup import MadeUp
from polymnia.models.model import Model
from polymnia.models.towers.cached import Config, Tower
from polymnia.recipe import Recipe, TaskConfig
from polymnia.runs import assemble
from polymnia.runs.stages import stage_learner
from polymnia.train.trainer import Objective, Trainer
from polymnia.types import AudioFile, AudioSpec, ImageSpec, Modality, Source, Spec

TIMED = 3  # steps after one that warms up


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
            "all_on_this_many_jobs": seconds / jobs,
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
            per_step[kind], kept_here = _timed(model, method, objective, batches, cfg, recipe.seed)
            kept = max(kept, kept_here, key=lambda k: k["activations"])
            method.end_task(model, task, Clean(batches, torch.device(recipe.device)))
        seconds += per_step[kind] * total
    towers = [t for m, t in data.towers.items() if m not in model.learn]
    parameters = {id(p): p for module in (model, *towers) for p in module.parameters()}
    trainable = {id(p): p.numel() for module in (model, method) for p in module.parameters() if p.requires_grad}
    return Cost(
        seconds,
        (len(tasks) + 1) * _evaluation(model, method, data),
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
        step, _ = _timed(model, method, objective, batches, cfg, recipe.seed)
        seconds += step * cfg.train.total(len(batches))
    return seconds


def _timed(
    model: Model, method: Chain, objective: Objective, batches: MadeUp, cfg: TaskConfig, seed: int
) -> tuple[float, dict[str, int]]:
    """Seconds of a training step, and the bytes that are held during one."""
    settings = cfg.train.model_copy(update={"steps": TIMED + 1, "epochs": None, "stop": None, "measure": 0})
    trainer = Trainer(model, method, objective, batches, settings, (seed, 1))
    steps = trainer.steps()
    kept: dict[int, int] = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        next(steps)
    times = []
    for _ in range(TIMED):
        begun = time.perf_counter()
        next(steps)
        times.append(time.perf_counter() - begun)
    state = trainer.optimizer.state.values() if trainer.optimizer else ()
    return statistics.median(times), {
        "gradients": sum(p.grad.nbytes for p in trainer.parameters if p.grad is not None),
        "optimizer": sum(v.nbytes for s in state for v in s.values() if isinstance(v, Tensor)),
        "activations": sum(kept.values()) + sum(x.nbytes for x in batches.made[0].inputs.values()),
    }


@torch.no_grad()
def _evaluation(model: Model, method: Chain, data: Data) -> float:
    """Seconds to embed the test items of every task with the towers that train, whole recordings included."""
    assert data.curriculum is not None
    seconds = 0.0
    model.eval(), method.eval()
    for task, cfg in data.curriculum.tasks:
        for m in model.learn.intersection(task.modalities):
            one = MadeUp(model, task, cfg, [m]).batch(0)
            begun = time.perf_counter()
            embed_batch(method, model, one)
            each = (time.perf_counter() - begun) / len(one)
            seconds += each * sum(_crops(i.sources[m], model.tower(m).spec, data) for i in task.test if m in i.sources)
    return seconds


def _crops(source: Source, spec: Spec, data: Data) -> float:
    """How many training crops a test item is as long as."""
    if not isinstance(spec, AudioSpec) or not isinstance(source, AudioFile):
        return 1.0
    return max(1.0, min(data.length.get(source, spec.seconds), spec.max_seconds) / spec.seconds)


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
