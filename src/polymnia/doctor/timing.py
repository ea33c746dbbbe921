"""Real steps of a real model on made-up batches: how long they take, and what they hold in memory."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from polymnia.continual.chain import Chain
from polymnia.continual.method import embed_batch
from polymnia.doctor.data import Data
from polymnia.doctor.madeup import MadeUp
from polymnia.models.model import Model
from polymnia.recipe import TaskConfig
from polymnia.train.trainer import Objective, Trainer
from polymnia.types import AudioFile, AudioSpec, Source, Spec

TIMED = 3  # steps after one that warms up


def timed(
    model: Model, method: Chain, objective: Objective, batches: MadeUp, cfg: TaskConfig, seed: int
) -> tuple[float, dict[str, int]]:
    """Seconds of a training step, and the bytes that are held during one."""
    settings = cfg.train.model_copy(update={"steps": TIMED + 1, "epochs": None, "stop": None, "measure": 0})
    trainer = Trainer(model, method, objective, batches, settings, (seed, 1))
    steps = trainer.steps()
    kept: dict[int, int] = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        next(steps)
    times = []
    for _ in range(TIMED):
        begun = _clock()
        next(steps)
        times.append(_since(begun))
    state = trainer.optimizer.state.values() if trainer.optimizer else ()
    return statistics.median(times), {
        "gradients": sum(p.grad.nbytes for p in trainer.parameters if p.grad is not None),
        "optimizer": sum(v.nbytes for s in state for v in s.values() if isinstance(v, Tensor)),
        "activations": sum(kept.values()) + sum(x.nbytes for x in batches.made[0].inputs.values()),
    }


@torch.no_grad()
def evaluation(model: Model, method: Chain, data: Data) -> float:
    """Seconds to embed the test items of every task with the towers that train, whole recordings included."""
    assert data.curriculum is not None
    seconds = 0.0
    model.eval(), method.eval()
    for task, cfg in data.curriculum.tasks:
        for m in model.learn.intersection(task.modalities):
            one = MadeUp(model, task, cfg, [m]).batch(0)
            begun = _clock()
            embed_batch(method, model, one)
            each = _since(begun) / len(one)
            seconds += each * sum(_crops(i.sources[m], model.tower(m).spec, data) for i in task.test if m in i.sources)
    return seconds


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float]) -> float:
    """Seconds, without those in which other processes had the cores; those of a GPU are not the process's own."""
    wall, own = (now - then for now, then in zip(_clock(), begun, strict=True))
    return wall if torch.cuda.is_available() else min(wall, own)


def _crops(source: Source, spec: Spec, data: Data) -> float:
    """How many training crops a test item is as long as."""
    if not isinstance(spec, AudioSpec) or not isinstance(source, AudioFile):
        return 1.0
    return max(1.0, min(data.length.get(source, spec.seconds), spec.max_seconds) / spec.seconds)
