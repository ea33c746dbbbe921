"""The tasks of a recipe: their items, without what is missing, broken, or both learned and tested."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from polymnia.config import Part
from polymnia.data import leaks, presence
from polymnia.data.collection import usable
from polymnia.data.layout import refuse_neighbour
from polymnia.data.leaks import Leak
from polymnia.data.presence import SetCount
from polymnia.data.tasks import Reading, Sets, TaskData, build_tasks, refuse_too_little
from polymnia.recipe import Recipe, TaskConfig
from polymnia.types import AbsentError, Captions, Item, Split, Task, UserError

SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass
class Curriculum:
    """The tasks of a recipe with their configs, and what is only watched.

    ``scored``: the splits that each task and watched set is scored on. ``official``: how many items the data sets have
    for it, in each split, those included that were left out. ``counts``: the same for the data sets. ``leaks``: what
    was found to be both learned and scored, and what became of it. ``looked_at``: the splits of each watched set whose
    media its evaluators read. ``optional``: watched sets that may lack; ``without``: those that do.
    """

    tasks: list[tuple[Task, TaskConfig]]
    stages: list[Task]
    watch: list[Task]
    scored: Mapping[str, tuple[Split, ...]] = field(default_factory=dict)
    official: Mapping[str, Mapping[Split, int]] = field(default_factory=dict)
    counts: tuple[SetCount, ...] = ()
    leaks: tuple[Leak, ...] = ()
    looked_at: Mapping[str, tuple[Split, ...]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    without: tuple[str, ...] = ()

    @property
    def tests(self) -> list[Task]:
        """What is scored: tasks, then watched sets; their names differ."""
        return [t for t, _ in self.tasks] + self.watch

    @property
    def items(self) -> list[Item]:
        """Every item whose media are read."""
        return [i for t in (*(t for t, _ in self.tasks), *self.stages) for i in (*t.train, *t.valid, *t.test)] + [
            i for t in self.watch for split in self.looked_at.get(t.name, SPLITS) for i in getattr(t, split)
        ]

    @property
    def absent(self) -> int:
        """How many items of online sets are left out because their files are not there."""
        return sum(c.official - c.present for c in self.counts if c.online)

    def changed(self, learned: Callable[[Task], Task], watched: Callable[[Task], Task]) -> Curriculum:
        """With other items."""
        tasks = [(learned(t), c) for t, c in self.tasks]
        return replace(self, tasks=tasks, stages=list(map(learned, self.stages)), watch=list(map(watched, self.watch)))

    def used(self, name: str) -> tuple[int, int]:
        """How many items a task or watched set is scored on, and how many its data sets have for that."""
        task = next(t for t in self.tests if t.name == name)
        return (
            sum(len(getattr(task, s)) for s in self.scored[name]),
            sum(self.official[name][s] for s in self.scored[name]),
        )


def read_tasks(recipe: Recipe) -> Curriculum:
    """Items and tasks, before any medium is opened: without online clips that are absent, and without leaks.

    Raises UserError for data that are not there, too many absent clips (``OnlineConfig``), leaks that the recipe
    neither allows nor drops (``polymnia.data.leaks``), and tasks that nothing is left to learn or to score in.
    """
    sets = Sets(recipe.data)
    built = build_tasks(recipe.tasks, sets)
    stages = [_single(s, sets, True) for s in recipe.stages]
    watch, without = _watched(recipe, sets)
    if not built and not watch:
        _refuse_nothing(recipe)
    names = [t.name for t, _ in built] + [t.name for t in watch]
    if len(set(names)) < len(names):
        raise UserError(f"names of tasks and watched sets must differ: {', '.join(names)}")
    whole = Curriculum([(t, recipe.tasks[n]) for t, n in built], stages, watch, _scored(recipe, built))
    whole.looked_at = {w.name: splits_read(w.eval, recipe.eval_split) for w in recipe.watch}
    whole.optional, whole.without = frozenset(w.name for w in recipe.watch if w.optional), without
    whole.official = {t.name: {s: len(getattr(t, s)) for s in SPLITS} for t in whole.stages + whole.tests}
    whole.counts, gone = presence.count(sets.readings, recipe.towers, {i.id for i in whole.items})
    present = whole.changed(lambda t: _less(t, gone), lambda t: _less(t, gone))
    found = _find_leaks(recipe, present, sets.readings)
    present.leaks = tuple(leaks.settle(found, recipe.allow_leaks, recipe.drop_leaks))
    dropped = frozenset().union(*(leak.learned_ids for leak in present.leaks if leak.outcome == "dropped"))
    curriculum = present.changed(lambda t: _less(t, dropped, ("train", "valid")), lambda t: t)
    if gone or dropped:
        for task in [t for t, _ in curriculum.tasks] + curriculum.stages:
            refuse_too_little(task)
    _refuse_unscored(recipe, curriculum)
    return curriculum


def _refuse_nothing(recipe: Recipe) -> None:
    """Raises UserError: nothing is learned, and of what is watched nothing is there."""
    roots = list(dict.fromkeys(part.config.root for w in recipe.watch for part in w.data))
    for root in roots:
        refuse_neighbour(recipe.data, root)
    raise UserError(f"there is nothing to score: data={recipe.data} holds none of {', '.join(map(str, roots))}")


def _watched(recipe: Recipe, sets: Sets) -> tuple[list[Task], tuple[str, ...]]:
    """What is watched, and the names of the optional sets that are not there."""
    found, without = [], []
    for cfg in recipe.watch:
        try:
            if cfg.optional and not is_there(cfg, recipe.data):
                raise AbsentError(cfg.name)
            found.append(_single(cfg, sets, False))
        except AbsentError:
            if not cfg.optional:
                raise
            without.append(cfg.name)
    return found, tuple(without)


def is_there(cfg: TaskData, root: Path) -> bool:
    """Whether the folders of all its data sets exist under ``root``, the recipe's data folder."""
    return all((root / part.config.root).exists() for part in cfg.data)


def _scored(recipe: Recipe, built: Sequence[tuple[Task, int]]) -> dict[str, tuple[Split, ...]]:
    """The splits that each task and watched set is scored on: the held-out one; all if every evaluator wants all."""
    parts = {t.name: recipe.tasks[n].eval or recipe.eval for t, n in built} | {w.name: w.eval for w in recipe.watch}
    held_out: tuple[Split, ...] = (recipe.eval_split,)
    return {name: SPLITS if own and all(map(_takes_all, own)) else held_out for name, own in parts.items()}


def splits_read(parts: Sequence[Part], held_out: Split) -> tuple[Split, ...]:
    """The splits whose media evaluators read: all, if one learns from the training items or scores them."""
    return SPLITS if any(_fits(part) or _takes_all(part) for part in parts) else (held_out,)


def _takes_all(part: Part) -> bool:
    """Whether an evaluator scores training items, too: ``split: all``, or a rotation through official folds."""
    return getattr(part.config, "split", None) == "all" or getattr(part.config, "folds", False) is True


def _fits(part: Part) -> bool:
    """Whether an evaluator learns from the training items first."""
    return getattr(part.module, "FITS", False)


def _less(task: Task, gone: Collection[str], splits: Sequence[Split] = SPLITS) -> Task:
    """A task without these items in these splits."""
    if not gone:
        return task
    return task._replace(**{s: tuple(i for i in getattr(task, s) if i.id not in gone) for s in splits})


def _find_leaks(recipe: Recipe, curriculum: Curriculum, readings: Sequence[Reading]) -> list[Leak]:
    training = [t for t, c in curriculum.tasks if c.train.steps != 0]
    training += [t for t, c in zip(curriculum.stages, recipe.stages, strict=True) if c.train.steps != 0]
    learned = [i for t in training for i in (t.train if recipe.eval_split == "valid" else t.train + t.valid)]
    tests = curriculum.tests
    scored = [i for t in tests for s in {*curriculum.scored[t.name], recipe.eval_split} for i in getattr(t, s)]
    held_out = [i for t in tests for i in getattr(t, recipe.eval_split)]
    return leaks.find(learned, scored, held_out, readings)


def _refuse_unscored(recipe: Recipe, curriculum: Curriculum) -> None:
    """Every task has items to be scored on, and to be validated on where early stopping or the plateau rule asks."""
    way = "mark rows in the split column, or use the data set's keys for it (a manifest's test_share, valid_share)"
    for task in curriculum.tests:
        if not getattr(task, recipe.eval_split):
            if lost := curriculum.official[task.name][recipe.eval_split]:
                raise UserError(f"task '{task.name}': not one of its {lost:,} {recipe.eval_split} items is there")
            raise UserError(f"task '{task.name}' has no {recipe.eval_split} items to be scored on; {way}")
    for task, cfg in curriculum.tasks:
        if cfg.train.validates and not task.valid:
            raise UserError(
                f"task '{task.name}' has no valid items, which train.stop and schedule plateau watch; {way}, "
                "or drop them"
            )
    for task, stage in zip(curriculum.stages, recipe.stages, strict=True):
        if stage.train.validates:
            raise UserError(f"stage '{task.name}': a stage trains all its steps; drop train.stop and schedule plateau")


def _single(cfg: TaskData, sets: Sets, learned: bool) -> Task:
    if cfg.split is not None:
        raise UserError(f"'{cfg.name}': split makes several tasks, which only tasks: may be")
    return build_tasks([cfg], sets, learned)[0][0]


def drop_broken(recipe: Recipe, sequence: Curriculum, failed: Mapping[str, str]) -> Curriculum:
    """The sequence without the items whose media cannot be used. Raises UserError over the threshold."""

    def clean(task: Task) -> Task:
        kept = {s: usable(getattr(task, s), failed, recipe.max_broken, f"task '{task.name}', {s}") for s in SPLITS}
        return task._replace(**kept)

    return sequence.changed(clean, clean)


def dropped(curriculum: Curriculum, failed: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Why items were left out, by task."""
    every = [t for t, _ in curriculum.tasks] + curriculum.stages + curriculum.watch
    return {t.name: {i.id: failed[i.id] for i in (*t.train, *t.valid, *t.test) if i.id in failed} for t in every}


def fingerprint(sequence: Curriculum) -> str:
    """Which items a sequence has and what they say, wherever they lie; a run refuses other data than its own.

    Optional sets do not count: they may come and go.
    """
    every = [t for t, _ in sequence.tasks] + sequence.stages
    every += [t for t in sequence.watch if t.name not in sequence.optional]
    return item_digest([i for t in every for i in (*t.train, *t.valid, *t.test)])


def item_digest(items: Sequence[Item]) -> str:
    """A hash of everything about items but the content of their media."""
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        text = item.sources.get("text")
        captions = text.texts if isinstance(text, Captions) else ()
        said = [item.id, item.group, item.topic, item.split, item.labels, item.fold, sorted(item.sources), captions]
        digest.update(json.dumps(said).encode())
    return digest.hexdigest()


def other_data(folder: Path) -> str:
    """What to say when a run folder and the data at hand do not belong together."""
    return (
        f"{folder} was begun on other data (the items differ). Give data= the folder that it was begun with, "
        "or out= another place for a new run."
    )
