"""What a teacher costs: a training step with distillation beside plain fine-tuning and one teacher forward pass.

    python benchmarks/teacher_step.py [batch] [rounds]

The same model, batch and optimizer, stepped by the real loop. A step with a teacher should cost no more than a plain
one plus one forward pass: (step - plain) / forward is what to look at, about 1. Processor time of one thread, steps in
turns, medians over the turns: what else the machine does matters little.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from same import Same
from torch import Tensor

from polymnia.config import parse_part
from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.continual.snapshot import Snapshot
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.models.towers import cached
from polymnia.train.settings import TrainConfig
from polymnia.train.trainer import Trainer
from polymnia.types import Batch, Task

TOWERS = {"tiny_audio": {}, "tiny_audio, conv": {"arch": "conv"}, "efficientat": {"seconds": 1.0}}
METHODS = ("lwf", "cassle", "modx")
DIM = 64
PAIR = ("audio", "text")
Turns = dict[str, list[float]]


def sounds_and_texts(samples: int, rows: int) -> Batch:
    """Noise, and cached features of captions."""
    g = torch.Generator().manual_seed(0)
    inputs: dict[str, Tensor] = {
        "audio": torch.randn(rows, samples, generator=g) * 0.1,
        "text": torch.randn(rows, DIM, generator=g),
    }
    every = torch.arange(rows)
    return Batch(inputs, dict.fromkeys(inputs, every), every, torch.ones(rows, dtype=torch.long))


def stepper(tower: str, methods: Sequence[str], rows: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """A training step, and one forward pass of a teacher of the same model."""
    torch.manual_seed(0)
    part = parse_part("models.towers", {"use": tower.split(",")[0], **TOWERS[tower]})
    towers = {
        "audio": part.module.Tower(part.config),
        "text": cached.Tower(cached.Config(modality="text", dim=DIM)),
    }
    model = Model(towers, {"audio": HeadConfig(kind="mlp", hidden=256)}, DIM, frozenset({"audio"}))
    objective = Objective(ObjectiveConfig(), (PAIR,))
    setup = Setup(model, objective, 2, 0)
    chain = Chain([parse_part("methods", m) for m in methods], setup)
    chain.begin_task(model, Task("a", 1, (), (), (), (PAIR,)))
    cfg = TrainConfig(steps=1_000_000, lr=1e-4, measure=0)
    batch = sounds_and_texts(towers["audio"].spec.samples, rows)
    steps = Trainer(model, chain, objective, Same(batch), cfg, (0, 1)).steps()
    teacher = Snapshot(setup)
    return lambda: next(steps), lambda: teacher.features("audio", batch.inputs["audio"])


def measure(tower: str, rows: int, rounds: int) -> Turns:
    """Processor seconds of each in every turn, after two turns to warm up."""
    plain, forward = stepper(tower, (), rows)
    actions = {"finetune": plain, "teacher forward": forward} | {m: stepper(tower, (m,), rows)[0] for m in METHODS}
    times: Turns = {name: [] for name in actions}
    for turn in range(rounds + 2):
        for name, act in actions.items():
            start = time.process_time()
            act()
            if turn >= 2:
                times[name].append(time.process_time() - start)
    return times


def main(rows: int = 32, rounds: int = 15) -> None:
    torch.set_num_threads(1)
    title = f"a step of {rows} sounds, median of {rounds} turns, one thread"
    table = Table("tower", "", "ms", "(step - plain) / forward", title=title)
    for tower in TOWERS:
        times = measure(tower, rows, rounds)
        forward = statistics.median(times["teacher forward"])
        for name, taken in times.items():
            more = statistics.median(a - b for a, b in zip(taken, times["finetune"], strict=True))
            ratio = f"{more / forward:.2f}" if name in METHODS else ""
            table.add_row(tower, name, f"{1000 * statistics.median(taken):.1f}", ratio)
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
