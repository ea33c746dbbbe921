"""Features of frozen towers, computed once and kept by content: who made them, from what."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float
from safetensors.numpy import load_file, save_file
from torch import nn

from polymnia.data.collection import Collection, Vectors
from polymnia.data.video import averaged
from polymnia.embed.embedder import run_tower
from polymnia.models.tower import AbstractTower
from polymnia.ops.audio import LogMel
from polymnia.types import Captions, ImageFile, Item, Modality, Source

ITEMS, VIDEOS = 1024, 32  # in one part: what a run that is killed has to compute again at most


def signature(module: nn.Module) -> str:
    """A name for an encoder: the hash of its class, of its towers' settings, and of every weight and buffer."""
    digest = hashlib.blake2b(type(module).__module__.encode(), digest_size=12)
    for tower in (m for m in module.modules() if isinstance(m, AbstractTower)):
        digest.update(tower.settings.encode())
    for front in (m for m in module.modules() if isinstance(m, LogMel)):
        digest.update(repr(front.cfg).encode())  # its window and filters are in no state
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def frozen_vectors(
    tower: AbstractTower,
    items: Sequence[Item],
    modality: Modality,
    collection: Collection,
    folder: Path,
    whole: AbstractTower | None = None,
) -> Vectors:
    """Features of every item that has the modality, from ``folder`` or computed now (safe for two processes).

    ``whole``: the tower that this one is the second half of (see ``AbstractTower.split``).

    They are kept in parts of about ``ITEMS`` items or ``VIDEOS`` videos, each as soon as it is computed: a run that
    was killed goes on behind the last whole part. Means over the frames of a video are kept as float16, all else as
    float32; both are used as float32.
    """
    have = list({i.id: i for i in items if modality in i.sources and i.id not in collection.failed}.values())
    moving = [i for i in have if averaged(i.sources[modality], tower.spec)]
    still = [i for i in have if not averaged(i.sources[modality], tower.spec)]
    parts = [*_parts(still, ITEMS), *_parts(moving, VIDEOS)]
    encoder = f"2 {signature(whole or tower)} {(whole or tower).spec}"
    paths = [folder / f"{_digest(encoder, part, modality)}.safetensors" for part in parts]
    folder.mkdir(parents=True, exist_ok=True)
    if not all(path.exists() for path in paths):
        with FileLock(folder / f"{hashlib.blake2b(encoder.encode(), digest_size=12).hexdigest()}.lock"):
            tower.eval()
            for part, path in zip(parts, paths, strict=True):
                if not path.exists():
                    values = run_tower(tower, lambda x, _: tower(x), collection, part, modality, 64).numpy()
                    dtype = np.float16 if averaged(part[0].sources[modality], tower.spec) else np.float32
                    _save(values.astype(dtype), path)
    values = [load_file(path)["features"].astype(np.float32) for path in paths]
    return Vectors(_rows(parts, modality), np.concatenate([np.zeros((0, tower.out_dim), np.float32), *values]))


def _parts(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Items in parts of about ``size`` by a hash of the id: an item more or less changes one part, not all behind."""
    bits = max(0, math.ceil(math.log2(max(1, len(items)) / size)))
    parts: dict[int, list[Item]] = {}
    for item in items:
        hashed = int.from_bytes(hashlib.blake2b(item.id.encode(), digest_size=4).digest())
        parts.setdefault(hashed & ((1 << bits) - 1), []).append(item)
    return [parts[number] for number in sorted(parts)]


def _rows(parts: Sequence[Sequence[Item]], modality: Modality) -> dict[str, tuple[int, ...]]:
    """Which rows are whose, where the parts stand one behind the other."""
    rows: dict[str, tuple[int, ...]] = {}
    total = 0
    for item in (i for part in parts for i in part):
        source = item.sources[modality]
        count = len(source.texts) if isinstance(source, Captions) else 1
        rows[item.id] = tuple(range(total, total + count))
        total += count
    return rows


def _save(values: Float[np.ndarray, "n o"], path: Path) -> None:
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({"features": np.ascontiguousarray(values)}, partial)
    os.replace(partial, path)


def _digest(encoder: str, items: Sequence[Item], modality: Modality) -> str:
    digest = hashlib.blake2b(encoder.encode(), digest_size=12)
    for item in items:
        digest.update(json.dumps([item.id, _content(item.sources[modality])]).encode())
    return digest.hexdigest()


def _content(source: Source) -> object:
    if isinstance(source, Captions):
        return list(source.texts)
    stat = source.path.stat()
    place = [source.index] if isinstance(source, ImageFile) else [source.start, source.seconds]
    return [str(source.path), stat.st_size, stat.st_mtime_ns, *place]
