"""What a continual-learning method is: a small module with six hooks. There is no seventh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from polymnia.config import Frozen
from polymnia.models.model import Model
from polymnia.types import Batch, Batches, Known, Modality, Outputs, Task, Terms


class Balance(Frozen):
    """Set a term's scale so that its gradient is ``target`` times the objective's.

    The ratio is measured on ``batches`` steps after the first ``skip`` of every task (a distillation term has no
    gradient while student and teacher are still equal); its median sets the scale for the rest of the task.
    """

    target: PositiveFloat = 1.0
    skip: NonNegativeInt = 3
    batches: PositiveInt = 8
    largest: PositiveFloat = 1e5


class MethodConfig(Frozen):
    """Keys that every method has."""

    balance: Balance | None = None


def embed_plainly(model: Model, batch: Batch) -> Outputs:
    """Features and unit-norm embeddings of a batch from the towers as they are, without prompts."""
    features = {m: model.features(m, x) for m, x in batch.inputs.items()}
    return Outputs(features, {m: model.project(m, h) for m, h in features.items()})


@dataclass(frozen=True)
class Setup:
    """What a method may know when it is built: state is sized here and never grows.

    ``names``: of the tasks, in order. ``embed``: a batch as the loop embeds it, prompts included. ``prompts``: the
    method of the chain that prompts the towers, which is built before the others.
    """

    model: Model
    objective: Callable[[Model, Batch, Outputs], Terms]
    tasks: int
    seed: int
    names: tuple[str, ...] = ()
    embed: Callable[[Model, Batch], Outputs] = embed_plainly
    prompts: AbstractMethod | None = None


class AbstractMethod(nn.Module):
    """Terms of a loss and rules about what trains.

    ``share`` weighs the objective's own terms (1 - lambda in Eq. 2 of the audio paper). ``facts`` are numbers for the
    log, set in ``loss``. ``sequential`` is False for a method that sees all tasks at once. ``keeps_towers``: no tower
    ever trains, so that their weights need not be saved; ``asks``: ``features`` looks at ``Known.query``, so that it
    is computed once for every item.
    """

    sequential: ClassVar[bool] = True
    keeps_towers: ClassVar[bool] = False
    asks: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.share: float = 1.0
        self.facts: dict[str, float] = {}

    @property
    def backward_maps(self) -> dict[Modality, dict[str, Tensor]]:
        """What the task just learned leaves behind: maps of its embeddings back to those before it, by modality.

        Of unit rows x: x ``weight`` (d, d) + ``bias`` (d); with ``inner`` (d, h) and ``inner_bias`` (h), a perceptron
        whose outer layer these are, with ReLU. The length of what comes out means nothing.
        """
        return {}

    def begin_task(self, model: Model, task: Task) -> None:
        """Choose what trains; take the teacher snapshot."""

    def mix(self, batch: Batch) -> Batch:
        """Rehearsal rows in."""
        return batch

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        """Tower features; prompts enter here, and under ``.eval()`` the task is chosen here."""
        return model.features(modality, x)

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        """Named, weighted terms beside the objective's."""
        return {}

    def after_backward(self, model: Model) -> None:
        """Gradient surgery."""

    def end_task(self, model: Model, task: Task, batches: Batches) -> None:
        """Snapshot, cluster, importance, memory."""


def embed_batch(method: AbstractMethod, model: Model, batch: Batch) -> Outputs:
    """Features and unit-norm embeddings of a batch, as the loop computes them."""
    features = {m: method.features(model, m, x, batch.known(m)) for m, x in batch.inputs.items()}
    return Outputs(features, {m: model.project(m, h) for m, h in features.items()})


def generator(*key: int) -> torch.Generator:
    """A generator of its own for each key of integers, so that no draw depends on another."""
    mixed = 0
    for part in key:
        mixed = (mixed * 1_000_003 + part + 0x9E3779B9) % (2**63)
    return torch.Generator().manual_seed(mixed)
