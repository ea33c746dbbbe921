"""Checkpoints: atomic, complete, and refused when they are not ours. No pickle is ever executed."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from polymnia.types import UserError

NAME = re.compile(r"step-(\d{9})\.pt")
KEPT = 2


def save(folder: Path, position: int, state: dict[str, Any]) -> Path:
    """Write ``state`` (tensors, numbers, strings, lists, dicts) as the checkpoint of a position; prune older ones.

    A full disk or a kill while writing leaves the earlier checkpoints as they were. Raises UserError then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{position:09d}.pt"
    partial = path.with_suffix(".tmp")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        partial.unlink(missing_ok=True)
        raise UserError(
            f"cannot save {path}: {error}. The last good checkpoint is kept; free disk space and run the same command."
        ) from error
    for _, old in found(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def found(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints by position, oldest first."""
    matches = ((NAME.fullmatch(p.name), p) for p in folder.glob("step-*.pt"))
    return sorted((int(m.group(1)), p) for m, p in matches if m)


def load(path: Path, recipe: str) -> dict[str, Any]:
    """The state of a checkpoint of the recipe with this hash.

    Raises UserError for a truncated file, a file that holds anything executable, and a checkpoint of another recipe.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it did not write, and then refuses them
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds something other than tensors and plain values, and will not be opened: delete it"
        ) from error
    except Exception as error:  # a damaged file raises whatever its parser runs into
        raise UserError(
            f"{path} is truncated or no checkpoint ({error}): delete it to go on from the one before"
        ) from error
    if not isinstance(state, dict) or state.get("recipe") != recipe:
        of = state.get("recipe") if isinstance(state, dict) else "?"
        raise UserError(f"{path} belongs to another recipe ({of}, not {recipe}): use another run folder")
    return state
