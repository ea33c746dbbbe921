"""Upgrading an index of a million vectors, beside embedding the same number of clips again.

Run alone: ``OMP_NUM_THREADS=1 python benchmarks/index_upgrade.py`` (some minutes; 6 GB of disk). Vectors of 512
numbers are drawn at random, the adapter is a full matrix (ridge), doubts are computed, and the table is rewritten in
one commit. The time of embedding is **extrapolated** from a measured sample: ESC-10 clips of five seconds through
EfficientAT mn04, a whole `embed` without the time of loading. Both are measured in one process, one thread.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from embed_throughput import SHARED, make_run
from torch.nn.functional import normalize

from polymnia.index.schema import EncoderCard, schema
from polymnia.index.store import Index
from polymnia.runs.compatibility import Fitted
from polymnia.runs.embedding.embed import embed
from polymnia.runs.embedding.work import How
from polymnia.runs.encoder import load
from polymnia.runs.upgrading.advice import Advice
from polymnia.runs.upgrading.apply import upgrade_rows
from polymnia.spaces.adapter import Adapter
from polymnia.spaces.doubt import Doubt

DIM, BATCH = 512, 8192


def rows(count: int, signature: str) -> Iterator[pa.RecordBatch]:
    """Random unit vectors as rows of sounds."""
    draw = np.random.default_rng(0)
    columns = schema(DIM)
    for first in range(0, count, BATCH):
        n = min(BATCH, count - first)
        x = draw.standard_normal((n, DIM), dtype=np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        ids = [f"clip-{i:07d}" for i in range(first, first + n)]
        known = {"key": [f"{i}#audio" for i in ids], "id": ids, "modality": ["audio"] * n, "window": [-1] * n}
        known |= {"encoder": [signature] * n, "made": ["embedded"] * n, "caption": ["a sound of something"] * n}
        arrays = [pa.array(known.get(f.name, [None] * n), f.type) for f in columns if f.name != "vector"]
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), type=columns.field("vector").type))
        yield pa.RecordBatch.from_arrays(arrays, schema=columns)


def advice() -> Advice:
    draw = torch.Generator().manual_seed(0)
    matrix = torch.eye(DIM) + 0.05 * torch.randn(DIM, DIM, generator=draw)
    adapter = Adapter("ridge", {"weight": matrix, "bias": torch.zeros(DIM)})
    held = normalize(torch.randn(256, DIM, generator=draw), dim=1)
    doubt = Doubt.of(held, adapter(held), normalize(held + 0.1 * torch.randn(256, DIM, generator=draw), dim=1))
    return Advice(1, 2, "audio", Fitted(adapter, 1.0, {"ridge": 1.0}), doubt, "upgrade", {}, {}, ())


def upgraded(count: int, folder: Path) -> tuple[float, float]:
    """Seconds of the upgrade, and MB of memory above what the process had before."""
    old, new = (EncoderCard(s, DIM, "run", t, "", ("audio",)) for s, t in (("old", 1), ("new", 2)))
    index = Index.create(folder, old)
    index.rewrite(rows(count, "old"), {"old": old})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    moved = upgrade_rows(index, new, {("old", "audio"): advice()})
    seconds = time.perf_counter() - began
    assert moved.mapped == count
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def embedded(data: Path, folder: Path) -> tuple[int, float]:
    """Clips of ESC-10, and the seconds that `embed` takes for them."""
    run = make_run(data, folder)
    began = time.perf_counter()
    load(run)
    loading = time.perf_counter() - began
    began = time.perf_counter()
    done = embed(run, folder / "vectors", how=How(workers=2))
    return done.counts["audio"], time.perf_counter() - began - loading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, default=SHARED)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clips, sample = embedded(asked.data, Path(folder))
        seconds, memory = upgraded(asked.rows, Path(folder) / "index")
    again = sample / clips * asked.rows
    rate = asked.rows / seconds
    sys.stdout.write(
        f"upgrade of {asked.rows:,} x {DIM}: {seconds:.1f} s ({rate:,.0f} rows/s), {memory:,.0f} MB more memory\n"
        f"embedding: {clips:.0f} clips of 5 s in {sample:.1f} s, so {asked.rows:,} in {again:,.0f} s (extrapolated)\n"
        f"ratio: {again / seconds:.0f}\n"
    )


if __name__ == "__main__":
    main()
