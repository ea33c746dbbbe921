"""Adapters between a run's encoders as files: ``adapters/<modality>-<old>-to-<new>.safetensors``.

Besides those that are fitted on anchors, a run keeps what its method learned on the way (CaSSLe's predictors map a new
space back to the one before): ``adapters/learned-<modality>-<k>-to-<k-1>.safetensors``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polymnia.spaces.adapter import KINDS, LEARNED, Adapter, Chain
from polymnia.types import MODALITIES, Modality, UserError

FOLDER = "adapters"
Learned = Mapping[tuple[int, int, Modality], Adapter]  # by the encoders from and to, after so many tasks
_LEARNED = re.compile(rf"learned-({'|'.join(MODALITIES)})-(\d+)-to-(\d+)\.safetensors")


def save(path: Path, adapter: Adapter | Chain, scores: Mapping[str, float]) -> None:
    """An adapter as safetensors; the metadata say the kinds of its links and how it was chosen."""
    links = adapter.links if isinstance(adapter, Chain) else (adapter,)
    tensors = {f"{n}.{k}": v.contiguous() for n, a in enumerate(links) for k, v in a.tensors.items()}
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".tmp")
    said = {"kinds": json.dumps([a.kind for a in links]), "scores": json.dumps(dict(scores))}
    save_file(tensors or {"none": torch.zeros(1)}, partial, said)
    partial.replace(path)


def read_adapter(path: Path) -> Adapter | Chain:
    """An adapter that a run stored, to map vectors that are in no index. Raises UserError for what is none."""
    try:
        with safe_open(path, "pt") as file:
            kinds = json.loads((file.metadata() or {})["kinds"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{path} is no adapter of a run ({error})") from error
    known = (*KINDS, LEARNED)
    if not all(kind in known for kind in kinds):
        raise UserError(f"{path} holds adapters of other kinds than {', '.join(known)}: {kinds}")
    own = [{k.partition(".")[2]: t for k, t in tensors.items() if k.startswith(f"{n}.")} for n in range(len(kinds))]
    links = tuple(Adapter(kind, weights) for kind, weights in zip(kinds, own, strict=True))
    return links[0] if len(links) == 1 else Chain(links)


def keep_learned(run: Path, after: int, maps: Mapping[Modality, Mapping[str, Tensor]]) -> None:
    """What a method left of a task: maps from the encoder after it back to the one before."""
    for m, tensors in maps.items():
        adapter = Adapter(LEARNED, {k: v.detach().cpu().float() for k, v in tensors.items()})
        save(run / FOLDER / f"learned-{m}-{after}-to-{after - 1}.safetensors", adapter, {})


def learned(run: Path) -> Learned:
    """All maps that the run's method learned on its way."""
    found: dict[tuple[int, int, Modality], Adapter] = {}
    for path in sorted((run / FOLDER).glob("learned-*.safetensors")):
        named = _LEARNED.fullmatch(path.name)
        adapter = read_adapter(path) if named else None
        if named and isinstance(adapter, Adapter):
            found[int(named[2]), int(named[3]), named[1]] = adapter  # type: ignore[index]
    return found
