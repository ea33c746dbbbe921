"""Whether a recipe's data and weights are there. Media are only looked at from outside: their headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polymnia.data import presence
from polymnia.data.presence import SetCount
from polymnia.data.tasks import Sets, TaskData, build_tasks
from polymnia.doctor.finding import Finding
from polymnia.doctor.looks import Looks
from polymnia.models.tower import AbstractTower
from polymnia.recipe import Recipe
from polymnia.runs import assemble
from polymnia.runs.curriculum import SPLITS, Curriculum, is_there
from polymnia.types import AbsentError, Item, Modality, Task, UserError

SHOWN = 5  # broken files named


@dataclass
class Data:
    """``curriculum`` is without the items that are known to be broken, and None where data are missing.

    ``fingerprint``: of the items before that, as a finished run keeps it. ``faults``: why items cannot be used.
    """

    findings: list[Finding] = field(default_factory=list)
    counts: list[dict[str, Any]] = field(default_factory=list)
    curriculum: Curriculum | None = None
    fingerprint: str = ""
    towers: dict[Modality, AbstractTower] = field(default_factory=dict)
    looks: Looks = field(default_factory=Looks)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return self.curriculum is not None and all(f.ok is not False for f in self.findings)


class Checker:
    """Checks recipes; what several of them share is loaded and looked at once."""

    def __init__(self) -> None:
        self._towers: dict[str, AbstractTower | UserError] = {}
        self._looks: dict[str, Looks] = {}
        self._checked: dict[str, Data] = {}

    def check(self, recipe: Recipe) -> Data:
        """Everything that a run of ``recipe`` reads; the seed does not matter."""
        parts = (recipe.towers, recipe.stages, recipe.tasks, recipe.watch, recipe.eval, recipe.eval_split)
        key = repr((recipe.data, parts, recipe.drop_leaks, recipe.allow_leaks))
        if key not in self._checked:
            self._checked[key] = self._check(recipe)
        return self._checked[key]

    def _check(self, recipe: Recipe) -> Data:
        data = Data()
        for modality in recipe.towers:
            self._build(recipe, modality, data)
        _lacking(recipe, data)
        specs = {m: t.spec for m, t in data.towers.items()}
        data.looks = self._looks.setdefault(repr(specs), Looks())
        tasks = _read(recipe, data)
        for task in tasks:
            for split in SPLITS:
                items: tuple[Item, ...] = getattr(task, split)
                looked, faults = data.looks.look(items, specs)
                _count(f"{task.name}, {split}", items, looked, faults, recipe.max_broken, data)
        if data.whole:
            assert data.curriculum is not None
            data.curriculum = _unbroken(recipe, data.curriculum, data)
        return data

    def _build(self, recipe: Recipe, modality: Modality, data: Data) -> None:
        """A tower with its weights, or a finding that says why there is none."""
        part = recipe.towers[modality]
        key = repr((modality, recipe.data, recipe.seed, part))
        if key not in self._towers:
            try:
                built = assemble.build_towers(recipe.model_copy(update={"towers": {modality: part}}))
                self._towers[key] = built[modality]
            except UserError as error:
                self._towers[key] = error
        found = self._towers[key]
        if isinstance(found, UserError):
            data.findings.append(Finding("towers", modality, str(found), False))
        else:
            data.towers[modality] = found
            data.findings.append(Finding("towers", modality, part.use))


def check(recipe: Recipe) -> Data:
    """One recipe, checked."""
    return Checker().check(recipe)


def _lacking(recipe: Recipe, data: Data) -> None:
    for cfg in (*recipe.stages, *recipe.tasks):
        wanted = dict.fromkeys((*(m for pair in cfg.pairs for m in pair), *getattr(cfg, "learn", ())))
        if lacking := [m for m in wanted if m not in recipe.towers]:
            said = f"'{cfg.name}' needs it: give towers.{lacking[0]}"
            data.findings.append(Finding("towers", lacking[0], said, False, wrong=True))


def _read(recipe: Recipe, data: Data) -> list[Task]:
    """The tasks as a run takes them; where it would refuse, those whose data are there, and all reasons at once."""
    try:
        data.curriculum = assemble.read_tasks(recipe)
    except UserError as error:
        tasks = _separately(recipe, data)
        if not any(f.area == "data" for f in data.findings):  # each is there; together they are refused
            data.findings.append(Finding("data", "tasks", str(error), False, wrong=True))
        return tasks
    data.fingerprint = assemble.fingerprint(data.curriculum)
    data.findings += [_online(c) for c in data.curriculum.counts if c.online and c.present < c.official]
    data.findings += [
        Finding("data", name, "not there: left out (optional)", None) for name in data.curriculum.without
    ]
    data.findings += [Finding("data", "leaks", str(leak), None) for leak in data.curriculum.leaks]
    return [*data.curriculum.stages, *data.curriculum.tests]


def _online(count: SetCount) -> Finding:
    said = f"{count.present:,} of {count.official:,} clips are there"
    return Finding("data", f"{count.name}, {count.split}", said)


def _separately(recipe: Recipe, data: Data) -> list[Task]:
    sets, found = Sets(recipe.data), []
    kinds: tuple[tuple[str, Sequence[TaskData], bool], ...] = (
        ("stage", recipe.stages, True),
        ("task", recipe.tasks, True),
        ("watched", [w for w in recipe.watch if not w.optional or is_there(w, recipe.data)], False),
    )
    for kind, configs, learned in kinds:
        for cfg in configs:
            try:
                found += [task for task, _ in build_tasks([cfg], sets, learned)]
            except UserError as error:
                if not (isinstance(error, AbsentError) and getattr(cfg, "optional", False)):
                    data.findings.append(Finding("data", f"{kind} {cfg.name}", str(error), False))
    try:
        gone = presence.count(sets.readings, recipe.towers)[1]
    except UserError as error:
        data.findings.append(Finding("data", "clips", str(error), False))
        return found
    return [t._replace(**{s: tuple(i for i in getattr(t, s) if i.id not in gone) for s in SPLITS}) for t in found]


def _count(place: str, items: Sequence[Item], looked: int, faults: Mapping[str, str], most: float, data: Data) -> None:
    """Count the items of a split, and those whose media cannot be used."""
    task, split = place.rsplit(", ", 1)
    data.faults |= faults
    data.counts.append({"task": task, "split": split, "items": len(items), "broken": len(faults)})
    if looked + len(faults) < len(items):
        data.findings.append(Finding("data", place, f"the headers of {looked:,} of {len(items):,} were read", None))
    if faults:
        shown = "; ".join(list(faults.values())[:SHOWN])
        value = f"{len(faults)} of {len(items)} items are missing or broken: {shown}"
        data.findings.append(Finding("data", place, value, len(faults) <= most * len(items)))


def _unbroken(recipe: Recipe, curriculum: Curriculum, data: Data) -> Curriculum | None:
    """The curriculum as a run would have it behind decoding."""
    try:
        return assemble.drop_broken(recipe, curriculum, data.faults)
    except UserError as error:
        data.findings.append(Finding("data", "media", str(error), False))
        return None
