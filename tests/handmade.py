"""A model small enough to be recomputed by hand: linear towers over vectors, double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polymnia.config import Part, parse_part
from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.train.settings import TrainConfig
from polymnia.train.trainer import Trainer
from polymnia.types import Batch, Modality, Outputs, Pair, Task, Terms, VectorSpec

IN, OUT, DIM = 5, 6, 4
LR = 0.01
PAIR: Pair = ("audio", "text")
Goal = Callable[[Model, Batch, Outputs], Terms]


class LinearTower(AbstractTower):
    """Features W x + b, with batch norm or dropout behind them where asked for; a classifier of three classes."""

    def __init__(self, modality: Modality, norm: bool = False, dropout: float = 0.0):
        super().__init__()
        self.modality, self.spec, self.out_dim = modality, VectorSpec(IN), OUT
        self.linear = nn.Linear(IN, OUT)
        self.norm = nn.BatchNorm1d(OUT) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classes, self.class_names = nn.Linear(OUT, 3), ("a", "b", "c")

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        self.no_prompt(prompt)
        return self.dropout(self.norm(self.linear(x)))

    def classify(self, h: Tensor) -> Tensor:
        return self.classes(h)


def model(
    learn: Sequence[Modality] = ("audio",), tasks: int = 3, norm: bool = False, dropout: float = 0.0, seed: int = 0
) -> Model:
    """Sounds and texts; each head is an MLP of seven hidden units."""
    torch.manual_seed(seed)
    towers: dict[Modality, AbstractTower] = {
        "audio": LinearTower("audio", norm, dropout),
        "text": LinearTower("text"),
    }
    heads: dict[Modality, HeadConfig] = {m: HeadConfig(kind="mlp", hidden=7) for m in towers}
    return Model(towers, heads, DIM, frozenset(learn), tasks, seed).double()


def setup(of: Model, tasks: int = 3, seed: int = 0) -> Setup:
    return Setup(of, Objective(ObjectiveConfig(), (PAIR,)), tasks, seed)


def part(use: str, **settings: object) -> Part:
    return parse_part("methods", {"use": use, **settings})


def task(index: int) -> Task:
    return Task(f"task {index}", index, (), (), (), (PAIR,))


def batch(seed: int, rows: int = 8, task: int = 1, modalities: Sequence[Modality] = PAIR) -> Batch:
    g = torch.Generator().manual_seed(seed)
    inputs: dict[Modality, Tensor] = {m: torch.randn(rows, IN, generator=g, dtype=torch.double) for m in modalities}
    every = torch.arange(rows)
    return Batch(inputs, dict.fromkeys(inputs, every), every + 100 * seed, torch.full((rows,), task))


def shake(module: nn.Module, seed: int, by: float = 0.3) -> None:
    """Add noise to every weight, as if it had been trained."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(by * torch.randn(p.shape, generator=g, dtype=p.dtype))


class Fixed:
    """Batches that were made before, epoch after epoch the same."""

    def __init__(self, batches: Sequence[Batch]):
        self.batches = list(batches)

    @property
    def clean_batches(self) -> int:
        return len(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def batch(self, step: int) -> Batch:
        return self.batches[step % len(self.batches)]

    def clean(self, number: int) -> Batch:
        return self.batches[number]


def trainer(
    cfg: dict[str, Any],
    parts: Sequence[Any] = (),
    metrics: Sequence[float] = (),
    of: Model | None = None,
    goal: Goal | None = None,
    at: int = 1,
) -> Trainer:
    """A trainer over three fixed batches an epoch; ``metrics`` are what validation gives, epoch after epoch."""
    m = model() if of is None else of
    method = Chain(list(parts), setup(m)).double()
    method.begin_task(m, task(at))
    script = iter(metrics)
    settings = TrainConfig(**{"lr": LR, "measure": 0, **cfg})
    batches = Fixed([batch(n) for n in (1, 2, 3)])
    contrast = Objective(ObjectiveConfig(), (PAIR,))
    validate = (lambda: next(script)) if metrics else None
    return Trainer(m, method, goal or contrast, batches, settings, (0, at), validate)


State = Mapping[str, np.ndarray]


def numbers(module: nn.Module) -> dict[str, np.ndarray]:
    """A copy of a module's weights, for numpy."""
    return {k: v.detach().numpy().copy() for k, v in module.state_dict().items()}


def features(w: State, x: Tensor, m: Modality = "audio") -> np.ndarray:
    """What the tower of ``m`` makes of a batch, from the weights of a model (or of a snapshot)."""
    return x.numpy() @ w[f"towers.{m}.linear.weight"].T + w[f"towers.{m}.linear.bias"]


def head(w: State, h: np.ndarray, m: Modality = "audio") -> np.ndarray:
    hidden = np.maximum(h @ w[f"heads.{m}.0.weight"].T + w[f"heads.{m}.0.bias"], 0)
    return hidden @ w[f"heads.{m}.3.weight"].T + w[f"heads.{m}.3.bias"]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def softmax(rows: np.ndarray) -> np.ndarray:
    e = np.exp(rows - rows.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of each row of probabilities, in nats."""
    return (p * (np.log(p) - np.log(q))).sum(1)
