"""Real steps of a real model on made-up batches: how long they take, and what they hold in memory.

A step costs a fixed part and a part for each row. So few rows are measured, and what the batch would cost is drawn
through two points; only where that is little, the whole batch is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from polymnia.continual.chain import Chain
from polymnia.doctor.madeup import MadeUp, raw_rows
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.train.settings import TrainConfig
from polymnia.train.trainer import Objective, Trainer

FEW = 2  # rows that are measured first
TIMED = 3  # passes after one that warms up; where that took ENOUGH seconds, it counts itself
ENOUGH = 1.0
LONGEST, FORWARD = 2.0, 0.5  # seconds of a step, of a forward pass, that is measured at full size
ROOM = 2 * 2**30  # bytes of activations that are held for a measurement
MANY = 10**6  # steps: behind what a balance asks for


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of a pass over ``rows`` rows; ``measured``: the numbers of rows that it was measured with.

    ``held``: the bytes of activations that the measurement itself held.
    """

    rows: int
    seconds: float
    activations: int = 0
    gradients: int = 0
    optimizer: int = 0
    held: int = 0
    measured: tuple[int, ...] = ()

    @property
    def extrapolated(self) -> bool:
        return self.rows not in self.measured

    @property
    def each(self) -> float:
        """Seconds of a row."""
        return self.seconds / self.rows


def scaled(measure: Callable[[int], Cost], rows: int, longest: float, room: int, beside: int = 0) -> Cost:
    """The cost of ``rows`` rows, with ``beside`` more that a method brings: measured where it takes no more than
    ``longest`` seconds and ``room`` bytes, else drawn through two rows and as many as are safely within half of that.

    ``measure(n)`` gives the cost of n rows and of what the method really brought beside them.
    """
    if rows <= FEW:
        return replace(measure(rows), rows=rows, measured=(rows,))
    small = measure(FEW)
    times = min(longest / max(1e-9, small.seconds), room / max(1, small.activations))  # as if nothing were fixed
    most = max(FEW + 1, int(times * small.rows / 2) - beside)
    if most < rows:
        large = measure(most)
        line = _line(small, large, rows + beside)
        if line.seconds > longest or line.activations > room:
            return replace(line, rows=rows, measured=(FEW, most))
    return replace(measure(rows), rows=rows, measured=(rows,))


def _line(small: Cost, large: Cost, rows: int) -> Cost:
    """The cost of more rows, drawn through two measurements; noise makes no row cheaper than nothing."""

    def at(a: float, b: float) -> float:
        return b + max(0.0, b - a) / (large.rows - small.rows) * (rows - large.rows)

    held = max(small.activations, large.activations)
    activations = round(at(float(small.activations), float(large.activations)))
    return replace(large, seconds=at(small.seconds, large.seconds), activations=activations, held=held)


def room_for(device: torch.device) -> int:
    """Bytes of activations that may be held there: on a GPU, half of what is free."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else ROOM


def step(model: Model, method: Chain, objective: Objective, made: MadeUp, train: TrainConfig, seed: int) -> Cost:
    """A training step: the median of some, and the bytes that are held during one."""
    settings = train.model_copy(update={"steps": MANY, "epochs": None, "stop": None, "measure": 0})
    trainer = Trainer(model, method, objective, made, settings, (seed, 1))
    steps = trainer.steps()
    kept = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}
    kept |= {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in made.made[0].inputs.values()}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        first = _timed(lambda: next(steps), model)
    seconds = _median(lambda: next(steps), model, first)
    state = trainer.optimizer.state.values() if trainer.optimizer else ()
    held = sum(kept.values())
    return Cost(
        len(method.mix(made.made[0].to(_device(model)))),
        seconds,
        held,
        sum(p.grad.nbytes for p in trainer.parameters if p.grad is not None),
        sum(v.nbytes for s in state for v in s.values() if isinstance(v, Tensor)),
        held,
    )


@torch.no_grad()
def forward(tower: AbstractTower, encode: Callable[[Shaped[Tensor, "b ..."]], object], rows: int) -> Cost:
    """Features of so many rows, as evaluation and caching compute them."""

    def measure(n: int) -> Cost:
        x = raw_rows(tower, n).to(_device(tower))
        first = _timed(lambda: encode(x), tower)
        return Cost(n, _median(lambda: encode(x), tower, first))

    return scaled(measure, rows, FORWARD, ROOM)


def _median(work: Callable[[], object], module: torch.nn.Module, first: float) -> float:
    if first >= ENOUGH and _device(module).type == "cpu":  # a GPU's first step is slow whatever it does
        return first
    return sorted(_timed(work, module) for _ in range(TIMED))[TIMED // 2]


def _timed(work: Callable[[], object], module: torch.nn.Module) -> float:
    begun = _clock(module)
    work()
    return _since(begun, module)


def _clock(module: torch.nn.Module) -> tuple[float, float]:
    if (device := _device(module)).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float], module: torch.nn.Module) -> float:
    """Seconds, without those in which other processes had the cores; those of a GPU are not the process's own."""
    wall, own = (now - then for now, then in zip(_clock(module), begun, strict=True))
    return wall if _device(module).type == "cuda" else min(wall, own)


def _device(module: torch.nn.Module) -> torch.device:
    found = next(module.parameters(), None)
    return torch.device("cpu") if found is None else found.device
