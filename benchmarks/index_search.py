"""Searching an index: every row compared, approximate search as it was chosen, and faiss and usearch beside them.

    python benchmarks/index_search.py [--rows 100000] [--dim 512] [--queries 200] [--rounds 3]

Rows are unit vectors around a thousand centres, a hundred each; queries are others of the same kind, none of them a
row. Truth is a matrix product. All ways search in one process, in memory or from the page cache, with all cores that
they take by themselves, and take turns for ``rounds`` rounds: a busy machine slows all of them down, and the ratios
are what to look at. ``one``: a query at a time. ``64``: queries 64 at a time.

``exact`` and ``approximate`` are ``Index.search`` as a user calls it, which gives whole rows of a database on disk and
of an item only the best; faiss and usearch give numbers of rows held in memory. Their
settings are tuned as the index's are: the least effort that reaches the same recall on rows as queries.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from usearch.index import Index as Graph

from polymnia.index.about import Settings
from polymnia.index.schema import WHOLE, EncoderCard, schema
from polymnia.index.store import Index

K, CENTRES, TOGETHER, PART = 10, 1000, 64, 8192
CARD = EncoderCard("made-up", 1, "nowhere", 0, "", ("audio",))
Search = Callable[[np.ndarray], list[list[int]]]


@dataclass
class Way:
    """One way to search; ``made``: seconds to build what it searches."""

    name: str
    made: float
    search: Search


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors around centres, as far from their centre (cosine 0.7) as an encoder's are from their class."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((CENTRES, dim)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = draw.standard_normal((n, dim)).astype(np.float32) / np.float32(dim**0.5)
    found = centres[draw.integers(CENTRES, size=n)] + noise
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def batches(vectors: np.ndarray) -> Any:
    """The vectors as rows of sounds."""
    wanted = schema(vectors.shape[1])
    fixed = {"modality": "audio", "window": WHOLE, "encoder": CARD.signature, "made": "embedded"}
    for first in range(0, len(vectors), PART):
        part = vectors[first : first + PART]
        names = [f"{n}" for n in range(first, first + len(part))]
        columns = {name: [value] * len(part) for name, value in fixed.items()} | {"id": names, "key": names}
        arrays = [pa.array(columns.get(f.name, [None] * len(part)), f.type) for f in wanted if f.name != "vector"]
        flat = pa.array(part.ravel())
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=wanted.field("vector").type))
        yield pa.RecordBatch.from_arrays(arrays, schema=wanted)


def recall(found: list[list[int]], truth: np.ndarray) -> float:
    return float(np.mean([len({*f} & {*t}) / K for f, t in zip(found, truth.tolist(), strict=True)]))


def nearest(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.argsort(-(queries @ rows.T), axis=1)[:, :K]


def ours(rows: np.ndarray, folder: Path, wanted: float) -> tuple[Way, Way, str]:
    """Every row compared, and the approximate index that was chosen."""
    card = replace(CARD, dim=rows.shape[1])
    index = Index.create(folder, card, Settings(recall=wanted))
    index.add(batches(rows), card)
    start = time.perf_counter()
    tuned = index.settle()
    made = time.perf_counter() - start
    assert tuned is not None

    def search(queries: np.ndarray, exact: bool) -> list[list[int]]:
        return [[int(h.id) for h in hits] for hits in index.search({CARD.signature: queries}, K, exact=exact)]

    said = f"{tuned.kind}, {tuned.probes} of {tuned.partitions} probes, refine {tuned.refine}; tried: " + "; ".join(
        f"{t['kind']} {t['probes']} probes {t['recall']:.3f} {t['milliseconds']:.1f} ms" for t in tuned.tried
    )
    return (
        Way("index, exact", 0.0, lambda q: search(q, True)),
        Way("index, approximate", made, lambda q: search(q, False)),
        said,
    )


def flat(rows: np.ndarray) -> Way:
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return Way("faiss Flat", 0.0, lambda q: index.search(q, K)[1].tolist())


def inverted(rows: np.ndarray, tests: np.ndarray, truth: np.ndarray, wanted: float) -> Way:
    start = time.perf_counter()
    index = faiss.index_factory(rows.shape[1], f"IVF{int(len(rows) ** 0.5)},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    for index.nprobe in (1, 2, 4, 8, 16, 32, 64, 128):
        if recall(index.search(tests, K)[1].tolist(), truth) >= wanted:
            break
    made = time.perf_counter() - start
    return Way(f"faiss IVF ({index.nprobe} probes)", made, lambda q: index.search(q, K)[1].tolist())


def graph(rows: np.ndarray, tests: np.ndarray, truth: np.ndarray, wanted: float) -> Way:
    start = time.perf_counter()
    index = Graph(ndim=rows.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(rows)), rows)

    def search(queries: np.ndarray) -> list[list[int]]:
        return np.atleast_2d(index.search(queries, K).keys).astype(int).tolist()

    for effort in (16, 32, 64, 128, 256, 512, 1024):
        index.expansion_search = effort
        if recall(search(tests), truth) >= wanted:
            break
    return Way(f"usearch (expansion {effort})", time.perf_counter() - start, search)


def rate(way: Way, queries: np.ndarray, size: int) -> float:
    """Queries a second."""
    start = time.perf_counter()
    for first in range(0, len(queries), size):
        way.search(queries[first : first + size])
    return len(queries) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rows", 100_000), ("dim", 512), ("queries", 200), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recall", type=float, default=0.98)
    asked = parser.parse_args()
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    rows, queries = clustered(asked.rows, asked.dim, 1), clustered(asked.queries, asked.dim, 2)
    truth, tests = nearest(queries, rows), clustered(64, asked.dim, 3)
    tested = nearest(tests, rows)
    with tempfile.TemporaryDirectory() as folder:
        exact, approximate, said = ours(rows, Path(folder) / "index", asked.recall)
        ways = [exact, approximate, flat(rows), inverted(rows, tests, tested, asked.recall),
                graph(rows, tests, tested, asked.recall)]  # fmt: skip
        found = {way.name: recall(way.search(queries), truth) for way in ways}
        few = queries[: max(TOGETHER, asked.queries // 4)]
        rates: dict[tuple[str, int], list[float]] = {}
        for _ in range(asked.rounds):
            for way in ways:
                for size in (1, TOGETHER):
                    rates.setdefault((way.name, size), []).append(rate(way, few if size == 1 else queries, size))
    show(asked, ways, found, rates, said)


def show(
    asked: Any, ways: list[Way], found: dict[str, float], rates: dict[tuple[str, int], list[float]], said: str
) -> None:
    table = Table(title=f"{asked.rows:,} x {asked.dim}, {asked.queries} queries, k = {K}")
    for name in ("", "recall@10", "one: queries/s", "x exact", "64: queries/s", "x exact", "built in s"):
        table.add_column(name, justify="left" if not name else "right")
    for way in ways:
        cells = []
        for size in (1, TOGETHER):
            own, exact = (statistics.median(rates[name, size]) for name in (way.name, ways[0].name))
            cells += [f"{own:,.0f}" if own >= 100 else f"{own:.1f}", f"{own / exact:.1f}"]
        table.add_row(way.name, f"{found[way.name]:.3f}", *cells, f"{way.made:.0f}" if way.made else "")
    console = Console(width=140)
    console.print(table)
    console.print(said)


if __name__ == "__main__":
    main()
