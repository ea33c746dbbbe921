"""The CLIP loss and Mod-X's relation loss a block of rows at a time, beside the naive form that keeps n x n numbers.

    OMP_NUM_THREADS=1 python benchmarks/blocked_losses.py [--rows 1024 4096 8192] [--rounds 3]

Forward and backward at d = 512. Each way runs in a process of its own, so that its peak memory is its own, and the
processes take turns, so that a busy machine slows all of them down: the ratios are what to look at. Memory is what the
process held at most beyond the inputs and their gradients; its allocator is told to hand back at once what is freed
(glibc would keep hundreds of MB of it, which is not memory that the loss needs).

The naive CLIP loss is open_clip's ``ClipLoss`` written out (open_clip itself needs torchvision, which has no build for
the pinned torch); the naive relation loss is Mod-X's equations 5 to 7 written out. ``apart`` is the largest difference
of a gradient to the naive one's, over the largest value of that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from polymnia.ops.contrastive import clip_loss
from polymnia.ops.distill import relation_kl

DIM, SCALE, BLOCK = 512, 100 / 7, 512
HONEST = {"MALLOC_MMAP_THRESHOLD_": "65536"}
Sides = tuple[Tensor, Tensor, Tensor, Tensor]  # the student's two, then the teacher's two


def naive_clip(sides: Sides) -> Tensor:
    """open_clip's: both matrices of logits, both cross-entropies against the diagonal."""
    a, b = (F.normalize(x, dim=-1) for x in sides[:2])
    logits, labels = SCALE * a @ b.T, torch.arange(len(a))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(SCALE * b @ a.T, labels)) / 2


def naive_relation(sides: Sides) -> Tensor:
    """Rows that the teacher gets wrong are overwritten with the student's own, then the divergence of all rows."""
    a, b, old_a, old_b = (F.normalize(x, dim=-1) for x in sides)
    total = a.new_zeros(())
    for new, old in ((a @ b.T, old_a @ old_b.T), (b @ a.T, old_b @ old_a.T)):
        right = old.argmax(1) == torch.arange(len(old))
        target = torch.where(right[:, None], old, new)
        total = total + F.kl_div(new.log_softmax(1), target.softmax(1), reduction="sum") / 2
    return total


WAYS: dict[str, dict[str, Callable[[Sides], Tensor]]] = {
    "clip_loss": {
        "naive": naive_clip,
        "whole": lambda s: clip_loss(s[0], s[1], SCALE),
        f"block {BLOCK}": lambda s: clip_loss(s[0], s[1], SCALE, block=BLOCK),
    },
    "relation_kl": {
        "naive": naive_relation,
        "whole": lambda s: relation_kl(*s),
        f"block {BLOCK}": lambda s: relation_kl(*s, block=BLOCK),
    },
}


def problem(rows: int) -> Sides:
    """Pairs that are alike, and a teacher that finds most partners."""
    g = torch.Generator().manual_seed(0)
    a, noise = (torch.randn(rows, DIM, generator=g) for _ in range(2))
    teacher = [torch.randn(rows, DIM, generator=g) for _ in range(2)]
    return a, a + noise, a + teacher[0], a + teacher[1]


def held_mb() -> float:
    """Memory that this process holds now, in MB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def step(loss: Callable[[Sides], Tensor], sides: Sides) -> tuple[float, Tensor]:
    """The value, and the gradient of the student's first side."""
    leaves = [x.clone().requires_grad_() for x in sides[:2]]
    value = loss((leaves[0], leaves[1], *sides[2:]))
    value.backward()
    assert leaves[0].grad is not None
    return value.item(), leaves[0].grad


def measure(loss: str, way: str, inputs: str, gradient: str) -> dict[str, float]:
    """Seconds, MB beyond the inputs, and the value; the gradient goes into a file."""
    run = WAYS[loss][way]
    step(run, problem(BLOCK + 1))  # what a first call costs once
    sides = torch.load(inputs)  # not made here: making them would raise the peak that counts
    before, start = held_mb(), time.perf_counter()
    value, grad = step(run, sides)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    own = 4 * grad.numel() * grad.element_size() / 2**20  # two copied sides and their gradients: any loss has them
    torch.save(grad, gradient)
    return {"s": seconds, "mb": peak - before - own, "value": value}


def compare(loss: str, rows: int, rounds: int, folder: Path) -> list[tuple[str, dict[str, float]]]:
    """Each way's medians over the rounds, and how far its gradient is from the naive one."""
    inputs = folder / "inputs.pt"
    torch.save(problem(rows), inputs)
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS[loss]}
    for _ in range(rounds):
        for way in taken:
            words = [f"--loss={loss}", f"--way={way}", f"--inputs={inputs}", f"--gradient={folder / way}.pt"]
            made = subprocess.run(
                [sys.executable, __file__, *words], check=True, capture_output=True, text=True, env=os.environ | HONEST
            )
            taken[way].append(json.loads(made.stdout))
    naive = torch.load(folder / "naive.pt")
    out = []
    for way, each in taken.items():
        apart = (torch.load(folder / f"{way}.pt") - naive).abs().max() / naive.abs().max()
        found = {key: statistics.median(e[key] for e in each) for key in each[0]}
        out.append((way, found | {"apart": apart.item()}))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loss", choices=WAYS, help="measure one way, print JSON (what the processes run)")
    parser.add_argument("--way")
    parser.add_argument("--inputs")
    parser.add_argument("--gradient")
    args = parser.parse_args()
    if args.loss:
        sys.stdout.write(json.dumps(measure(args.loss, args.way, args.inputs, args.gradient)))
        return
    title = f"forward and backward, d = {DIM}, {torch.get_num_threads()} thread(s), medians of {args.rounds} turns"
    table = Table(title=title)
    for name in ("loss", "rows", "way", "s", "extra MB", "time / naive", "memory / naive", "apart"):
        table.add_column(name, justify="left" if name in ("loss", "way") else "right", no_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        for loss in WAYS:
            for rows in args.rows:
                found = compare(loss, rows, args.rounds, Path(folder))
                first = found[0][1]
                for way, r in found:
                    ratios = (r["s"] / first["s"], r["mb"] / first["mb"])
                    cells = (f"{r['s']:.2f}", f"{r['mb']:.0f}", *(f"{x:.2f}" for x in ratios), f"{r['apart']:.0e}")
                    table.add_row(loss, f"{rows:,}", way, *cells)
                table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
