"""Probes: how well a small classifier reads labels from frozen features (the encoder's output, never the projection).

- ``logreg``: L2-regularised logistic regression (L-BFGS); C chosen on validation by a log sweep, then refit on the
  training and validation rows together. CLIP's protocol (Radford et al. 2021, appendix A.3) on a coarser grid.
- ``linear``: one linear layer, Adam, learning rate from a grid and early stopping on validation. The trainer of HEAR
  (Turian et al. 2022) without hidden layers; as there, later folds reuse the learning rate of the first.
- ``knn``: votes of the k nearest rows by Euclidean distance, k chosen on validation.

With ``folds`` the official folds rotate: test fold i, validation fold i + 1, training on the rest. Without, the task's
splits are used; a set that has no validation split lends every tenth training row, taken class by class.

Keys: ``probe/accuracy`` (percent; ``probe/mAP``, macro over classes with a positive, if ``multilabel``), ``probe/std``
(sample standard deviation over folds, 0 without), ``probe/N`` (rows tested). A task that has no labels, fewer than two
classes, or nothing to train or test on gives N = 0 and no score.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from polymnia.config import Frozen
from polymnia.ops.metrics import macro_average_precision
from polymnia.types import Embed, EvalData, Item, Modality, UserError

Score = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n c"]]
Rotation = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"], Int[np.ndarray, " _"]]  # rows of train, valid, test

PROJECTED = False  # reads features, which no projection head changes


class Config(Frozen):
    """``by``: the class is the topic or the first label; ``multilabel``: all labels. The grids are tried in order."""

    modality: Modality = "audio"
    kind: Literal["logreg", "linear", "knn"] = "logreg"
    by: Literal["topic", "label"] = "topic"
    multilabel: bool = False
    folds: bool = False
    standardise: bool = True
    c: Annotated[tuple[float, ...], Field(min_length=1)] = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
    lr: Annotated[tuple[float, ...], Field(min_length=1)] = (3.2e-3, 1e-3, 3.2e-4, 1e-4)
    neighbours: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 5, 10, 20)
    epochs: int = Field(default=500, ge=1)
    patience: int = 20  # validations without a gain, one every three epochs
    batch: int = 1024
    seed: int = 0


class Rows(NamedTuple):
    """Features and the classes of each row, as flags."""

    x: Float[np.ndarray, "n d"]
    y: Bool[np.ndarray, "n c"]

    def take(self, index: Int[np.ndarray, " k"]) -> Rows:
        return Rows(self.x[index], self.y[index])


def evaluate(cfg: Config, embed: Embed, data: EvalData) -> dict[str, float]:
    """Scores in percent; the keys are at the top of the file. Raises UserError for ``folds`` without three folds."""
    items = {i.id: i for i in data.train + data.valid + data.test if cfg.modality in i.sources and _labels(cfg, i)}
    classes = list(dict.fromkeys(label for item in items.values() for label in _labels(cfg, item)))
    if len(classes) < 2:
        return {"probe/N": 0.0}
    table = embed(list(items.values()), cfg.modality, "features")
    number = {name: i for i, name in enumerate(classes)}
    y = np.zeros((len(table), len(classes)), dtype=bool)
    for row, key in enumerate(table.ids):
        y[row, [number[label] for label in _labels(cfg, items[key])]] = True
    rows = Rows(table.vectors.double().cpu().numpy(), y)
    rotations = _official(table.ids, items) if cfg.folds else _splits(table.ids, data, y)
    scores, tested, grid = [], 0, {"logreg": cfg.c, "linear": cfg.lr, "knn": cfg.neighbours}[cfg.kind]
    for train, valid, test in rotations:
        predict, winner = _choose(cfg, grid, rows.take(train), rows.take(valid))
        scores.append(100 * _quality(cfg, predict, rows.take(test)))
        tested += len(test)
        grid = (winner,) if cfg.kind == "linear" else grid
    if not scores:
        return {"probe/N": 0.0}
    std = float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
    name = "probe/mAP" if cfg.multilabel else "probe/accuracy"
    return {name: float(np.mean(scores)), "probe/std": std, "probe/N": float(tested)}


def _labels(cfg: Config, item: Item) -> tuple[str, ...]:
    if cfg.multilabel:
        return item.labels
    return tuple(filter(None, [item.topic] if cfg.by == "topic" else item.labels[:1]))


def _official(ids: Sequence[str], items: dict[str, Item]) -> list[Rotation]:
    fold = np.array([items[i].fold for i in ids])
    names = np.unique(fold)
    if len(names) < 3:
        raise UserError(f"probe: 'folds: true' needs three official folds or more, the data has {len(names)}")
    following = np.roll(names, -1)
    masks = [(~np.isin(fold, (f, v)), fold == v, fold == f) for f, v in zip(names, following, strict=True)]
    return [(train.nonzero()[0], valid.nonzero()[0], test.nonzero()[0]) for train, valid, test in masks]


def _splits(ids: Sequence[str], data: EvalData, y: Bool[np.ndarray, "n c"]) -> list[Rotation]:
    names = [{item.id for item in part} for part in (data.train, data.valid, data.test)]
    train, valid, test = (np.array([r for r, i in enumerate(ids) if i in part], dtype=int) for part in names)
    if len(valid) == 0:
        by_class = train[np.argsort(y[train].argmax(1), kind="stable")]
        valid, train = by_class[::10], np.sort(np.delete(by_class, np.s_[::10]))
    return [(train, valid, test)] if min(len(train), len(valid), len(test)) and y[train].any(0).sum() > 1 else []


def _choose(cfg: Config, grid: Sequence[float | int], train: Rows, valid: Rows) -> tuple[Score, float | int]:
    """The classifier of the setting that is best on validation (the first of equals), and that setting."""
    fitted = [_fit(cfg, setting, train, valid) for setting in grid]
    best = int(np.argmax([_quality(cfg, predict, valid) for predict in fitted]))
    if cfg.kind == "linear":  # its early stopping needs the validation rows: no refit
        return fitted[best], grid[best]
    both = Rows(np.concatenate([train.x, valid.x]), np.concatenate([train.y, valid.y]))
    return _fit(cfg, grid[best], both, valid), grid[best]


def _quality(cfg: Config, predict: Score, rows: Rows) -> float:
    scores = predict(rows.x)
    if cfg.multilabel:
        return macro_average_precision(torch.from_numpy(scores), torch.from_numpy(rows.y))
    return float(rows.y[np.arange(len(scores)), scores.argmax(1)].mean())


def _fit(cfg: Config, setting: float | int, train: Rows, valid: Rows) -> Score:
    mean, spread = (train.x.mean(0), train.x.std(0)) if cfg.standardise else (0.0, np.ones(train.x.shape[1]))
    spread = np.where(spread > 0, spread, 1.0)

    def scale(x: np.ndarray) -> np.ndarray:
        return (x - mean) / spread

    fit = {"logreg": _logreg, "linear": _linear, "knn": _knn}[cfg.kind]
    predict = fit(cfg, setting, Rows(scale(train.x), train.y), Rows(scale(valid.x), valid.y))
    return lambda x: predict(scale(x))


def _logreg(cfg: Config, c: float, train: Rows, valid: Rows) -> Score:
    # One column of targets for one class out of many, else one a class that some but not all rows have.
    known = train.y.any(0) & ~train.y.all(0)
    targets = train.y[:, known].T if cfg.multilabel else [train.y.argmax(1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1000 iterations are the protocol, converged or not
        models = [LogisticRegression(C=c, max_iter=1000).fit(train.x, target) for target in targets]

    def predict(x: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(x), train.y.shape[1]))
        if cfg.multilabel:
            scores[:, known] = np.stack([model.decision_function(x) for model in models], axis=1)
        else:
            scores[:, models[0].classes_] = models[0].predict_proba(x)
        return scores

    return predict


def _knn(cfg: Config, k: int, train: Rows, valid: Rows) -> Score:
    index = NearestNeighbors(n_neighbors=min(k, len(train.x)), algorithm="brute").fit(train.x)
    return lambda x: train.y[index.kneighbors(x, return_distance=False)].mean(1)


def _linear(cfg: Config, lr: float, train: Rows, valid: Rows) -> Score:
    x, y = torch.from_numpy(train.x).float(), torch.from_numpy(train.y).float()
    # The problem is convex: starting from zero costs nothing and leaves the global random stream alone.
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=lr)
    loss = binary_cross_entropy_with_logits if cfg.multilabel else cross_entropy
    shuffle = torch.Generator().manual_seed(cfg.seed)
    best, kept, waited = (-1.0, 0.0), (weight, bias), 0
    xv, yv = torch.from_numpy(valid.x).float(), torch.from_numpy(valid.y).float()

    def score_with(w: torch.Tensor, b: torch.Tensor) -> Score:
        return lambda q: (torch.from_numpy(q).float() @ w + b).double().numpy()

    for epoch in range(1, cfg.epochs + 1):
        for rows in torch.randperm(len(x), generator=shuffle).split(cfg.batch):
            optimizer.zero_grad()
            loss(x[rows] @ weight + bias, y[rows]).backward()
            optimizer.step()
        if epoch % 3 and epoch < cfg.epochs:
            continue
        now = (weight.detach().clone(), bias.detach().clone())
        # Among equal scores the lower loss: a small, easy set reaches its best score long before it is fitted.
        gain = (_quality(cfg, score_with(*now), valid), -loss(xv @ now[0] + now[1], yv).item())
        waited = 0 if gain > best else waited + 1
        best, kept = (gain, now) if gain > best else (best, kept)
        if waited >= cfg.patience:
            break
    return score_with(*kept)
