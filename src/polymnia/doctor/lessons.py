"""What a run learns, one thing after another: its batches are counted by the real loader, but no medium is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polymnia.continual.chain import Chain, sequential
from polymnia.continual.objective import Objective
from polymnia.data.collection import Collection
from polymnia.data.loader import Interleaved, Loader, StepBatches
from polymnia.models.model import Model
from polymnia.recipe import Recipe, TaskConfig
from polymnia.runs import assemble
from polymnia.runs.curriculum import Curriculum
from polymnia.train.settings import TrainConfig
from polymnia.types import Modality, Task


@dataclass(frozen=True)
class Part:
    """Batches of one kind: those of a task."""

    task: Task
    size: int
    an_epoch: int
    modalities: tuple[Modality, ...]


@dataclass(frozen=True)
class Lesson:
    """A stage, a task, or all tasks at once. ``units``: rows that an epoch has. ``valid``: whose items are watched."""

    task: Task
    cfg: TaskConfig
    train: TrainConfig
    objective: Objective
    batches: StepBatches
    parts: tuple[Part, ...]
    units: int
    valid: tuple[Task, ...] = ()

    @property
    def steps(self) -> int:
        return self.train.total(len(self.batches))

    @property
    def epochs(self) -> float:
        return self.steps / len(self.batches)


def task_lessons(recipe: Recipe, curriculum: Curriculum, model: Model, objective: Objective) -> list[Lesson]:
    """The tasks in order, or all of them as one where the method takes all at once. Errors as of a run."""
    tasks = curriculum.tasks
    loaders = [_loader(recipe, t, c, model, recipe.seed) for t, c in tasks]
    if sequential(recipe.method):
        return [
            _lesson(t, c, objective if c.objective is None else Objective(c.objective, objective.pairs), loader)
            for (t, c), loader in zip(tasks, loaders, strict=True)
        ]
    if not tasks:
        return []
    steps = sum(c.train.total(len(b)) for (_, c), b in zip(tasks, loaders, strict=True))
    joint = Task("joint", 1, tuple(i for t, _ in tasks for i in t.train), (), (), objective.pairs)
    settings = tasks[0][1].train.model_copy(update={"steps": steps, "epochs": None})
    batches = Interleaved(loaders, recipe.seed)
    parts = tuple(_part(loader) for loader in loaders)
    units = sum(len(loader.units) for loader in loaders)
    return [Lesson(joint, tasks[0][1], settings, objective, batches, parts, units, tuple(t for t, _ in tasks))]


def stage_lesson(recipe: Recipe, task: Task, cfg: TaskConfig, model: Model, objective: Objective, seed: int) -> Lesson:
    return _lesson(task, cfg, objective, _loader(recipe, task, cfg, model, seed))


def _lesson(task: Task, cfg: TaskConfig, objective: Objective, loader: Loader) -> Lesson:
    return Lesson(task, cfg, cfg.train, objective, loader, (_part(loader),), len(loader.units), (task,))


def _loader(recipe: Recipe, task: Task, cfg: TaskConfig, model: Model, seed: int) -> Loader:
    return assemble.build_loader(recipe, task, cfg, Collection(model.specs), model, seed)


def _part(loader: Loader) -> Part:
    return Part(loader.task, loader.size, len(loader), loader.modalities)


def begin(method: Chain, model: Model, lesson: Lesson) -> tuple[int, Sequence[Modality]]:
    """Begin a lesson: parameters that it trains, the method's own included, and the towers that have some of them."""
    method.begin_task(model, lesson.task)
    count = sum(p.numel() for m in (model, method) for p in m.parameters() if p.requires_grad)
    return count, [m for m in model.modalities if any(p.requires_grad for p in model.tower(m).parameters())]
