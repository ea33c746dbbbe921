"""Rows of an index by hand, and folders of vectors of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from polymnia.index.schema import WHOLE, EncoderCard, key, schema
from polymnia.index.vectors import part_path, write_about, write_part

DIM = 16


def card(signature: str = "first", dim: int = DIM, **changes: Any) -> EncoderCard:
    """An encoder that nobody has trained."""
    said = {"run": "runs/made-up", "task": 1, "name": "AV", "modalities": ("audio", "image", "text")}
    return EncoderCard(signature, dim, **{**said, **changes})


def unit(n: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Random directions."""
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows(ids: Sequence[str], vectors: np.ndarray, signature: str = "first", **columns: Any) -> pa.RecordBatch:
    """A row for each id. ``columns``: one value for all rows, or a list of them."""
    n = len(ids)
    said = {"modality": "audio", "window": WHOLE, "made": "embedded", **columns, "encoder": signature, "id": list(ids)}
    full = {name: value if isinstance(value, list) else [value] * n for name, value in said.items()}
    if "key" not in full:
        full["key"] = [key(*place) for place in zip(full["id"], full["modality"], full["window"], strict=True)]
    wanted = schema(vectors.shape[1])
    arrays = [pa.array(full.get(f.name, [None] * n), f.type) for f in wanted if f.name != "vector"]
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=wanted.field("vector").type))
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def sounds(first: int, last: int, signature: str = "first", seed: int = 0, **columns: Any) -> pa.RecordBatch:
    """Sounds number ``first`` to ``last`` - 1: a number always has the same vector."""
    vectors = np.concatenate([unit(1, 1000 * seed + n) for n in range(first, last)])
    return rows([f"s{n:05d}" for n in range(first, last)], vectors, signature, **columns)


def write_vectors(folder: Path, batches: Sequence[pa.RecordBatch], who: EncoderCard, complete: bool = True) -> Path:
    """A folder as `polymnia embed` leaves it, a part a batch."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, batch in enumerate(batches):
        write_part(part_path(folder, number), pa.Table.from_batches([batch]), {}, who)
    write_about(folder, who, complete=complete)
    return folder
