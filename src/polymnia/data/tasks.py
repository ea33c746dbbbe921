"""From data sets to a sequence of tasks: by domain, class, modality or the user's own list."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import PositiveInt, field_validator

from polymnia.config import DatasetPart, Frozen, Part, nearest
from polymnia.data.layout import refuse_neighbour
from polymnia.types import Item, Modality, Pair, Source, Task, UserError


class SplitConfig(Frozen):
    """Cuts one task into several: ``by`` topic, label or group, ``per_task`` values each, in ``order`` (as found)."""

    by: Literal["topic", "label", "group"] = "topic"
    per_task: PositiveInt = 1
    order: tuple[str, ...] = ()


class TaskData(Frozen):
    """Where a task's items come from and which of them it takes.

    ``test_on``: only the test items of these data sets (default: of all)."""

    name: str
    data: tuple[DatasetPart, ...]
    pairs: tuple[Pair, ...] = ()
    topics: tuple[str, ...] = ()
    split: SplitConfig | None = None
    test_on: tuple[str, ...] = ()

    @field_validator("pairs")
    @classmethod
    def _two_modalities_each(cls, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        if any(a == b for a, b in pairs):
            raise ValueError("a pair is of two different modalities")
        return pairs

    @field_validator("data", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, (dict, str)) else value


class Reading(NamedTuple):
    """A data set as it was read: ``name`` is what the ids of its items begin with, ``root`` where it lies."""

    name: str
    part: Part
    root: Path
    items: list[Item]


class Sets:
    """Data sets, read once each, with ids made unique by the name of the set.

    The same thing in two sets (two choices of one folder) has one id; where one id would mean two things (two
    manifests that both number from 1), the later set gets a number: ``manifest.2/1``.
    """

    def __init__(self, root: Path):
        self.root = root
        self._read: dict[str, Reading] = {}
        self._known: dict[str, Mapping[Modality, Source]] = {}

    @property
    def readings(self) -> list[Reading]:
        """Every data set that was read, in that order. A set that was read with two settings is there twice."""
        return list(self._read.values())

    def items(self, part: Part) -> list[Item]:
        """The items of a data set, ids prefixed with its name. Raises UserError with what to point ``data=`` at."""
        key = repr(part.dump())
        if key not in self._read:
            root = self.root / part.config.root
            refuse_neighbour(self.root, part.config.root)
            found = part.module.items(part.config.model_copy(update={"root": root}))
            self._read[key] = self._named(part, root, found)
        return self._read[key].items

    def _named(self, part: Part, root: Path, found: Sequence[Item]) -> Reading:
        use = part.use.rpartition(".")[2]
        for number in itertools.count(1):
            name = use if number == 1 else f"{use}.{number}"
            named = [_renamed(item, name) for item in found]
            if all(self._known.get(i.id, i.sources) == i.sources for i in named):
                break
        self._known |= {i.id: i.sources for i in named}
        return Reading(name, part, root, named)


def _renamed(item: Item, name: str) -> Item:
    new = f"{name}/{item.id}"
    group = new if item.group == item.id else item.group  # a group of its own must stay one among several sets
    return replace(item, id=new, group=group)


def build_tasks(configs: Sequence[TaskData], sets: Sets, learned: bool = True) -> list[tuple[Task, int]]:
    """Tasks in order, each with the position of the config it came from (a split gives several).

    Raises UserError for a task without items, two tasks of one name, a name in ``topics`` or ``split.order`` that no
    item has, and, unless they are only watched and not ``learned``, a pair of modalities that fewer than two groups
    of training items have.
    """
    built: list[tuple[Task, int]] = []
    for position, cfg in enumerate(configs):
        items = [item for part in cfg.data for item in _wanted(cfg, part, sets.items(part))]
        if cfg.topics:
            items = [i for i in items if i.topic in cfg.topics]
            missing = set(cfg.topics) - {i.topic for i in items}
            if missing:
                raise UserError(f"task '{cfg.name}': no items of topic {', '.join(sorted(missing))}")
        for name, part_items in _split(cfg, items):
            task = _task(name, len(built) + 1, cfg.pairs, part_items)
            if learned:
                refuse_too_little(task)
            built.append((task, position))
    names = [t.name for t, _ in built]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two tasks are called '{name}'; names must differ")
    return built


def _wanted(cfg: TaskData, part: Part, items: list[Item]) -> list[Item]:
    """The items of one data set that the task takes."""
    uses = [p.use for p in cfg.data]
    if unknown := [name for name in cfg.test_on if name not in uses]:
        raise UserError(f"task '{cfg.name}': test_on names '{unknown[0]}'; {nearest(unknown[0], uses)}")
    return items if not cfg.test_on or part.use in cfg.test_on else [i for i in items if i.split != "test"]


def _split(cfg: TaskData, items: list[Item]) -> Iterable[tuple[str, list[Item]]]:
    if cfg.split is None:
        return [(cfg.name, items)]
    keys = {id(i): {"topic": i.topic, "group": i.group, "label": (i.labels or ("",))[0]}[cfg.split.by] for i in items}
    order = list(cfg.split.order) or list(dict.fromkeys(keys.values()))
    unknown = set(order) - set(keys.values())
    if unknown:
        raise UserError(f"task '{cfg.name}': split.order names {', '.join(sorted(unknown))}, which no item has")
    left_out = set(keys.values()) - set(order)
    if left_out:
        raise UserError(
            f"task '{cfg.name}': split.order leaves out {', '.join(sorted(left_out))}; name every value, or choose "
            "with topics"
        )
    size = cfg.split.per_task
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    return [(f"{cfg.name}-{'+'.join(p)}", [i for i in items if keys[id(i)] in p]) for p in parts]


def _task(name: str, index: int, pairs: tuple[Pair, ...], items: Sequence[Item]) -> Task:
    if not items:
        raise UserError(f"task '{name}' has no items")
    unique: dict[str, Item] = {}
    for item in items:
        if unique.setdefault(item.id, item).sources != item.sources:
            raise UserError(f"task '{name}': two different items are called '{item.id}'")
    of = {s: tuple(i for i in unique.values() if i.split == s) for s in ("train", "valid", "test")}
    return Task(name, index, of["train"], of["valid"], of["test"], pairs)


def refuse_too_little(task: Task) -> None:
    """Raises UserError for a pair of modalities that fewer than two groups of training items have."""
    for a, b in task.pairs:
        groups = {i.group for i in task.train if a in i.sources and b in i.sources}
        if len(groups) < 2:
            have = f"{len(groups)} group(s) with {a} and {b} in training"
            raise UserError(f"task '{task.name}' has {have}; contrast needs at least two")


def needed(task: Task, learn: Iterable[Modality]) -> tuple[Modality, ...]:
    """The modalities that training on a task reads: those of its pairs, or what learns where it has none."""
    return tuple(dict.fromkeys(m for pair in task.pairs for m in pair)) or tuple(learn)
