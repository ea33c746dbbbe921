"""From a run folder to a module that others' benchmarks import. It needs polymnia, but neither run nor data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from polymnia.export import package
from polymnia.export.hear import EXPORTED, WEIGHTS, HearModel, Timestamps, has_frames
from polymnia.models.hub import locate
from polymnia.models.tower import AbstractTower
from polymnia.recipe import WHERE, Recipe
from polymnia.runs.encoder import load
from polymnia.runs.weights import save_tensors
from polymnia.types import UserError

RATES = (16000, 22050, 32000, 44100, 48000)  # what HEAR gives its recordings at

HEAR_CODE = '''\
"""The audio encoder of the polymnia run {run}, after {task} tasks, behind the common API of HEAR 2021."""

from pathlib import Path

from polymnia.export.hear import HearModel, get_scene_embeddings, get_timestamp_embeddings, load

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def load_model(model_file_path: str = "", **options) -> HearModel:
    """The model, on the CPU. ``model_file_path``: other weights of the same tower. One option: ``timestamps``."""
    return load(Path(__file__).parent, model_file_path, options)
'''

HEAR_README = """\
# {name}

The audio encoder of the polymnia run `{run}`, after {task} tasks: tower `{tower}`, {rate} Hz, {dim} features (before
any projection), timestamps by `{timestamps}`.

    pip install .
    polymnia export check {name}
    python -m heareval.embeddings.runner {name} --tasks-dir hear-2021.0.6/tasks

`recipe.yaml` is the recipe of the run, `export.yaml` what is loaded, `weights.safetensors` the weights. Other weights
of the same tower, such as the run's `encoders/after-1.safetensors`, are given as `model_file_path` (the kit's
`--model`).
{note}"""

MTEB_CODE = '''\
"""The encoder of the polymnia run {run}, after {task} tasks, for MTEB: `mteb.evaluate(load_model(), tasks)`."""

from pathlib import Path

from polymnia.export.mteb import MtebEncoder, encoder

__all__ = ["load_model"]


def load_model(data: str | Path | None = None) -> MtebEncoder:
    """The encoder. ``data``: where frozen towers find files of their own, if they read any."""
    return encoder(Path(__file__).parent / "run", {task}, data, name="{run}")
'''

MTEB_README = """\
# {name}

The encoder of the polymnia run `{run}`, after {task} tasks: {towers}.

    pip install .
    python -c "import mteb, {name} as m; mteb.evaluate(m.load_model(), mteb.get_tasks(tasks=['ESC50']))"

`run/` is the part of the run folder that encodes.
{note}"""


def export_hear(
    run: Path, out: Path, task: int | None = None, timestamps: Timestamps | None = None, data: Path | None = None
) -> str:
    """Write a HEAR module of a run's audio tower into the folder ``out``; gives its name.

    ``task``: the encoder after so many tasks (default: the last). ``timestamps``: default ``frames`` where the tower
    has features over time, else ``sliding``. ``data``: as for ``polymnia.load``. Raises UserError for a run that HEAR
    cannot take: no sound, another sample rate, prompts in the tower.
    """
    encoder = load(run, task, data)
    if "audio" not in encoder.recipe.towers:
        raise UserError(f"{run} has no audio tower: HEAR is about sound")
    if encoder.method.prompting:
        raise UserError(f"{run}: its method puts prompts into the towers, which HEAR's module has no room for")
    name = package.module_name(run, "" if task is None else f"_task{task}")
    tower, part = encoder.model.tower("audio"), encoder.recipe.towers["audio"]
    facts = {"run": run.resolve().name, "task": encoder.task}
    write_hear(out, name, tower, part.dump(), facts, timestamps, elsewhere(encoder.recipe))
    return name


def write_hear(  # noqa: PLR0913 (a name, a tower, and what is said of them)
    out: Path,
    name: str,
    tower: AbstractTower,
    part: dict[str, Any],
    facts: dict[str, Any],
    timestamps: Timestamps | None = None,
    recipe: str = "",
) -> None:
    """The same for a tower as it is. ``part``: its ``use`` and settings; ``facts``: its ``run`` and ``task``."""
    model = HearModel(tower, timestamps or ("frames" if has_frames(tower) else "sliding"))
    if model.sample_rate not in RATES:
        known = ", ".join(map(str, RATES))
        raise UserError(f"{facts['run']}: towers.audio takes {model.sample_rate} Hz; HEAR has {known}")
    facts = facts | {"run": package.plain(facts["run"]), "timestamps": model.timestamps}

    def fill(inside: Path) -> None:
        save_tensors(inside / WEIGHTS, tower.state_dict())
        described = facts | {"tower": _standing_alone(part, inside)}
        (inside / EXPORTED).write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
        (inside / "recipe.yaml").write_text(recipe, encoding="utf-8")

    words = facts | {"name": name, "tower": part["use"], "rate": model.sample_rate, "dim": tower.out_dim}
    readme = HEAR_README.format(**words, note=_note([part]))
    description = f"Audio encoder of the polymnia run {facts['run']} for HEAR"
    package.write(out, name, description, "polymnia", HEAR_CODE.format(**facts), readme, fill)


def export_mteb(run: Path, out: Path, task: int | None = None, data: Path | None = None) -> str:
    """Write a module whose ``load_model`` gives a run's encoder to MTEB into the folder ``out``; gives its name.

    Raises UserError as ``polymnia.load`` does.
    """
    encoder = load(run, task, data)
    name = package.module_name(run, ("" if task is None else f"_task{task}") + "_mteb")
    facts = {"run": package.plain(run.resolve().name), "task": encoder.task}
    weights = f"encoders/after-{encoder.task}.safetensors"

    def fill(inside: Path) -> None:
        (inside / "run" / "encoders").mkdir(parents=True)
        for file in ("recipe.yaml", "frozen.safetensors", weights):
            if (run / file).exists():
                shutil.copyfile(run / file, inside / "run" / file)

    parts = [p.dump() for p in encoder.recipe.towers.values()]
    towers = ", ".join(f"{m} ({p.use})" for m, p in encoder.recipe.towers.items())
    readme = MTEB_README.format(**facts, name=name, towers=towers, note=_note(parts))
    description = f"Encoder of the polymnia run {facts['run']} for MTEB"
    package.write(out, name, description, "polymnia[mteb]", MTEB_CODE.format(**facts), readme, fill)
    return name


def _standing_alone(part: dict[str, Any], inside: Path) -> dict[str, Any]:
    """A tower's settings without files of its own: weights are in the module, a model's folder is copied into it."""
    part = {k: None if k == "checkpoint" else v for k, v in part.items()}
    model = part.get("model")
    if isinstance(model, str) and not model.startswith("package:"):
        source, folder = locate(model)
        if folder:
            shutil.copytree(source, inside / "model")
            part["model"] = "./model"
    return part


def elsewhere(recipe: Recipe) -> str:
    """The recipe without the keys that say where the run was done."""
    kept = {k: v for k, v in recipe.model_dump(mode="json").items() if k not in WHERE}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _note(parts: list[dict[str, Any]]) -> str:
    """What a module still needs beside polymnia."""
    needs = [f"the module `{p['use']}`" for p in parts if "." in p["use"]]
    for model in (str(p.get("model", "")) for p in parts):
        if model.startswith("package:"):
            needs.append(f"the package `{model.removeprefix('package:').split('/')[0]}`")
        elif model and not locate(model)[1]:
            needs.append(f"`{model}` from the Hugging Face hub or its cache")
    return f"\nIt needs, beside polymnia: {', '.join(needs)}.\n" if needs else ""
