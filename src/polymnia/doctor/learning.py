"""What the lessons of a run cost: each kind of step is measured once as a first and once as a later one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymnia.continual.chain import Chain
from polymnia.continual.select import SelectConfig
from polymnia.continual.snapshot import Snapshot
from polymnia.data.loader import Clean
from polymnia.data.tasks import needed
from polymnia.doctor import lessons, timing
from polymnia.doctor.data import Data
from polymnia.doctor.lessons import Lesson, Part
from polymnia.doctor.madeup import MadeUp
from polymnia.doctor.timing import Cost
from polymnia.models.model import Model
from polymnia.models.towers.cached import Config, Tower
from polymnia.recipe import Recipe
from polymnia.runs import assemble
from polymnia.runs.stages import stage_learner
from polymnia.train.trainer import Trainer
from polymnia.types import Modality


@dataclass
class Learned:
    """A stage or task: what trains in it, and what its steps cost. ``frozen``: of towers and heads; ``teacher``: of
    the copies that a method keeps."""

    lesson: Lesson
    towers: dict[Modality, str]
    trainable: int
    frozen: int
    teacher: int
    costs: list[Cost] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of all its steps, validation apart."""
        if not self.costs:
            return 0.0
        parts = self.lesson.parts
        epoch = sum(p.an_epoch * c.seconds for p, c in zip(parts, self.costs, strict=True))
        return self.lesson.epochs * epoch


@dataclass
class Learner:
    """A model with its method, as it is behind its lessons."""

    model: Model
    method: Chain
    learned: list[Learned]

    @property
    def heaviest(self) -> Cost:
        """The step that holds most."""
        costs = [c for one in self.learned for c in one.costs]
        return max(costs, key=lambda c: c.activations, default=Cost(1, 0.0))


def learn(recipe: Recipe, data: Data) -> Learner:
    """The tasks of a run. Raises what the run would: UserError for parts that do not fit together."""
    assert data.curriculum is not None
    tasks = data.curriculum.tasks
    pairs = tuple(dict.fromkeys(p for t, _ in tasks for p in t.pairs))
    cached = {m for m, part in recipe.towers.items() if part.config.frozen}
    names = tuple(t.name for t, _ in tasks)
    model, method, objective = assemble.build_learner(recipe, shown(data, cached), pairs, names)
    known: dict[Any, Cost] = {}
    found = [
        _learned(recipe, lesson, model, method, cached, data, known)
        for lesson in lessons.task_lessons(recipe, data.curriculum, model, objective)
    ]
    return Learner(model, method, found)


def learn_stages(recipe: Recipe, data: Data) -> list[Learned]:
    """The first stages of a seed, as if none of them were done yet."""
    assert data.curriculum is not None
    found = []
    for task, cfg in zip(data.curriculum.stages, recipe.stages, strict=True):
        involved = needed(task, cfg.learn)
        cached = {m for m in involved if m not in cfg.learn}
        towers = {m: t for m, t in shown(data, cached).items() if m in involved}
        model, method, objective = stage_learner(recipe, task, cfg, towers, recipe.seed)
        lesson = lessons.stage_lesson(recipe, task, cfg, model, objective, recipe.seed)
        found.append(_learned(recipe, lesson, model, method, cached, data, {}))
    return found


def shown(data: Data, cached: set[Modality]) -> dict[Modality, Any]:
    """The towers as the loop sees them: frozen ones are read from a cache."""
    halves = {m: t.split() for m, t in data.towers.items() if m not in cached}
    behind = {m: h[1] for m, h in halves.items() if h is not None}  # a frozen front is read from a cache, too
    return {
        m: Tower(Config(modality=m, dim=t.out_dim)) if m in cached else behind.get(m, t)
        for m, t in data.towers.items()
    }


def _learned(
    recipe: Recipe,
    lesson: Lesson,
    model: Model,
    method: Chain,
    cached: set[Modality],
    data: Data,
    known: dict[Any, Cost],
) -> Learned:
    trainable, training = lessons.begin(method, model, lesson)
    if lesson.steps:
        Trainer(model, method, lesson.objective, lesson.batches, lesson.train, (recipe.seed, 1))  # refuses as a run
    read = {m for part in lesson.parts for m in part.modalities}
    states = {m: "cached" if m in cached else "trains" if m in training else "frozen" for m in model.modalities}
    found = Learned(
        lesson,
        {m: state for m, state in states.items() if m in read},
        trainable,
        sum(p.numel() for p in _still(model, cached, data)),
        sum(p.numel() for s in _teachers(method) for p in s.parameters()),
    )
    for part in lesson.parts if lesson.steps else ():
        kind = repr((part.modalities, part.size, _kind(lesson), lesson.task.index > 1, method.share, trainable))
        if kind not in known:
            known[kind] = _measure(recipe, lesson, part, model, method)
        found.costs.append(known[kind])
    return found


def _kind(lesson: Lesson) -> object:
    length = {"steps", "epochs", "stop", "lr", "schedule", "measure"}
    return lesson.train.model_dump(exclude=length), lesson.objective.cfg, lesson.objective.pairs


def _measure(recipe: Recipe, lesson: Lesson, part: Part, model: Model, method: Chain) -> Cost:
    """A step of a batch of this kind; behind it the method has finished the task."""
    device = torch.device(recipe.device)
    made: list[MadeUp] = []

    def measure(rows: int) -> Cost:
        made[:] = [MadeUp(model, part.modalities, rows, lesson.task.index, _routed(recipe))]
        return timing.step(model, method, lesson.objective, made[0], lesson.train, recipe.seed)

    beside = _rehearsed(recipe) if lesson.task.index > 1 else 0
    cost = timing.scaled(measure, part.size, timing.LONGEST, timing.room_for(device), beside)
    method.end_task(model, lesson.task, Clean(made[0], device))
    return cost


def _rehearsed(recipe: Recipe) -> int:
    """Rows that methods with a memory add to a batch: their key ``rows``."""
    return sum(rows for part in recipe.method if isinstance(rows := getattr(part.config, "rows", 0), int))


def _routed(recipe: Recipe) -> int:
    """Rows that routers need when a task ends: one a centre."""
    chosen = (getattr(part.config, "select", None) for part in recipe.method)
    return max((s.centres for s in chosen if isinstance(s, SelectConfig)), default=0)


def _still(model: Model, cached: set[Modality], data: Data) -> Iterator[nn.Parameter]:
    """Parameters of towers and heads that do not train now; not those of the heads kept after each task."""
    for m in model.modalities:
        yield from (p for p in data.towers[m].parameters() if m in cached or not p.requires_grad)
    yield from (p for p in (*model.heads.parameters(), *model.log_scale.parameters()) if not p.requires_grad)


def _teachers(method: Chain) -> list[Snapshot]:
    return [m for m in method.modules() if isinstance(m, Snapshot)]


def memory(learner: Learner, frozen: Sequence[nn.Module]) -> dict[str, int]:
    """Bytes of one run, process apart. ``frozen``: towers that stay in memory beside the model."""
    heaviest, teacher = learner.heaviest, sum(map(size_of, _teachers(learner.method)))
    best = any(one.lesson.train.stop for one in learner.learned)
    return {
        "weights": sum(map(size_of, (learner.model, *frozen))),
        "teacher": teacher,
        "method": size_of(learner.method) - teacher,
        "gradients": heaviest.gradients,
        "optimizer": heaviest.optimizer,
        "activations": heaviest.activations,
        "best_state": size_of(learner.model) + size_of(learner.method) if best else 0,
    }


def parameters(learner: Learner, frozen: Sequence[nn.Module]) -> dict[str, int]:
    """Those that the first task trains, and all: with the heads kept after each task, without teachers."""
    every = {id(p): p.numel() for module in (learner.model, *frozen) for p in module.parameters()}
    return {"trainable": learner.learned[0].trainable if learner.learned else 0, "total": sum(every.values())}


def size_of(module: nn.Module) -> int:
    return sum(t.nbytes for t in _tensors(module))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
