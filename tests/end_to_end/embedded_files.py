"""A few recordings to embed, and what is in a folder of vectors afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from small_run import small_run

import polymnia as pm
from polymnia.index.schema import schema
from polymnia.index.vectors import read_vectors

RATE = 16000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)


def rows(folder: Path) -> pa.Table:
    found = read_vectors(folder)
    return pa.Table.from_batches(list(found), schema(found.card.dim))


def by_key(folder: Path) -> dict[str, dict[str, Any]]:
    found = {r["key"]: r for r in rows(folder).to_pylist()}
    assert len(found) == read_vectors(folder).rows  # no key stands there twice
    return found


def embed(source: Path | None, out: Path, **more: Any):  # noqa: ANN201
    return pm.embed_files(small_run(), source, out, **{"window": 1.0, "part": 3, "batch": 4, "workers": 2, **more})


def make_sounds(root: Path, count: int = 8) -> Path:
    """Recordings of several lengths, one of them of four windows."""
    root.mkdir()
    for n in range(count):
        soundfile.write(root / f"{n}.wav", noise(2.25 if n == 4 else 0.3 + 0.1 * (n % 3), n), RATE, subtype="FLOAT")
    return root
