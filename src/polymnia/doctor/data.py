"""Whether a recipe's data and weights are there. Media are only looked at from outside: their headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from polymnia.data.media import FORMATS, MAX_PIXELS, MediaError, audio_length, decode_image
from polymnia.data.tasks import Sets, TaskData, build_tasks
from polymnia.doctor.finding import Finding
from polymnia.models.tower import AbstractTower
from polymnia.recipe import Recipe
from polymnia.runs import assemble
from polymnia.types import AudioFile, AudioSpec, ImageFile, ImageSpec, Item, Modality, Spec, Task, UserError

SHOWN = 5  # broken files named
SPLITS = ("train", "valid", "test")


@dataclass
class Data:
    """``curriculum`` is None where data are missing. ``length``: of each distinct recording, in seconds."""

    findings: list[Finding] = field(default_factory=list)
    counts: list[dict[str, Any]] = field(default_factory=list)
    curriculum: assemble.Curriculum | None = None
    towers: dict[Modality, AbstractTower] = field(default_factory=dict)
    length: dict[AudioFile, float] = field(default_factory=dict)
    pictures: set[ImageFile] = field(default_factory=set)


def check(recipe: Recipe) -> Data:
    """Everything that a run of ``recipe`` reads. A data set that makes its own files writes them now."""
    data = Data()
    for modality, part in recipe.towers.items():
        try:
            data.towers |= assemble.build_towers(recipe.model_copy(update={"towers": {modality: part}}))
            data.findings.append(Finding("towers", modality, part.use))
        except UserError as error:
            data.findings.append(Finding("towers", modality, str(error), False))
    for cfg in (*recipe.stages, *recipe.tasks):
        wanted = dict.fromkeys((*(m for pair in cfg.pairs for m in pair), *getattr(cfg, "learn", ())))
        if lacking := [m for m in wanted if m not in recipe.towers]:
            data.findings.append(
                Finding("towers", lacking[0], f"'{cfg.name}' needs it: give towers.{lacking[0]}", False)
            )
    tasks = _tasks(recipe, data)
    if all(f.ok for f in data.findings):
        try:
            data.curriculum = assemble.read_tasks(recipe)
        except UserError as error:
            data.findings.append(Finding("data", "tasks", str(error), False))
    specs = {m: t.spec for m, t in data.towers.items()}
    for task in tasks:
        _media(task, specs, recipe.max_broken, data)
    return data


def _tasks(recipe: Recipe, data: Data) -> list[Task]:
    """The tasks whose data are there; what is missing is found for all of them, not for the first alone."""
    sets, found = Sets(recipe.data), []
    kinds: tuple[tuple[str, Sequence[TaskData], bool], ...] = (
        ("stage", recipe.stages, True),
        ("task", recipe.tasks, True),
        ("watched", recipe.watch, False),
    )
    for kind, configs, learned in kinds:
        for cfg in configs:
            try:
                found += [task for task, _ in build_tasks([cfg], sets, learned)]
            except UserError as error:
                data.findings.append(Finding("data", f"{kind} {cfg.name}", str(error), False))
    return found


def _media(task: Task, specs: Mapping[Modality, Spec], most: float, data: Data) -> None:
    """Count the items of a task, and those with a medium whose header cannot be read."""
    for split in SPLITS:
        items: tuple[Item, ...] = getattr(task, split)
        broken = {i.id: why for i in items if (why := _fault(i, specs, data))}
        data.counts.append({"task": task.name, "split": split, "items": len(items), "broken": len(broken)})
        if broken:
            shown = "; ".join(list(broken.values())[:SHOWN])
            value = f"{len(broken)} of {len(items)} items are missing or broken: {shown}"
            data.findings.append(Finding("data", f"{task.name}, {split}", value, len(broken) <= most * len(items)))


def _fault(item: Item, specs: Mapping[Modality, Spec], data: Data) -> str:
    for modality, source in item.sources.items():
        try:
            if isinstance(source, AudioFile) and isinstance(specs.get(modality), AudioSpec):
                if source not in data.length:
                    data.length[source] = audio_length(source)
            elif isinstance(source, ImageFile) and isinstance(specs.get(modality), ImageSpec):
                if source not in data.pictures:
                    _look(source)
                data.pictures.add(source)
        except MediaError as error:
            return str(error)
    return ""


def _look(source: ImageFile) -> None:
    """Raise MediaError for a picture whose header says that it cannot be read. Rows of a container are read."""
    if source.index is not None:
        decode_image(source, 1, 1)
        return
    try:
        with Image.open(source.path, formats=FORMATS) as image:
            pixels = image.width * image.height
    except Exception as error:  # on hostile bytes Pillow raises nearly anything
        reason = getattr(error, "strerror", None) or f"not a readable picture: {error}"
        raise MediaError(source.path, reason) from error
    if pixels > MAX_PIXELS:
        raise MediaError(source.path, f"{pixels:,} pixels are more than {MAX_PIXELS:,}")
