"""What it takes to embed items: by the towers that train in evaluation and validation, once by the frozen ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polymnia.config import Part
from polymnia.continual.chain import sequential
from polymnia.data.video import averaged
from polymnia.doctor import timing
from polymnia.doctor.data import Data
from polymnia.doctor.learning import Learner
from polymnia.doctor.looks import Looks
from polymnia.doctor.timing import Cost
from polymnia.recipe import Recipe
from polymnia.runs import assemble
from polymnia.runs.curriculum import splits_read
from polymnia.types import AudioFile, AudioSpec, Captions, Item, Known, Modality, Source, Spec, Split, Task

BATCH = 64  # of the embedder


@dataclass(frozen=True)
class Caching:
    """A frozen tower over all ``items``: ``rows`` are captions, frames or stretches of sound, ``disk`` is in bytes."""

    items: int
    rows: float
    cost: Cost
    disk: int

    @property
    def seconds(self) -> float:
        return self.rows * self.cost.each


def caching(recipe: Recipe, data: Data) -> dict[Modality, Caching]:
    """The frozen towers of a run, as if no feature were cached yet."""
    assert data.curriculum is not None
    found: dict[Modality, Caching] = {}
    for m, tower in data.towers.items():
        items = list({i.id: i for i in data.curriculum.items if m in i.sources}.values())
        if recipe.towers[m].config.frozen and items:
            tower.eval().to(assemble.find_device(recipe.device))
            rows = sum(_rows(i.sources[m], tower.spec, data.looks) for i in items)
            disk = sum(_kept(i.sources[m], tower.spec) for i in items) * tower.out_dim
            found[m] = Caching(len(items), rows, timing.forward(tower, tower, BATCH), disk)
    return found


def forwards(learner: Learner) -> dict[Modality, Cost]:
    """Features of a batch by each tower that learns."""
    model, method = learner.model, learner.method
    model.eval(), method.eval()

    def cost(m: Modality) -> Cost:
        return timing.forward(model.tower(m), lambda x: method.features(model, m, x, Known()), BATCH)

    return {m: cost(m) for m in model.modalities if m in model.learn}


def validation(learner: Learner, costs: dict[Modality, Cost], looks: Looks) -> float:
    """Seconds of all epoch ends of a run at which early stopping or the plateau rule looks at validation items."""
    seconds = 0.0
    for one in learner.learned:
        train = one.lesson.train
        if train.validates:
            items = [i for t in one.lesson.valid for i in t.valid]
            whole = _seconds(items, learner, costs, looks)
            crops = sum(costs[m].each * sum(m in i.sources for i in items) for m in costs)
            seconds += int(one.lesson.epochs) * (crops if train.watch == "loss" else whole)
    return seconds


def evaluation(recipe: Recipe, data: Data, learner: Learner, costs: dict[Modality, Cost]) -> float:
    """Seconds to embed what is scored, before the first task and after each; each item once a row."""
    assert data.curriculum is not None
    tasks = data.curriculum.tasks
    always = [_read(t, c.eval or recipe.eval, recipe.eval_split) for t, c in tasks]
    last: list[list[Item]] = []
    watched = {w.name: w for w in recipe.watch}
    for task in data.curriculum.watch:
        cfg = watched[task.name]
        (always if cfg.rows == "all" else last).append(_read(task, cfg.eval, recipe.eval_split))
    rows = len(tasks) + 1 if sequential(recipe.method) else min(2, len(tasks) + 1)
    each = _seconds((i for items in always for i in items), learner, costs, data.looks)
    at_last = _seconds((i for items in (*always, *last) for i in items), learner, costs, data.looks)
    return (rows - 1) * each + at_last


def _read(task: Task, parts: Sequence[Part], held_out: Split) -> list[Item]:
    """The items that evaluators embed."""
    return [i for s in splits_read(parts, held_out) for i in getattr(task, s)]


def _seconds(items: Iterable[Item], learner: Learner, costs: dict[Modality, Cost], looks: Looks) -> float:
    unique = {i.id: i for i in items}.values()
    specs = {m: learner.model.tower(m).spec for m in costs}
    found = (c.each * _rows(i.sources[m], specs[m], looks) for m, c in costs.items() for i in unique if m in i.sources)
    return sum(found, 0.0)


def _rows(source: Source, spec: Spec, looks: Looks) -> float:
    """How many training rows an item is worth: captions, frames, or training crops of sound."""
    if isinstance(source, Captions):
        return float(len(source.texts))
    if isinstance(source, AudioFile) and isinstance(spec, AudioSpec):
        least = spec.least / spec.sample_rate
        return max(least, min(looks.seconds(source), spec.max_seconds)) / spec.seconds
    return looks.pictures_of(source) if averaged(source, spec) else 1.0


def _kept(source: Source, spec: Spec) -> int:
    """Bytes of a feature of an item in the cache, times captions."""
    if isinstance(source, Captions):
        return 4 * len(source.texts)
    return 2 if averaged(source, spec) else 4
