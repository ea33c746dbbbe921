"""First stages: ordinary tasks done once before the sequence, their towers kept by content for every run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import torch
from filelock import FileLock

from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.continual.objective import Objective
from polymnia.data.collection import Collection
from polymnia.data.tasks import needed
from polymnia.embed.cache import signature
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.recipe import Recipe, StageConfig
from polymnia.runs.assemble import build_loader, cached_towers, item_digest
from polymnia.runs.weights import load_towers, save_towers
from polymnia.train.trainer import Step, Trainer
from polymnia.types import Modality, Task, UserError
from polymnia.version import __version__

OnStep = Callable[[str, Step], None]


def run_stages(
    recipe: Recipe,
    stages: list[Task],
    towers: dict[Modality, AbstractTower],
    collection: Collection,
    on_step: OnStep,
) -> list[str]:
    """Train each stage's towers in place, or load them from the cache. Gives the cache keys.

    A stage that is killed starts again from its beginning; a finished one is never trained twice, whatever the method
    of the run: its key covers its settings, its items, its seed, and the towers that it started from.
    """
    keys = []
    for task, cfg in zip(stages, recipe.stages, strict=True):
        missing = [m for m in cfg.learn if m not in towers]
        if missing:
            raise UserError(f"stage '{cfg.name}' learns {', '.join(missing)}, which the recipe gives no tower")
        seed = recipe.seed if cfg.seed is None else cfg.seed
        key = _key(recipe, task, cfg, towers, seed)
        path = recipe.cache / "stages" / f"{cfg.name}-{key}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.exists():
                load_towers(path, towers)
            else:
                _train(recipe, task, cfg, towers, collection, seed, on_step)
                save_towers(path, {m: towers[m] for m in cfg.learn})
        keys.append(key)
    return keys


def _key(recipe: Recipe, task: Task, cfg: StageConfig, towers: dict[Modality, AbstractTower], seed: int) -> str:
    involved = sorted({*cfg.learn, *needed(task, cfg.learn)})
    content = {
        "version": __version__,
        "stage": cfg.model_dump(mode="json", exclude={"data", "name"}),
        "heads": {m: recipe.heads[m].model_dump() for m in involved if m in recipe.heads and cfg.heads},
        "towers": {m: signature(towers[m]) for m in involved},
        "dim": recipe.dim,
        "seed": seed,
        "items": item_digest(task.train),
    }
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def _train(
    recipe: Recipe,
    task: Task,
    cfg: StageConfig,
    towers: dict[Modality, AbstractTower],
    collection: Collection,
    seed: int,
    on_step: OnStep,
) -> None:
    modalities = needed(task, cfg.learn)
    still = [m for m in modalities if m not in cfg.learn]
    involved = {m: towers[m].requires_grad_(True) for m in modalities}
    shown, view = cached_towers(involved, still, task.train, replace(collection, vectors={}), recipe)
    model, method, objective = stage_learner(recipe, task, cfg, shown, seed)
    method.begin_task(model, task)
    loader = build_loader(recipe, task, cfg, view, model, seed)
    trainer = Trainer(model, method, objective, loader, cfg.train, (seed, 0), workers=recipe.workers)
    for step in trainer.steps():
        on_step(cfg.name, step)
    for m in cfg.learn:
        towers[m].cpu()


def stage_learner(
    recipe: Recipe, task: Task, cfg: StageConfig, shown: dict[Modality, AbstractTower], seed: int
) -> tuple[Model, Chain, Objective]:
    """What trains in a stage: towers with heads, or with a tagger. Raises UserError for tags without labels."""
    objective_cfg = cfg.objective or recipe.objective
    tags = len({t for i in task.train for t in i.labels}) if objective_cfg.kind == "tags" else 0
    if objective_cfg.kind == "tags" and not tags:
        raise UserError(f"stage '{cfg.name}': objective tags, but no item has labels")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Stages end in the towers' own space, without heads where sizes allow it.
        heads = recipe.heads if cfg.heads and not tags else {}
        model = Model(
            shown,
            heads,
            recipe.dim if not tags else shown[cfg.learn[0]].out_dim,
            frozenset(cfg.learn),
            seed=seed,
            tags=tags,
        )
    model.to(recipe.device)
    if cfg.train.channels_last:
        model.to(memory_format=torch.channels_last)
    # The recipe's weights may name pairs of its tasks, which this stage does not have.
    weights = {k: w for k, w in objective_cfg.weights.items() if k in {f"{a}-{b}" for a, b in task.pairs}}
    objective = Objective(objective_cfg.model_copy(update={"weights": weights}), task.pairs)
    return model, Chain([], Setup(model, objective, 1, seed)), objective
