"""The `train:` keys of a recipe, and how the learning rate moves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from polymnia.config import Frozen
from polymnia.data.augment import AugmentConfig


class ScheduleConfig(Frozen):
    """``step``: times ``gamma`` every ``every`` epochs; ``cosine`` to zero; ``plateau``: times ``gamma`` when what
    ``train.watch`` names has not improved for more than ``patience`` epochs (as torch counts them), down to ``least``.
    ``warmup`` steps, linear, first."""

    kind: Literal["constant", "step", "cosine", "plateau"] = "constant"
    warmup: NonNegativeInt = 0
    every: PositiveInt = 20
    gamma: PositiveFloat = 0.1
    patience: PositiveInt = 5
    least: NonNegativeFloat = 1e-6


class StopConfig(Frozen):
    """Early stopping: when what ``train.watch`` names has not improved for ``patience`` epochs; the best state is
    restored."""

    patience: PositiveInt = 10


class TrainConfig(Frozen):
    """How a task is trained. Give ``steps``, or ``epochs``.

    ``watch``: what early stopping and the plateau rule look at on the validation items: the retrieval ``score``, or
    the ``loss`` of the objective.
    """

    steps: NonNegativeInt | None = None
    epochs: NonNegativeInt | None = None
    batch: int = Field(64, ge=2)  # one row has nothing to be contrasted with
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    momentum: float = Field(0.9, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    amsgrad: bool = False
    schedule: ScheduleConfig = ScheduleConfig()
    stop: StopConfig | None = None
    clip: PositiveFloat | None = None  # greatest gradient norm
    bf16: bool = False
    freeze_bn: bool = False
    channels_last: bool = False
    augment: AugmentConfig = AugmentConfig()
    watch: Literal["score", "loss"] = "score"
    head_rate: PositiveFloat = 1.0  # the rate of heads and temperatures, as a share of ``lr``
    measure: NonNegativeInt = 50  # every so many steps, gradient ratios are measured for the log; 0: never

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    def total(self, per_epoch: int) -> int:
        """Training steps of a task with so many batches an epoch."""
        return self.steps if self.steps is not None else (self.epochs or 0) * per_epoch

    @property
    def validates(self) -> bool:
        return self.stop is not None or self.schedule.kind == "plateau"


def build_optimizer(
    cfg: TrainConfig, parameters: Iterable[torch.nn.Parameter], heads: Iterable[torch.nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """The optimizer over ``parameters``.

    Those that are also among ``heads`` are a group of their own; its ``share`` is that of the rate.
    """
    slow = {id(p) for p in heads} if cfg.head_rate != 1.0 else set()
    every = list(parameters)
    chosen: list[dict[str, Any]] = [
        {"params": [p for p in every if (id(p) in slow) == own], "share": cfg.head_rate if own else 1.0}
        for own in (False, True)
    ]
    chosen = [g for g in chosen if g["params"]]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(chosen, cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    kind = torch.optim.Adam if cfg.optimizer == "adam" else torch.optim.AdamW
    return kind(chosen, cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay, amsgrad=cfg.amsgrad)


def rate(cfg: TrainConfig, step: int, total: int, per_epoch: int, factor: float) -> float:
    """The learning rate of a step; ``factor`` is what the plateau rule has come to."""
    s = cfg.schedule
    if step < s.warmup:
        return cfg.lr * (step + 1) / s.warmup
    if s.kind == "step":
        return cfg.lr * s.gamma ** (step // per_epoch // s.every)
    if s.kind == "cosine":
        return cfg.lr * 0.5 * (1 + math.cos(math.pi * (step - s.warmup) / max(1, total - s.warmup)))
    return max(cfg.lr * factor, min(s.least, cfg.lr)) if s.kind == "plateau" else cfg.lr
