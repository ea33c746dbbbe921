"""What a run will do, in words and numbers: its stages, tasks and watched sets in order, as plain data."""

from __future__ import annotations

from typing import Any

from polymnia.config import Part
from polymnia.data.video import averaged
from polymnia.doctor.data import Data
from polymnia.doctor.estimate import RunCost
from polymnia.doctor.learning import Learned
from polymnia.recipe import Recipe, StageConfig, TaskConfig, WatchConfig
from polymnia.runs.curriculum import SPLITS, Curriculum
from polymnia.train.settings import ScheduleConfig, TrainConfig
from polymnia.types import Task


def outline(recipe: Recipe, data: Data, cost: RunCost | None, stages: list[Learned]) -> dict[str, Any]:
    """A run of a variant. Without ``cost`` (something is missing) only what the recipe itself says."""
    learned = {one.lesson.task.name: one for one in cost.learned} if cost else {}
    staged = {one.lesson.task.name: one for one in stages}
    known = data.curriculum
    tasks = [(t.name, t, c) for t, c in known.tasks] if known else [(c.name, None, c) for c in recipe.tasks]
    found = [_task(name, t, c, recipe, known, learned.get(name)) for name, t, c in tasks]
    if cost and "joint" in learned:  # all tasks are one lesson
        found.append(_lesson("joint", learned["joint"], recipe))
    return {
        "variant": recipe.variant,
        "order": [name for name, _, _ in tasks],
        "method": [part.dump() for part in recipe.method],
        "method_said": [said(part) for part in recipe.method] or ["none (plain fine-tuning)"],
        "heads": {m: h.model_dump(mode="json") for m, h in recipe.heads.items()},
        "towers": {m: _tower(recipe, m, data) for m in recipe.towers},
        "stages": [_stage(c, recipe, known, staged.get(c.name)) for c in recipe.stages],
        "tasks": found,
        "watch": [_watched(w, known) for w in recipe.watch],
    }


def said(part: Part) -> str:
    """A part with the keys that the recipe gives it, and its weight."""
    own = part.config.model_fields_set | {"weight"}
    keys = {k: v for k, v in part.config.model_dump(mode="json").items() if k in own}
    return part.use + (f" ({', '.join(f'{k} {v}' for k, v in keys.items())})" if keys else "")


def _task(
    name: str, task: Task | None, cfg: TaskConfig, recipe: Recipe, known: Curriculum | None, one: Learned | None
) -> dict[str, Any]:
    return {
        **_items(name, task, cfg, known),
        **_training(cfg.train, one),
        "objective": _objective(cfg, recipe),
        "evaluators": [said(p) for p in cfg.eval or recipe.eval],
        "score": list(cfg.score) or ["recall at 1, 5 and 10 in both directions of each pair"],
        "scored_on": _scored(name, known),
    }


def _stage(cfg: StageConfig, recipe: Recipe, known: Curriculum | None, one: Learned | None) -> dict[str, Any]:
    task = next((t for t in known.stages if t.name == cfg.name), None) if known else None
    own = {"objective": _objective(cfg, recipe), "learn": list(cfg.learn)}
    return {**_items(cfg.name, task, cfg, known), **_training(cfg.train, one), **own}


def _lesson(name: str, one: Learned, recipe: Recipe) -> dict[str, Any]:
    pairs = [f"{a}-{b}" for a, b in one.lesson.task.pairs]
    own = {"objective": recipe.objective.model_dump(mode="json"), "evaluators": [], "score": [], "scored_on": None}
    return {"name": name, "pairs": pairs, "items": None, **_training(one.lesson.train, one), **own}


def _items(name: str, task: Task | None, cfg: TaskConfig, known: Curriculum | None) -> dict[str, Any]:
    counted = None
    if task is not None and known is not None:
        counted = {s: {"present": len(getattr(task, s)), "official": known.official[name][s]} for s in SPLITS}
    return {"name": name, "pairs": [f"{a}-{b}" for a, b in cfg.pairs], "items": counted}


def _training(train: TrainConfig, one: Learned | None) -> dict[str, Any]:
    """Settings, and what they come to."""
    own = {
        "batch": train.batch,
        "optimizer": train.optimizer,
        "lr": train.lr,
        "schedule": _schedule(train.schedule),
        "stop": _stop(train),
        "clip": train.clip,
        "captions": train.augment.captions,
    }
    if one is None:
        return {**own, "epochs": train.epochs, "steps": train.steps}
    lesson = one.lesson
    counts = {"epochs": round(lesson.epochs, 2), "steps": lesson.steps, "steps_an_epoch": len(lesson.batches)}
    state = {"towers": one.towers, "trainable": one.trainable, "frozen": one.frozen, "teacher": one.teacher}
    return {**own, **counts, "batch": lesson.parts[0].size, "rows_an_epoch": lesson.units, **state}


def _schedule(s: ScheduleConfig) -> str:
    kinds = {
        "constant": "constant",
        "cosine": "cosine to 0",
        "step": f"x {s.gamma:g} every {s.every} epochs",
        "plateau": f"x {s.gamma:g} after {s.patience} epochs without gain, down to {s.least:g}",
    }
    return kinds[s.kind] + (f", after {s.warmup} steps of warm-up" if s.warmup else "")


def _stop(train: TrainConfig) -> str:
    if train.stop is None:
        return "no early stopping"
    return f"stops after {train.stop.patience} epochs without gain in the validation {train.watch}"


def _objective(cfg: TaskConfig, recipe: Recipe) -> dict[str, Any]:
    return (cfg.objective or recipe.objective).model_dump(mode="json")


def _tower(recipe: Recipe, modality: Any, data: Data) -> dict[str, Any]:
    part, tower = recipe.towers[modality], data.towers.get(modality)
    own = {"tower": said(part), "frozen": part.config.frozen}
    if tower is None:
        return {**own, "parameters": None, "features": None}
    moving = data.curriculum is not None and any(
        averaged(i.sources.get(modality), tower.spec) for i in data.curriculum.items
    )
    frames = {"frames": f"mean of {tower.spec.fps:g} a second"} if moving else {}
    return {**own, "parameters": sum(p.numel() for p in tower.parameters()), "features": tower.out_dim, **frames}


def _watched(cfg: WatchConfig, known: Curriculum | None) -> dict[str, Any]:
    return {
        "name": cfg.name,
        "there": known is None or cfg.name not in known.without,
        "optional": cfg.optional,
        "of": list(cfg.of),
        "rows": cfg.rows,
        "pairs": [f"{a}-{b}" for a, b in cfg.pairs],
        "evaluators": [said(p) for p in cfg.eval],
        "scored_on": _scored(cfg.name, known),
    }


def _scored(name: str, known: Curriculum | None) -> dict[str, Any] | None:
    """How many items a task or watched set is scored on, of how many, and of which splits."""
    if known is None or name in known.without:
        return None
    present, official = known.used(name)
    return {"present": present, "official": official, "splits": list(known.scored[name])}
