"""From a recipe to the parts of a run: tasks, towers, media, first stages, model, method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from polymnia.config import Frozen, Part
from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.continual.objective import Objective
from polymnia.data.collection import Collection, refuse_averaged
from polymnia.data.loader import Loader
from polymnia.data.tasks import needed
from polymnia.embed.cache import frozen_vectors
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.models.towers.cached import Config as CachedConfig
from polymnia.models.towers.cached import Tower as Cached
from polymnia.recipe import Recipe, TaskConfig
from polymnia.runs.curriculum import Curriculum as Curriculum  # callers take the tasks of a recipe from here
from polymnia.runs.curriculum import drop_broken as drop_broken
from polymnia.runs.curriculum import dropped as dropped
from polymnia.runs.curriculum import fingerprint as fingerprint
from polymnia.runs.curriculum import item_digest as item_digest
from polymnia.runs.curriculum import other_data as other_data
from polymnia.runs.curriculum import read_tasks as read_tasks
from polymnia.types import MODALITIES, Item, Modality, Pair, Task, UserError


def build_towers(recipe: Recipe) -> dict[Modality, AbstractTower]:
    """Towers with weights drawn from (seed, modality), or read from their checkpoints."""
    towers: dict[Modality, AbstractTower] = {}
    for m, part in recipe.towers.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed * 1009 + MODALITIES.index(m))
            towers[m] = part.module.Tower(rooted(part.config, recipe.data))
        towers[m].settings = _settings(part)
        if towers[m].modality != m:
            raise UserError(f"towers.{m}: '{part.use}' is a tower for {towers[m].modality}")
    return towers


def _settings(part: Part) -> str:
    """What decides a tower's features beside its weights; where its files lie and whether it trains do not."""
    return json.dumps(_telling(part), sort_keys=True)


def _telling(part: Part) -> dict[str, object]:
    aside = {"frozen", *(k for k, v in part.config if isinstance(v, Path))}
    inner = {k: _telling(v) for k, v in part.config if isinstance(v, Part)}
    return {k: v for k, v in part.dump().items() if k not in aside} | inner


def rooted(config: Frozen, root: Path) -> Frozen:
    """A config whose relative paths are taken against the recipe's ``data``."""
    changes: dict[str, object] = {k: root / v for k, v in config if isinstance(v, Path) and not v.is_absolute()}
    parts = {k: v for k, v in config if isinstance(v, Part)}
    changes |= {k: v.model_copy(update={"config": rooted(v.config, root)}) for k, v in parts.items()}
    return config.model_copy(update=changes) if changes else config


def cached_towers(
    towers: Mapping[Modality, AbstractTower],
    still: Sequence[Modality],
    items: Sequence[Item],
    collection: Collection,
    recipe: Recipe,
) -> tuple[dict[Modality, AbstractTower], Collection]:
    """Towers that stay as they are, replaced by their features: computed once, for all runs that share them.

    Of a tower that stands on a frozen front, the front alone is replaced.
    """
    folder, device = recipe.cache / "features", find_device(recipe.device)
    shown, view = dict(towers), replace(collection, vectors={}, queries={})
    for m, tower in towers.items():
        halves = None if m in still else tower.split()
        if m not in still and halves is None:
            continue
        front = tower if halves is None else halves[0]
        front.eval().requires_grad_(False).to(device)
        view.use_vectors(m, frozen_vectors(front, items, m, collection, folder))
        shown[m] = Cached(CachedConfig(modality=m, dim=tower.out_dim)) if halves is None else halves[1]
    return shown, view


def ask_towers(
    towers: Mapping[Modality, AbstractTower],
    shown: Mapping[Modality, AbstractTower],
    items: Sequence[Item],
    collection: Collection,
    recipe: Recipe,
) -> None:
    """Put what the towers that may be prompted say of every item without prompts into ``collection.queries``."""
    for m, part in recipe.towers.items():
        if not part.config.frozen:
            asked = shown[m].eval().to(find_device(recipe.device))
            collection.queries[m] = frozen_vectors(asked, items, m, collection, recipe.cache / "features", towers[m])


def build_learner(
    recipe: Recipe, towers: Mapping[Modality, AbstractTower], pairs: tuple[Pair, ...], names: tuple[str, ...]
) -> tuple[Model, Chain, Objective]:
    """The model that trains, its method and its objective; ``names`` of the tasks, in order."""
    tasks = len(names)
    learn = frozenset(m for m, part in recipe.towers.items() if not part.config.frozen)
    cross = any(o.loss == "cx" for o in (recipe.objective, *(t.objective for t in recipe.tasks)) if o is not None)
    model = Model(towers, recipe.heads, recipe.dim, learn, tasks, recipe.seed, cross=cross)
    model.start_at(recipe.objective.temperature)
    objective = Objective(recipe.objective, pairs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        method = Chain(recipe.method, Setup(model, objective, tasks, recipe.seed, names))
    if any(c.train.channels_last for c in recipe.tasks):
        model.to(memory_format=torch.channels_last)
        method.to(memory_format=torch.channels_last)
    device = find_device(recipe.device)
    return model.to(device), method.to(device), objective


def find_device(name: str) -> torch.device:
    """The device of that name. Raises UserError for one that is not there."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"device '{name}' cannot be used here: {reason}; give device=cpu") from error


def build_loader(
    recipe: Recipe, task: Task, cfg: TaskConfig, collection: Collection, model: Model, seed: int
) -> Loader:
    """The training batches of a task."""
    modalities = needed(task, model.learn)
    lacking = [m for m in modalities if m not in model.modalities]
    if lacking:
        raise UserError(f"task '{task.name}' needs a tower for {', '.join(lacking)}: give towers.{lacking[0]}")
    if not task.train:
        raise UserError(f"task '{task.name}' has no training items")
    if "image" in modalities:
        refuse_averaged(task.train, model.tower("image").spec)
    prepare = {m: model.tower(m).collate for m in modalities}
    tags: list[str] = []
    if cfg.objective is not None and cfg.objective.kind == "tags":
        tags = sorted({t for i in task.train for t in i.labels})
    return Loader(task, collection, prepare, modalities, cfg.train.batch, seed, cfg.train.augment, tags)
