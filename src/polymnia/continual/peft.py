"""Low-rank updates in a folder as the library PEFT writes and reads it; PEFT itself is not needed.

``adapter_config.json`` says rank, alpha and layers; ``adapter_model.safetensors`` holds, for each layer,
``base_model.model.<path>.lora_A.weight`` (r, in) and ``...lora_B.weight`` (out, r). Where a tower is a model of
transformers with something around it, paths are those inside of that model, so that PEFT finds them there.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polymnia.continual.lowrank_weights import LowRankWeights
from polymnia.models.tower import AbstractTower
from polymnia.types import UserError

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
# Keys under which the two matrices would mean something else, or are not all that is changed.
OTHERWISE = (
    *("use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out", "lora_bias", "layer_replication"),
    *("rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices", "target_parameters"),
)


def write_adapter(folder: Path, updates: LowRankWeights, tower: AbstractTower, model: str | None = None) -> None:
    """Write both files into a folder. ``model``: the name of the model on the hub that the tower came from."""
    inside, base = _base(tower, updates.names)
    paths = [n.removeprefix(inside) for n in updates.names]
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {"base_model_class": type(base).__name__, "parent_library": type(base).__module__},
        "base_model_name_or_path": model,
        "r": updates.rank,
        "lora_alpha": int(updates.alpha) if updates.alpha.is_integer() else updates.alpha,
        "lora_dropout": 0.0,
        "target_modules": paths,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    tensors = {k: t.detach().float().cpu().contiguous() for k, t in _tensors(updates, tower).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_adapter(folder: Path, updates: LowRankWeights, tower: AbstractTower) -> None:
    """Take the updates from such a folder, whoever wrote it.

    Raises UserError for one that is absent, damaged, no plain LoRA, of another rank or scale, or of other layers.
    """
    _check(folder / CONFIG, updates)
    path, wanted = folder / WEIGHTS, _tensors(updates, tower)
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not there, or no safetensors file: {error}") from error
    if other := sorted(wanted.keys() ^ found.keys()):
        lacks = "lacks" if other[0] in wanted else "also has"
        raise UserError(
            f"{path} {lacks} {', '.join(k.removeprefix(PREFIX) for k in other[:4])}; set targets to the layers that "
            f"it has updates for, as target_modules of its {CONFIG} says"
        )
    for key, tensor in wanted.items():
        if found[key].shape != tensor.shape:
            raise UserError(f"{path}: {key} is {tuple(found[key].shape)}, and the tower's {tuple(tensor.shape)}")
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(found[key])


def _check(path: Path, updates: LowRankWeights) -> None:
    try:
        stated: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not there, or no JSON ({error}); init takes what `export peft` writes") from error
    if not isinstance(stated, dict) or stated.get("peft_type") != "LORA":
        raise UserError(f"{path} does not say peft_type: LORA; only plain LoRA is read")
    if stated.get("bias", "none") != "none":
        raise UserError(f"{path}: bias is {stated['bias']}; only weights are updated here")
    for key in OTHERWISE:
        if stated.get(key):
            raise UserError(f"{path}: {key} is {stated[key]}, which this is not able to do")
    rank, alpha = stated.get("r", 8), stated.get("lora_alpha", 8)  # PEFT's own defaults
    if rank != updates.rank:
        raise UserError(f"{path}: r is {rank}, not {updates.rank}; set rank: {rank}")
    if stated.get("use_rslora"):
        alpha *= math.sqrt(rank)  # its scale is alpha / sqrt(r)
    if not math.isclose(alpha, updates.alpha, rel_tol=1e-6):
        raise UserError(f"{path}: its updates are scaled as alpha {alpha}, not {updates.alpha}; set alpha: {alpha}")


def _tensors(updates: LowRankWeights, tower: AbstractTower) -> dict[str, Tensor]:
    """A and B of every layer, by PEFT's names."""
    inside, _ = _base(tower, updates.names)
    named: dict[str, Tensor] = {}
    for name in updates.names:
        key = PREFIX + name.removeprefix(inside)
        named[f"{key}.lora_A.weight"], named[f"{key}.lora_B.weight"] = updates.pair(name)
    return named


def _base(tower: AbstractTower, names: tuple[str, ...]) -> tuple[str, nn.Module]:
    """The model of transformers that holds all these layers, and the path in front of it; or the tower itself."""
    for path, module in tower.named_modules():
        inside = f"{path}." if path else ""
        if _pretrained(module) and all(n.startswith(inside) for n in names):
            return inside, module
    return "", tower


def _pretrained(module: nn.Module) -> bool:
    """Whether it is a model of transformers, without importing that."""
    return any(
        c.__name__ == "PreTrainedModel" and c.__module__.startswith("transformers.") for c in type(module).__mro__
    )
