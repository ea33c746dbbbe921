"""Recall at 1, 5, 10 of text queries: our blocked ranks beside the full ``torch.argsort`` of other code bases.

Run alone: ``OMP_NUM_THREADS=1 python benchmarks/retrieval.py`` (5,000 queries x 25,000 rows, 512 dimensions; two
minutes, 4 GB). Each way runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import normalize

from polymnia.ops.metrics import ranks, recall_at

WAYS = ("argsort", "blocked")


def problem(queries: int, positives: int, dim: int) -> tuple[torch.Tensor, ...]:
    """Unit rows: each query has ``positives`` noisy copies in the gallery, hard enough that not all are found."""
    g = torch.Generator().manual_seed(0)
    q = torch.randn(queries, dim, generator=g)
    own = torch.arange(queries)
    its = own.repeat_interleave(positives)
    gallery = q[its] + 6.0 * torch.randn(len(its), dim, generator=g)
    return normalize(q, dim=1), normalize(gallery, dim=1), own, its


def by_argsort(q: torch.Tensor, gallery: torch.Tensor, own: torch.Tensor, its: torch.Tensor) -> torch.Tensor:
    """Sort every row of the whole score matrix; the rank is the place of the first positive."""
    order = torch.argsort(q @ gallery.T, dim=1, descending=True)
    return 1 + (its[order] == own[:, None]).int().argmax(1)


def peak_mb() -> float:
    """Most memory that this process ever held, in MB (Linux counts in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def held_mb() -> float:
    """Memory that this process holds now, in MB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measure(way: str, inputs: str, dim: int) -> dict[str, float]:
    """Seconds, MB beyond the inputs, and the scores."""
    run = ranks if way == "blocked" else by_argsort
    run(*problem(64, 1, dim))  # what a first call costs once
    q, gallery, own, its = torch.load(inputs)  # not made here: making them would raise the peak that counts
    before, start = held_mb(), time.perf_counter()
    rank = run(q, gallery, own, its)
    seconds = time.perf_counter() - start
    return {"s": seconds, "mb": peak_mb() - before} | {f"R@{k}": 100 * recall_at(rank, k) for k in (1, 5, 10)}


def main() -> None:
    """Measure each way in its own process and print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--positives", type=int, default=5, help="gallery rows a query (captions a clip)")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--way", choices=WAYS, help="measure one way, print JSON (what the processes run)")
    parser.add_argument("--inputs", help="file that the processes read")
    args = parser.parse_args()
    if args.way:
        sys.stdout.write(json.dumps(measure(args.way, args.inputs, args.dim)))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = f"{folder}/inputs.pt"
        torch.save(problem(args.queries, args.positives, args.dim), inputs)
        for way in WAYS:
            command = [sys.executable, __file__, f"--way={way}", f"--inputs={inputs}", f"--dim={args.dim}"]
            rows[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    out = [
        f"{args.queries:,} queries x {args.queries * args.positives:,} rows, d = {args.dim}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}",
        "",
        "| way | seconds | extra MB | R@1 | R@5 | R@10 |",
        "|---|---|---|---|---|---|",
    ]
    for way, r in rows.items():
        out.append(f"| {way} | {r['s']:.2f} | {r['mb']:.0f} | {r['R@1']:.2f} | {r['R@5']:.2f} | {r['R@10']:.2f} |")
    old, new = rows["argsort"], rows["blocked"]
    out += ["", f"time x {old['s'] / new['s']:.1f}, memory x {old['mb'] / max(new['mb'], 1):.0f} in favour of blocked"]
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
