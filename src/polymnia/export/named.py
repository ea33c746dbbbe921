"""An encoder of sound by its name: a run folder of ours, or any module that keeps HEAR's common API."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from polymnia.export import hear
from polymnia.export.validate import find_module
from polymnia.runs.encoder import load
from polymnia.runs.hear import ModuleEncoder
from polymnia.types import UserError

NEEDED = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")


def named(  # noqa: PLR0913 (what a run and what a module need)
    name: str,
    after: int | None = None,
    data: Path | None = None,
    timestamps: hear.Timestamps | None = None,
    model_file: str = "",
    options: str = "{}",
    device: str = "auto",
) -> ModuleEncoder:
    """The encoder. ``after``, ``data`` and ``timestamps`` are of a run, ``model_file`` and ``options`` of a module.

    Raises UserError for what is neither, for a run that HEAR cannot take, and for words of the other kind.
    """
    of_run, of_module = (after, data, timestamps), (model_file, _options(options))
    if (Path(name) / "encoders").is_dir():
        if any(of_module):
            raise UserError(f"{name} is a run: a model file and options are for modules")
        return _run(Path(name), after, data, timestamps, device)
    if any(word is not None for word in of_run):
        raise UserError(f"{name} is no run folder: a task, data and timestamps are for runs")
    return _module(name, *of_module, device)


def _run(
    folder: Path, after: int | None, data: Path | None, timestamps: hear.Timestamps | None, device: str
) -> ModuleEncoder:
    encoder = load(folder, after, data)
    if "audio" not in encoder.recipe.towers:
        raise UserError(f"{folder} has no audio tower: HEAR is about sound")
    if encoder.method.prompting:
        raise UserError(f"{folder}: its method puts prompts into the towers, which HEAR's two functions do not take")
    tower = encoder.model.tower("audio")
    timestamps = timestamps or ("frames" if hear.has_frames(tower) else "sliding")
    return ModuleEncoder(hear, hear.HearModel(tower, timestamps), timestamps, device)


def _module(name: str, model_file: str, options: dict[str, Any], device: str) -> ModuleEncoder:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a module beside the caller; last, so that no file there hides a library
    module = find_module(name)
    if lacking := [f for f in NEEDED if not callable(getattr(module, f, None))]:
        raise UserError(f"{name} has no {lacking[0]}: it does not keep HEAR's common API")
    try:
        model = module.load_model(model_file, **options)
    except TypeError as error:
        raise UserError(f"{name}.load_model refuses these options: {error}") from error
    return ModuleEncoder(module, model, repr(sorted(options.items())), device)


def _options(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"options must be JSON, not {text!r}: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"options must be a JSON object, not {text!r}")
    return found
