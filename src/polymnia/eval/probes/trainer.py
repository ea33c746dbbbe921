"""The trainer of HEAR's predictor (Turian et al. 2022, hear-eval-kit), with no, one or two hidden layers.

Linear -> batch norm -> dropout -> ReLU a hidden layer, then a linear layer; Xavier weights; Adam; cross-entropy, or
binary cross-entropy a class. The score on validation is taken every few epochs; training stops when it did not rise
``patience`` times in a row, and the weights of its first maximum are kept. As in the kit the rows are *not* drawn anew
in each epoch: the order in which they are given is the order of every epoch, unless ``reshuffle``.

The kit's rule stops on a small set before anything is learned: its score stands still while its loss falls. So with
``ties`` a lower loss on validation counts as a gain at an equal score.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear

from polymnia.eval.probes.device import pick
from polymnia.types import UserError

Init = Literal["xavier_uniform", "xavier_normal"]
Logits = Float64[np.ndarray, "n c"]
Value = Callable[[Logits], float]  # how good these logits of the validation rows are; higher is better


@runtime_checkable
class Features(Protocol):
    """Float32 rows that a slice reads: a tensor, or one that lies on the disk."""

    @property
    def shape(self) -> Sequence[int]: ...
    def __getitem__(self, rows: Any) -> Tensor: ...


@dataclass(frozen=True)
class Point:
    """One point of the grid."""

    layers: int
    init: Init
    lr: float


class Settings(NamedTuple):
    """What all points share. ``every``: epochs between validations. ``device``: auto takes a GPU if there is one."""

    epochs: int = 500
    every: int = 3
    patience: int = 20
    batch: int = 1024
    hidden: int = 1024
    dropout: float = 0.1
    reshuffle: bool = False
    ties: bool = False
    seed: int = 42
    device: str = "auto"


class Fitted(NamedTuple):
    """``logits``: of any rows, a column a class. ``value``: that of the kept weights on validation, after ``epoch``;
    ``tie``: minus their loss there, 0 unless it decides between equals."""

    logits: Callable[[Features], Logits]
    value: float
    tie: float
    epoch: int

    @property
    def gain(self) -> tuple[float, float]:
        return self.value, self.tie


def grid(layers: Sequence[int], inits: Sequence[Init], lrs: Sequence[float], draw: int = 0, seed: int = 42):
    """All points; with ``draw`` so many of them, in the order that the kit's shuffle under ``seed`` gives."""
    points = [Point(n, init, lr) for n in layers for init in inits for lr in lrs]
    if draw:
        random.Random(seed).shuffle(points)
    return points[: draw or None]


def best(points: Sequence[Point], fitted: Sequence[Fitted]) -> tuple[Point, Fitted]:
    """The point that is best on validation, the first of equals, and what was fitted with it."""
    number = max(range(len(points)), key=lambda i: fitted[i].gain)  # max takes the first of equals
    return points[number], fitted[number]


def train(  # noqa: PLR0913 (rows and classes of two parts, and how)
    points: Sequence[Point],
    settings: Settings,
    x: Features,
    y: Bool[np.ndarray, "n c"],
    valid: Features,
    valid_y: Bool[np.ndarray, "m c"],
    value: Value | None,
    exclusive: bool,
) -> list[Fitted]:
    """Fit each point. ``x``: n rows; ``y``: their classes, one a row if ``exclusive``. No ``value``: the loss decides.

    Linear layers are trained side by side, as one product; what comes of a point depends on no other. The global
    random stream is left as it was. Raises UserError for a single row (batch norm needs two) and for a device that is
    not there.
    """
    device = pick(settings.device)
    if any(p.layers for p in points) and len(y) < 2:
        raise UserError("a probe with hidden layers needs two training rows or more")
    target, truth = (torch.from_numpy(flags.argmax(1) if exclusive else flags) for flags in (y, valid_y))
    found = []
    for team in _teams(points):
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            members = [_Member(p, settings, (x.shape[1], y.shape[1]), device) for p in team]
            rates = [{"params": list(m.net.parameters()), "lr": m.point.lr} for m in members]
            optimizer = torch.optim.Adam(rates, fused=True)
            for epoch in range(1, settings.epochs + 1):
                alive = [m for m in members if m.waited < settings.patience]
                for rows in _batches(len(y), settings) if alive else ():
                    optimizer.zero_grad()  # to None, which the optimizer passes over: who has stopped stays
                    _loss(_forward(alive, x[rows].to(device)), target[rows].to(device)).backward()
                    optimizer.step()
                if alive and (epoch % settings.every == 0 or epoch == settings.epochs):
                    for member, logits in zip(alive, _logits(alive, valid, settings.batch, device), strict=True):
                        member.judge(logits, truth, value, settings.ties, epoch)
        found += [m.done(settings.batch, device) for m in members]
    return found


def _teams(points: Sequence[Point]) -> list[list[Point]]:
    """Points that are trained side by side: linear layers alone share a product."""
    return [[p] for p in points] if any(p.layers for p in points) else [list(points)]


class _Member:
    """One network in training: its best validation so far, the weights then, and the validations since."""

    def __init__(self, point: Point, settings: Settings, size: tuple[int, int], device: torch.device):
        torch.manual_seed(settings.seed)
        self.point, self.net, self.waited = point, _network(point, settings, *size).to(device), 0
        self.best, self.kept = (-math.inf, -math.inf, 0), {}

    def judge(self, logits: Logits, truth: Tensor, value: Value | None, ties: bool, epoch: int) -> None:
        """Take the score of a validation."""
        loss = _loss(torch.from_numpy(logits)[:, None], truth).item()
        found = -loss if value is None else value(logits)
        if not math.isfinite(found) or not math.isfinite(loss):  # diverged, or without a value: never a gain
            found, loss = -math.inf, math.inf
        now = (found, -loss if ties else 0.0)
        self.waited += 1
        if not self.kept or now > self.best[:2]:
            self.best, self.waited = (*now, epoch), 0
            self.kept = {k: v.detach().clone() for k, v in self.net.state_dict().items()}

    def done(self, batch: int, device: torch.device) -> Fitted:
        self.net.load_state_dict(self.kept)
        return Fitted(lambda rows: _logits([self], rows, batch, device)[0], *self.best)


def _network(point: Point, settings: Settings, width: int, classes: int) -> nn.Sequential:
    fill = {"xavier_uniform": nn.init.xavier_uniform_, "xavier_normal": nn.init.xavier_normal_}[point.init]
    modules: list[nn.Module] = []
    gain = 1.0  # nobody knows what activation made the features
    for outside in [settings.hidden] * point.layers + [classes]:
        layer = nn.Linear(width, outside)
        fill(layer.weight, gain=gain)
        modules += [layer, nn.BatchNorm1d(outside), nn.Dropout(settings.dropout), nn.ReLU()]
        width, gain = outside, nn.init.calculate_gain("relu")
    return nn.Sequential(*modules[:-3])


def _batches(n: int, settings: Settings) -> Iterator[slice | Tensor]:
    """Rows of each step. A last row alone joins the step before it: batch norm has no deviation of one row."""
    starts = list(range(0, n, settings.batch))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    order = torch.randperm(n) if settings.reshuffle else None
    for start, stop in zip(starts, [*starts[1:], n], strict=True):
        yield slice(start, stop) if order is None else order[start:stop]


def _forward(members: Sequence[_Member], x: Float[Tensor, "n d"]) -> Float[Tensor, "n k c"]:
    if members[0].point.layers:
        return members[0].net.train()(x)[:, None]
    weight, bias = (torch.cat([getattr(m.net[0], name) for m in members]) for name in ("weight", "bias"))
    return linear(x, weight, bias).unflatten(1, (len(members), -1))


def _loss(logits: Float[Tensor, "n k c"], target: Shaped[Tensor, "n ..."]) -> Float[Tensor, ""]:
    """The sum over members of their mean losses."""
    members = logits.shape[1]
    logits, target = logits.flatten(0, 1), target.repeat_interleave(members, 0)
    if target.ndim == 1:
        return members * cross_entropy(logits, target)
    return members * binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


@torch.no_grad()
def _logits(members: Sequence[_Member], x: Features, batch: int, device: torch.device) -> list[Logits]:
    parts: list[list[Tensor]] = [[] for _ in members]
    for start in range(0, x.shape[0], batch):
        rows = x[start : start + batch].to(device)
        for own, member in zip(parts, members, strict=True):
            own.append(member.net.eval()(rows).double().cpu())
    return [torch.cat(own).numpy() for own in parts]
