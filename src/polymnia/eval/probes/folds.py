"""Which rows a probe trains on, chooses its settings by, and is tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int

from polymnia.types import EvalData, UserError

Name = TypeVar("Name")


class Rotation(NamedTuple):
    """Row numbers of the three parts."""

    train: Int[np.ndarray, " _"]
    valid: Int[np.ndarray, " _"]
    test: Int[np.ndarray, " _"]


def rotate(names: Sequence[Name]) -> list[tuple[list[Name], Name, Name]]:
    """k folds: test fold i, validation fold i + 1 mod k, the rest trains. Gives (train, valid, test) a rotation.

    Folds are sorted first. Raises UserError for fewer than three. Source: HEAR (Turian et al. 2022), as its kit does.
    """
    folds = sorted(set(names))  # type: ignore[type-var]
    if len(folds) < 3:
        raise UserError(f"probe: 'folds: true' needs three official folds or more, the data has {len(folds)}")
    following = folds[1:] + folds[:1]
    return [([f for f in folds if f not in (t, v)], v, t) for t, v in zip(folds, following, strict=True)]


def official(fold: Int[np.ndarray, " n"]) -> list[Rotation]:
    """A rotation for each fold. ``fold``: the fold of each row. Raises UserError for fewer than three folds."""
    return [
        Rotation(np.isin(fold, train).nonzero()[0], (fold == valid).nonzero()[0], (fold == test).nonzero()[0])
        for train, valid, test in rotate(fold.tolist())
    ]


def splits(ids: Sequence[str], data: EvalData, y: Bool[np.ndarray, "n c"]) -> list[Rotation]:
    """The task's own splits; without a validation split every tenth training row is lent, taken class by class.

    No rotation where a part is empty or training holds fewer than two classes.
    """
    names = [{item.id for item in part} for part in (data.train, data.valid, data.test)]
    train, valid, test = (np.array([r for r, i in enumerate(ids) if i in part], dtype=int) for part in names)
    if len(valid) == 0:
        by_class = train[np.argsort(y[train].argmax(1), kind="stable")]
        valid, train = by_class[::10], np.sort(np.delete(by_class, np.s_[::10]))
    return _usable(Rotation(train, valid, test), y)


def internal(ids: Sequence[str], share: float, y: Bool[np.ndarray, "n c"]) -> list[Rotation]:
    """A split by the hash of each id: ``share`` of the rows test, as many validate, the rest trains.

    The same item is on the same side whatever else is there. No rotation where a part is empty.
    """
    place = np.array([_place(i) for i in ids])
    test, valid = place < share, (place >= share) & (place < 2 * share)
    return _usable(Rotation((~test & ~valid).nonzero()[0], valid.nonzero()[0], test.nonzero()[0]), y)


def _place(key: str) -> float:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def _usable(found: Rotation, y: Bool[np.ndarray, "n c"]) -> list[Rotation]:
    return [found] if min(map(len, found)) and y[found.train].any(0).sum() > 1 else []
