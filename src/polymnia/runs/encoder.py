"""The encoder that a run leaves: media in, unit vectors out, no training code around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from polymnia.config import Part
from polymnia.continual.chain import keeps_towers, prompts
from polymnia.data.disk import read_json
from polymnia.models.tower import AbstractTower
from polymnia.recipe import Recipe, validate
from polymnia.runs import assemble
from polymnia.runs.encoding import MediaEncoder, sign
from polymnia.runs.encoding import Vectors as Vectors
from polymnia.runs.weights import load_towers, read_tensors
from polymnia.types import Modality, UserError


class Encoder(MediaEncoder):
    """Encodes sounds, texts and pictures into one space, as the run did after ``task`` tasks.

    ``dim`` is the size of a vector; ``signature`` names this encoder: vectors of another are not comparable.
    """

    def __init__(
        self, recipe: Recipe, towers: dict[Modality, AbstractTower], state: dict[str, torch.Tensor], task: int
    ):
        # A method that only trains (a teacher, a memory) is no part of the encoder.
        recipe = recipe.model_copy(update={"method": tuple(filter(prompts, recipe.method))})
        self.recipe = recipe
        tasks = len({k.split(".")[2] for k in state if k.startswith("model.stored.")}) or len(recipe.tasks)
        pairs = tuple(dict.fromkeys(p for t in recipe.tasks for p in t.pairs))
        names = tuple(str(n) for n in range(1, tasks + 1))
        model, method, _ = assemble.build_learner(recipe, towers, pairs, names)
        # Weights of frozen towers are not in the state: they came from their own files, or from the run's stages.
        missing, unexpected = _take(model, state, "model.")
        still = keeps_towers(recipe.method)
        frozen = tuple(f"towers.{m}." for m in towers if still or m not in model.learn)
        frozen += tuple(f"towers.{m}.front." for m, t in towers.items() if t.split() is not None)
        lost = [k for k in missing if not k.startswith(frozen)]
        if method.prompter is not None:
            for found, total in zip(_take(method.prompter, state, "method."), (lost, unexpected), strict=True):
                total += found
        if lost or unexpected:
            raise UserError(f"these weights do not fit the recipe: {', '.join([*lost, *unexpected][:4])}")
        super().__init__(model, method, task, recipe.device)
        self.signature = sign(model, method)


def _take(module: torch.nn.Module, state: dict[str, torch.Tensor], prefix: str) -> tuple[list[str], list[str]]:
    """Load what stands under ``prefix``. Gives what was missing and what was too much; wrong shapes count as both."""
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    shapes = {k: v.shape for k, v in module.state_dict().items()}
    wrong = [k for k, v in own.items() if k in shapes and v.shape != shapes[k]]
    missing, unexpected = module.load_state_dict({k: v for k, v in own.items() if k not in wrong}, strict=False)
    return list(missing), [*unexpected, *wrong]


def load(folder: Path, task: int | None = None, data: Path | None = None) -> Encoder:
    """The encoder of a run folder, wherever it was moved to.

    ``data``: the folder that frozen towers read their own files from, if it is no longer the recipe's. Raises
    UserError if the run or the task is not there, or its files are damaged.
    """
    recipe = read_recipe(folder)
    kept = (folder / "encoders").glob("after-*.safetensors")
    numbers = {int(p.stem.split("-")[1]): p for p in sorted(kept, key=lambda p: int(p.stem.split("-")[1]))}
    if not numbers:
        raise UserError(f"{folder} has no finished task yet: run `polymnia run` on its recipe.yaml first")
    if task is None and recipe.tasks and max(numbers) == 0:
        raise UserError(
            f"{folder} has learned no task yet: run `polymnia run` on its recipe.yaml; "
            "or ask for task 0, before the first"
        )
    wanted = max(numbers) if task is None else task
    if wanted not in numbers:
        raise UserError(f"{folder}: no encoder after task {wanted}; there are {', '.join(map(str, numbers))}")
    frozen = folder / "frozen.safetensors"
    state = read_tensors(numbers[wanted])
    towers = assemble.build_towers(_here(recipe, data, frozen.exists()))
    if frozen.exists():
        load_towers(frozen, towers)
    return Encoder(_here(recipe, data, frozen.exists()), towers, state, wanted)


def _here(recipe: Recipe, data: Path | None, staged: bool) -> Recipe:
    """The recipe for use where we are: a device that is there, no files whose weights the run folder holds itself."""
    held = {m for s in recipe.stages for m in s.learn} if staged else set()
    if not keeps_towers(recipe.method):
        held |= {m for m, part in recipe.towers.items() if not part.config.frozen}
    towers = {m: _bare(part) if m in held else part for m, part in recipe.towers.items()}
    device = "cpu" if recipe.device.startswith("cuda") and not torch.cuda.is_available() else recipe.device
    return recipe.model_copy(update={"towers": towers, "device": device, "data": data or recipe.data})


def _bare(part: Part) -> Part:
    """A tower whose weights come from elsewhere than its own files."""
    inner: dict[str, Any] = {k: _bare(v) for k, v in part.config if isinstance(v, Part)}
    if "checkpoint" in type(part.config).model_fields:
        inner["checkpoint"] = None
    return part.model_copy(update={"config": part.config.model_copy(update=inner)}) if inner else part


def read_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run folder."""
    path = folder / "recipe.yaml"
    if not path.exists():
        raise UserError(f"{folder} is no run folder: it has no recipe.yaml")
    return validate(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


def other_names(run: Path, after: int) -> list[str]:
    """Signatures that the same encoder had in shorter runs, which this one went on from."""
    extends = read_json(run / "meta.json").get("extends") or {}
    return list(extends.get("encoders", {}).get(str(after), []))


def read_matrix(folder: Path) -> dict[str, Any]:
    """What a run folder's matrix.json holds."""
    path = folder / "matrix.json"
    if not path.exists():
        raise UserError(f"{folder} has no scores yet")
    return json.loads(path.read_text(encoding="utf-8"))
