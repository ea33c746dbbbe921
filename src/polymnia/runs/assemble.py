"""From a recipe to the parts of a run: tasks, towers, media, first stages, model, method."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from polymnia.config import Frozen, Part
from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.continual.objective import Objective
from polymnia.data.collection import Collection, usable
from polymnia.data.loader import Loader
from polymnia.data.tasks import Sets, TaskData, build_tasks, needed
from polymnia.embed.cache import frozen_vectors
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.models.towers.cached import Config as CachedConfig
from polymnia.models.towers.cached import Tower as Cached
from polymnia.recipe import Recipe, TaskConfig
from polymnia.types import MODALITIES, Captions, Item, Modality, Pair, Task, UserError


@dataclass
class Curriculum:
    """The tasks of a recipe with their configs, and what is only watched."""

    tasks: list[tuple[Task, TaskConfig]]
    stages: list[Task]
    watch: list[Task]

    @property
    def items(self) -> list[Item]:
        every = [t for t, _ in self.tasks] + self.stages + self.watch
        return [i for t in every for i in (*t.train, *t.valid, *t.test)]


def read_tasks(recipe: Recipe) -> Curriculum:
    """Items and tasks, before any medium is opened."""
    sets = Sets(recipe.data)
    built = build_tasks(recipe.tasks, sets)
    stages = [_single(s, sets, True) for s in recipe.stages]
    watch = [_single(w, sets, False) for w in recipe.watch]
    names = [t.name for t, _ in built] + [t.name for t in watch]
    if len(set(names)) < len(names):
        raise UserError(f"names of tasks and watched sets must differ: {', '.join(names)}")
    curriculum = Curriculum([(t, recipe.tasks[n]) for t, n in built], stages, watch)
    _refuse_unscored(recipe, curriculum)
    return curriculum


def _refuse_unscored(recipe: Recipe, curriculum: Curriculum) -> None:
    """Every task has items to be scored on, and to be validated on where early stopping or the plateau rule asks."""
    way = "mark rows in the split column, or use the data set's keys for it (a manifest's test_share, valid_share)"
    for task in [t for t, _ in curriculum.tasks] + curriculum.watch:
        if not getattr(task, recipe.eval_split):
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
    aside = {"frozen", *(k for k, v in part.config if isinstance(v, Path))}
    return json.dumps({k: v for k, v in part.dump().items() if k not in aside}, sort_keys=True)


def rooted(config: Frozen, root: Path) -> Frozen:
    """A config whose relative paths are taken against the recipe's ``data``."""
    paths = {k: root / v for k, v in config if isinstance(v, Path) and not v.is_absolute()}
    return config.model_copy(update=paths) if paths else config


def drop_broken(recipe: Recipe, sequence: Curriculum, failed: Mapping[str, str]) -> Curriculum:
    """The sequence without the items whose media cannot be used. Raises UserError over the threshold."""

    def clean(task: Task) -> Task:
        kept = {
            s: usable(getattr(task, s), failed, recipe.max_broken, f"task '{task.name}', {s}")
            for s in ("train", "valid", "test")
        }
        return task._replace(**kept)

    return Curriculum(
        [(clean(t), c) for t, c in sequence.tasks],
        [clean(t) for t in sequence.stages],
        [clean(t) for t in sequence.watch],
    )


def dropped(curriculum: Curriculum, failed: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Why items were left out, by task."""
    every = [t for t, _ in curriculum.tasks] + curriculum.stages + curriculum.watch
    return {t.name: {i.id: failed[i.id] for i in (*t.train, *t.valid, *t.test) if i.id in failed} for t in every}


def fingerprint(sequence: Curriculum) -> str:
    """Which items a sequence has and what they say, wherever they lie; a run refuses other data than its own."""
    return item_digest(sequence.items)


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


def cached_towers(
    towers: Mapping[Modality, AbstractTower],
    still: Sequence[Modality],
    items: Sequence[Item],
    collection: Collection,
    folder: Path,
) -> tuple[dict[Modality, AbstractTower], Collection]:
    """Towers that stay as they are, replaced by their features: computed once, for all runs that share them."""
    shown, view = dict(towers), replace(collection, vectors={})
    for m in still:
        towers[m].eval().requires_grad_(False)
        vectors = frozen_vectors(towers[m], items, m, collection, folder)
        view.use_vectors(m, vectors)
        shown[m] = Cached(CachedConfig(modality=m, dim=towers[m].out_dim))
    return shown, view


def build_learner(
    recipe: Recipe, towers: Mapping[Modality, AbstractTower], pairs: tuple[Pair, ...], tasks: int
) -> tuple[Model, Chain, Objective]:
    """The model that trains, its method and its objective."""
    learn = frozenset(m for m, part in recipe.towers.items() if not part.config.frozen)
    model = Model(towers, recipe.heads, recipe.dim, learn, tasks, recipe.seed)
    objective = Objective(recipe.objective, pairs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        method = Chain(recipe.method, Setup(model, objective, tasks, recipe.seed))
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
    prepare = {m: model.tower(m).prepare for m in modalities}
    tags: list[str] = []
    if cfg.objective is not None and cfg.objective.kind == "tags":
        tags = sorted({t for i in task.train for t in i.labels})
    return Loader(task, collection, prepare, modalities, cfg.train.batch, seed, cfg.train.augment, tags)
