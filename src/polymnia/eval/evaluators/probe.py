"""Probes: how well a small classifier reads labels from frozen features (the encoder's output, never the projection).

- ``linear``: one linear layer under HEAR's trainer (Turian et al. 2022): Adam, learning rate and initialisation from a
  grid, early stopping on validation, weights of the best validation. As there, later folds reuse the first's setting;
  unlike there, a lower validation loss decides between equal scores.
- ``hear``: HEAR's predictor whole: the same with one or two hidden layers of 1,024; ``points`` of the grid are drawn.
- ``logreg``: L2-regularised logistic regression (L-BFGS), C chosen on validation, then refit on the training and
  validation rows together. CLIP's protocol (Radford et al. 2021, appendix A.3).
- ``knn``: votes of the k nearest rows by Euclidean distance, k chosen on validation, then voted on both parts.

With ``folds`` the official folds rotate: test fold i, validation fold i + 1, training on the rest. Without, the task's
splits are used; a set that has no validation split lends every tenth training row, taken class by class. ``resplit``
splits the training items alone, by the hash of their ids: that is the reading `balanced_internal` of AudioSet, where
balanced_train is both trained and tested on, beside the data set's own split (train on it, test on eval_segments).

Keys: ``probe/accuracy`` (percent; ``probe/mAP``, macro over classes with a positive, if ``multilabel``), ``probe/std``
(sample standard deviation over folds, 0 without), ``probe/N`` (rows tested). A task that has no labels, fewer than two
classes, or nothing to train or test on gives N = 0 and no score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from sklearn.neighbors import NearestNeighbors

from polymnia.config import Frozen
from polymnia.eval.probes import folds, trainer
from polymnia.eval.probes.logreg import Logistic, Score, sweep
from polymnia.ops.metrics import macro_average_precision
from polymnia.types import Embed, EvalData, Item, Modality

PROJECTED = False  # reads features, which no projection head changes
FITS = True  # learns from the training items, so that their media are read too
LAYERS = {"linear": (0,), "hear": (1, 2)}


class Config(Frozen):
    """``by``: the class is the topic or the first label; ``multilabel``: all labels. The grids are tried in order.

    ``standardise``: features to zero mean and unit variance over the training rows; by default for ``logreg`` and
    ``knn``, never for ``hear``. ``c``: strengths to try in place of CLIP's sweep. ``reshuffle``: draw the training
    rows anew in each epoch; HEAR's kit shuffles them once. ``resplit``: the share of the training items to test on.
    """

    modality: Modality = "audio"
    kind: Literal["linear", "logreg", "hear", "knn"] = "linear"
    by: Literal["topic", "label"] = "topic"
    multilabel: bool = False
    folds: bool = False
    resplit: float | None = Field(default=None, gt=0, lt=0.5)
    standardise: bool | None = None
    c: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] | None = None
    lr: Annotated[tuple[float, ...], Field(min_length=1)] = (3.2e-3, 1e-3, 3.2e-4, 1e-4)
    init: Annotated[tuple[trainer.Init, ...], Field(min_length=1)] = ("xavier_uniform", "xavier_normal")
    points: int = Field(default=8, ge=1)
    neighbours: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 5, 10, 20)
    epochs: int = Field(default=500, ge=1)
    every: int = Field(default=3, ge=1)  # epochs from one validation to the next
    patience: int = Field(default=20, ge=1)  # validations without a gain
    batch: int = Field(default=1024, ge=2)
    reshuffle: bool = False
    seed: int = 42
    device: str = "auto"

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Config:
        if self.kind == "hear" and self.standardise:
            raise ValueError("standardise: HEAR's predictor takes features as they are; use kind: linear")
        if self.folds and self.resplit is not None:
            raise ValueError("folds and resplit are two ways to split; keep one")
        return self

    @property
    def scaled(self) -> bool:
        return self.kind in ("logreg", "knn") if self.standardise is None else self.standardise


class Rows(NamedTuple):
    """Features and the classes of each row, as flags."""

    x: Float[np.ndarray, "n d"]
    y: Bool[np.ndarray, "n c"]

    def take(self, index: Int[np.ndarray, " k"]) -> Rows:
        return Rows(self.x[index], self.y[index])

    def join(self, other: Rows) -> Rows:
        return Rows(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))


def evaluate(cfg: Config, embed: Embed, data: EvalData) -> dict[str, float]:
    """Scores in percent; the keys are at the top of the file. Raises UserError for ``folds`` without three folds."""
    used = data.train if cfg.resplit is not None else data.train + data.valid + data.test
    items = {i.id: i for i in used if cfg.modality in i.sources and _labels(cfg, i)}
    classes = list(dict.fromkeys(label for item in items.values() for label in _labels(cfg, item)))
    if len(classes) < 2:
        return {"probe/N": 0.0}
    table = embed(list(items.values()), cfg.modality, "features")
    number = {name: i for i, name in enumerate(classes)}
    y = np.zeros((len(table), len(classes)), dtype=bool)
    for row, key in enumerate(table.ids):
        y[row, [number[label] for label in _labels(cfg, items[key])]] = True
    rows = Rows(table.vectors.double().cpu().numpy(), y)
    scores, tested, winner = [], 0, None
    for train, valid, test in _rotations(cfg, table.ids, items, data, y):
        predict, winner = FIT[cfg.kind](cfg, rows.take(train), rows.take(valid), winner)
        scores.append(100 * _quality(cfg, predict(rows.x[test]), rows.y[test]))
        tested += len(test)
    if not scores:
        return {"probe/N": 0.0}
    std = float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
    name = "probe/mAP" if cfg.multilabel else "probe/accuracy"
    return {name: float(np.mean(scores)), "probe/std": std, "probe/N": float(tested)}


def _labels(cfg: Config, item: Item) -> tuple[str, ...]:
    if cfg.multilabel:
        return item.labels
    return tuple(filter(None, [item.topic] if cfg.by == "topic" else item.labels[:1]))


def _rotations(
    cfg: Config, ids: tuple[str, ...], items: dict[str, Item], data: EvalData, y: Bool[np.ndarray, "n c"]
) -> list[folds.Rotation]:
    if cfg.folds:
        return folds.official(np.array([items[i].fold for i in ids]))
    return folds.splits(ids, data, y) if cfg.resplit is None else folds.internal(ids, cfg.resplit, y)


def _quality(cfg: Config, scores: Float[np.ndarray, "n c"], y: Bool[np.ndarray, "n c"]) -> float:
    if cfg.multilabel:
        return macro_average_precision(torch.from_numpy(scores), torch.from_numpy(y))
    return float(y[np.arange(len(scores)), scores.argmax(1)].mean())


def _scaler(cfg: Config, x: Float[np.ndarray, "n d"]) -> Callable[[np.ndarray], np.ndarray]:
    if not cfg.scaled:
        return lambda rows: rows
    mean, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    return lambda rows: (rows - mean) / spread


def _logreg(cfg: Config, train: Rows, valid: Rows, winner: None) -> tuple[Score, None]:
    def classifier(rows: Rows) -> Callable[[float], Score]:
        scale = _scaler(cfg, rows.x)
        problem = Logistic(scale(rows.x), rows.y, not cfg.multilabel, cfg.device)

        def fit(c: float) -> Score:
            predict = problem.fit(c)
            return lambda x: predict(scale(x))

        return fit

    fit = classifier(train)

    def value(c: float) -> float:
        return _quality(cfg, fit(c)(valid.x), valid.y)

    best = sweep(value) if cfg.c is None else max(cfg.c, key=value)  # max takes the first of equals
    return classifier(train.join(valid))(best), winner


def _knn(cfg: Config, train: Rows, valid: Rows, winner: None) -> tuple[Score, None]:
    def fit(k: int, rows: Rows) -> Score:
        scale = _scaler(cfg, rows.x)
        index = NearestNeighbors(n_neighbors=min(k, len(rows.x)), algorithm="brute").fit(scale(rows.x))
        return lambda x: rows.y[index.kneighbors(scale(x), return_distance=False)].mean(1)

    best = max(cfg.neighbours, key=lambda k: _quality(cfg, fit(k, train)(valid.x), valid.y))
    return fit(best, train.join(valid)), winner


def _trained(cfg: Config, train: Rows, valid: Rows, winner: trainer.Point | None) -> tuple[Score, trainer.Point]:
    """The trained probe, and the point of the grid that it has: the winner of an earlier rotation, or searched now."""
    draw = cfg.points if cfg.kind == "hear" else 0
    points = [winner] if winner else trainer.grid(LAYERS[cfg.kind], cfg.init, cfg.lr, draw)
    scale = _scaler(cfg, train.x)
    order = np.random.default_rng(cfg.seed).permutation(len(train.x))
    x, xv = (torch.from_numpy(scale(rows)).float() for rows in (train.x[order], valid.x))
    settings = trainer.Settings(
        epochs=cfg.epochs,
        every=cfg.every,
        patience=cfg.patience,
        batch=cfg.batch,
        reshuffle=cfg.reshuffle,
        ties=cfg.kind == "linear",
        seed=cfg.seed,
        device=cfg.device,
    )

    def value(logits: np.ndarray) -> float:
        return _quality(cfg, logits, valid.y)

    fitted = trainer.train(points, settings, x, train.y[order], xv, valid.y, value, not cfg.multilabel)
    best, found = trainer.best(points, fitted)
    return lambda rows: found.logits(torch.from_numpy(scale(rows)).float()), best


FIT = {"logreg": _logreg, "knn": _knn, "linear": _trained, "hear": _trained}
