"""How sure a number is: spread over seeds, and a paired bootstrap over queries for the difference of two methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from polymnia.types import UserError

Values = Sequence[float | int] | np.ndarray
RESAMPLED_AT_ONCE = 4_000_000  # entries: 32 MB of row numbers, whatever the number of queries


class Spread(NamedTuple):
    """A mean over n seeds, its sample standard deviation, and the ends of its interval; NaN where n = 1."""

    mean: float
    std: float
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """The mean of a - b over queries, and the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float


def over_seeds(values: Values, level: float = 0.95) -> Spread:
    """Mean, sample standard deviation (n - 1) and Student's t interval: mean +- t_{(1+level)/2, n-1} std / sqrt(n).

    Units are those of ``values``, one a seed. Raises UserError for no values and a level outside (0, 1).
    """
    x = _checked(values, level)
    n, mean = len(x), float(x.mean())
    if n == 1:
        return Spread(mean, np.nan, np.nan, np.nan, 1)
    std = float(x.std(ddof=1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * std / n**0.5
    return Spread(mean, std, mean - half, mean + half, n)


def paired_bootstrap(a: Values, b: Values, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Difference:
    """Percentile interval of the mean difference a - b when the queries are drawn anew, with replacement.

    ``a[q]`` and ``b[q]`` are the scores of two methods on the same query (say 100 for a hit and 0 for a miss), so that
    what makes a query hard cancels out. Captions of one clip are not independent queries: average them first.
    The same ``seed`` gives the same interval. Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13.
    Raises UserError for empty or unequal lists, no resamples, and a level outside (0, 1).
    """
    return stratified_bootstrap([a], [b], level, resamples, seed)


def stratified_bootstrap(
    a: Sequence[Values], b: Sequence[Values], level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """``paired_bootstrap`` for the mean over strata (say tasks) of each one's mean difference, whatever its size.

    ``a[s]`` and ``b[s]`` are the scores on the queries of stratum s. Queries are drawn anew within their stratum.
    Raises UserError as ``paired_bootstrap`` does, and without any stratum.
    """
    sizes = [(len(x), len(y)) for x, y in zip(a, b, strict=False)]
    if not sizes or len(a) != len(b) or any(m != n for m, n in sizes) or resamples < 1:
        raise UserError(f"a paired bootstrap needs the same queries twice, got {sizes} ({resamples=})")
    strata = [_checked(x, level) - _checked(y, level) for x, y in zip(a, b, strict=True)]
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled(difference, resamples, rng) for difference in strata], axis=0)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(np.mean([difference.mean() for difference in strata])), float(low), float(high))


def _resampled(
    difference: Float[np.ndarray, " n"], resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, " resamples"]:
    n = len(difference)
    block = max(1, RESAMPLED_AT_ONCE // n)
    means = [
        difference[rng.integers(n, size=(min(block, resamples - start), n))].mean(1)
        for start in range(0, resamples, block)
    ]
    return np.concatenate(means)


def _checked(values: Values, level: float) -> Float[np.ndarray, " n"]:
    if len(values) == 0 or not 0 < level < 1:
        raise UserError(f"an interval needs values and a level between 0 and 1, got {len(values)} values, {level=}")
    return np.asarray(values, dtype=np.float64)
