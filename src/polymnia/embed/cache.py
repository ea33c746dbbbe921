"""Features of frozen towers, computed once and kept by content: who made them, from what."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from safetensors.numpy import load_file, save_file
from torch import nn

from polymnia.data.collection import Collection, Vectors
from polymnia.embed.embedder import run_tower
from polymnia.models.tower import AbstractTower
from polymnia.types import AudioFile, Captions, ImageFile, Item, Modality


def signature(module: nn.Module) -> str:
    """A name for an encoder: the hash of its class, of its towers' settings, and of every weight and buffer."""
    digest = hashlib.blake2b(type(module).__module__.encode(), digest_size=12)
    for tower in (m for m in module.modules() if isinstance(m, AbstractTower)):
        digest.update(tower.settings.encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def frozen_vectors(
    tower: AbstractTower, items: Sequence[Item], modality: Modality, collection: Collection, folder: Path
) -> Vectors:
    """Features of every item that has the modality, from ``folder`` or computed now (safe for two processes)."""
    have = list({i.id: i for i in items if modality in i.sources and i.id not in collection.failed}.values())
    digest = hashlib.blake2b(f"1 {signature(tower)} {tower.spec}".encode(), digest_size=12)
    rows: dict[str, tuple[int, ...]] = {}
    total = 0
    for item in have:
        source = item.sources[modality]
        count = len(source.texts) if isinstance(source, Captions) else 1
        rows[item.id] = tuple(range(total, total + count))
        total += count
        digest.update(json.dumps([item.id, _content(source)]).encode())
    path = folder / f"{digest.hexdigest()}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            tower.eval()
            values = run_tower(tower, tower, collection, have, modality, 64).numpy()
            partial = path.with_suffix(f".{os.getpid()}.tmp")
            save_file({"features": np.ascontiguousarray(values)}, partial)
            os.replace(partial, path)
    return Vectors(rows, load_file(path)["features"])


def _content(source: AudioFile | ImageFile | Captions) -> object:
    if isinstance(source, Captions):
        return list(source.texts)
    stat = source.path.stat()
    place = [source.start, source.seconds] if isinstance(source, AudioFile) else [source.index]
    return [str(source.path), stat.st_size, stat.st_mtime_ns, *place]
