"""The weights that a run leaves after each task, readable by anything that reads safetensors."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polymnia.continual.chain import Chain
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.types import Modality, UserError


def save_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """A safetensors file that is either the old or the new one, whenever the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, partial)
    os.replace(partial, path)


def save_towers(path: Path, towers: Mapping[Modality, AbstractTower]) -> None:
    """Tower weights as one file."""
    save_tensors(path, {f"{m}.{k}": v for m, t in towers.items() for k, v in t.state_dict().items()})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError for one that is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or no safetensors file ({error}); delete it, and run again") from error


def load_towers(path: Path, towers: Mapping[Modality, AbstractTower]) -> None:
    """The weights of those towers that the file holds. Raises UserError for a damaged file."""
    state = read_tensors(path)
    for m in {k.split(".")[0] for k in state}:
        own = {k.removeprefix(f"{m}."): v for k, v in state.items() if k.startswith(f"{m}.")}
        towers[m].load_state_dict(own)  # type: ignore[index]


def without(state: Mapping[str, Tensor], unmoved: Collection[Modality]) -> dict[str, Tensor]:
    """A model's state without those towers."""
    aside = tuple(f"towers.{m}." for m in unmoved)
    return {k: v for k, v in state.items() if not k.startswith(aside)}


def refuse_others(missing: Sequence[str], unexpected: Sequence[str], unmoved: Collection[Modality]) -> None:
    """Raises UserError where a model was given less than all but those towers, or more."""
    aside = tuple(f"towers.{m}." for m in unmoved)
    wrong = [*(k for k in missing if not k.startswith(aside)), *unexpected]
    if wrong:
        raise UserError(f"the checkpoint is of another model: {', '.join(wrong[:4])}; delete it, and run again")


def save_encoder(
    folder: Path, after: int, model: Model, method: Chain, unmoved: Collection[Modality] = frozenset()
) -> None:
    """What encodes after a task: the model without its ``unmoved`` towers, and the method where it carries prompts."""
    state = {f"model.{k}": v for k, v in without(model.state_dict(), unmoved).items()}
    if method.prompter is not None:
        state |= {f"method.{k}": v for k, v in method.prompter.state_dict().items()}
    kept = folder / "encoders" / f"after-{after}.safetensors"
    save_tensors(kept, state)
    share_with(kept.with_name(f"after-{after - 1}.safetensors"), kept)


def share_with(earlier: Path, later: Path) -> None:
    """A task that taught nothing (the frozen baseline) costs no disk: two equal files become one with two names.

    Neither is ever written in place, so what replaces one leaves the other alone.
    """
    if not earlier.exists() or not filecmp.cmp(earlier, later, shallow=False):
        return
    link = later.with_name(f".{later.name}.{os.getpid()}.tmp")
    with suppress(OSError):  # a file system without links keeps two files
        os.link(earlier, link)
        os.replace(link, later)
