"""`polymnia embed` beside the bare tower: the forward pass alone, over the same batches, already decoded.

Run alone: ``OMP_NUM_THREADS=1 python benchmarks/embed_throughput.py`` (ESC-10 through EfficientAT mn04; a minute).
Repetitions of both are interleaved, so that what else the machine does falls on both; the ratio is that of medians,
the target 0.90. `embed` is timed whole but for loading the encoder: walking the folder, decoding, encoding, writing.
With one thread for the tower, decoding has a core of its own where there are two. Where it has not, because others use
it, wall-clock time counts decoding too; so the processor time of the thread that encodes is compared as well: what
`embed` adds to the forward pass where decoding runs beside it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polymnia
from polymnia.runs.embedding.ask import Ask
from polymnia.runs.embedding.embed import embed_with
from polymnia.runs.embedding.work import How
from polymnia.runs.encoder import Encoder

SHARED = Path(__file__).parents[2] / "shared" / "data"
WEIGHTS = "weights/efficientat_mn04_as/mn04_as_mAP_432.pt"


def make_run(data: Path, out: Path) -> Path:
    """A run of no steps: EfficientAT as it was published, and a text tower that is not used here."""
    recipe = {
        "name": "throughput",
        "data": str(data),
        "out": str(out / "runs"),
        "cache": str(out / "cache"),
        "dim": 384,
        "towers": {
            "audio": {"use": "efficientat", "checkpoint": WEIGHTS, "frozen": True},
            "text": {"use": "tiny_text", "frozen": True, "width": 16, "layers": 1, "out_dim": 384},
        },
        "train": {"steps": 0},
        "eval": [{"use": "zeroshot"}],
        "tasks": [{"name": "AT", "pairs": [["audio", "text"]], "data": {"use": "esc10", "root": "esc10"}}],
    }
    return polymnia.run(recipe).folder


class Recorder:
    """Keeps the batches that an encoder is given."""

    def __init__(self, encoder: Encoder):
        self.batches: list[list[np.ndarray]] = []
        self._encode = encoder.encode_batch
        encoder.encode_batch = self._recorded  # type: ignore[method-assign]
        self._encoder = encoder

    def _recorded(self, modality: Any, media: Any) -> Any:
        self.batches.append(list(media))
        return self._encode(modality, media)

    def stop(self) -> None:
        self._encoder.encode_batch = self._encode  # type: ignore[method-assign]


@torch.no_grad()
def bare(encoder: Encoder, batches: list[list[np.ndarray]]) -> tuple[float, float]:
    """Seconds of the tower's forward pass alone, by the clock and of this thread on a processor."""
    tower = encoder.model.tower("audio")
    began, used = time.perf_counter(), time.thread_time()
    for batch in batches:
        tower(tower.prepare(batch))
    return time.perf_counter() - began, time.thread_time() - used


def embedded(encoder: Encoder, run: Path, source: Path, out: Path, how: How) -> tuple[float, float]:
    """The same of `embed` into a new folder."""
    began, used = time.perf_counter(), time.thread_time()
    embed_with(encoder, run, out, Ask(source, only=("audio",)), how)
    return time.perf_counter() - began, time.thread_time() - used


def main() -> None:
    """Measure and print the table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--folder", default="esc10", help="of the data: what is embedded")
    parser.add_argument("--times", type=int, default=3, help="copies of the folder")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--workers", type=int, default=How().workers)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        run = make_run(args.data.resolve(), out)
        encoder = polymnia.load(run)
        how, source = How(workers=args.workers, max_broken=0.0), out / "source"
        for number in range(args.times):
            shutil.copytree(args.data.resolve() / args.folder, source / str(number))
        recorder = Recorder(encoder)
        embedded(encoder, run, source, out / "first", how)
        recorder.stop()
        took: dict[str, list[tuple[float, float]]] = {"bare forward": [], "embed": []}
        for number in range(args.repeat):
            took["bare forward"].append(bare(encoder, recorder.batches))
            took["embed"].append(embedded(encoder, run, source, out / f"again-{number}", how))
    seconds = sum(len(w) for b in recorder.batches for w in b) / encoder.model.tower("audio").spec.sample_rate
    clips = sum(map(len, recorder.batches))
    lines = [
        f"{clips:,} clips, {seconds:,.0f} s of sound in {len(recorder.batches):,} batches, "
        f"{torch.get_num_threads()} thread(s) of the tower, {args.workers} that decode",
        "",
        "| | median, s | all, s | clips/s | s of sound/s | encoding thread on a processor, s |",
        "|---|---|---|---|---|---|",
    ]
    middle = {name: [statistics.median(column) for column in zip(*both, strict=True)] for name, both in took.items()}
    for name, (clock, used) in middle.items():
        every = " ".join(f"{t:.2f}" for t, _ in sorted(took[name]))
        lines.append(f"| {name} | {clock:.2f} | {every} | {clips / clock:.1f} | {seconds / clock:.0f} | {used:.2f} |")
    clock, used = (b / e for b, e in zip(middle["bare forward"], middle["embed"], strict=True))
    lines += [
        "",
        f"embed reaches {clock:.2f} of the throughput of the bare forward by the clock (target 0.90), {used:.2f} by "
        "the processor time of the thread that encodes",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
