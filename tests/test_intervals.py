"""Intervals against tables, scipy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from polymnia.eval import intervals
from polymnia.types import UserError


def test_three_seeds_by_hand() -> None:
    # mean 12, deviations -2, 0, 2: variance 8 / 2; t_{0.975, 2} = 4.302653 (any t table)
    got = intervals.over_seeds([10.0, 12.0, 14.0])
    assert (got.mean, got.std, got.n) == (12.0, 2.0, 3)
    assert got.high - got.mean == pytest.approx(4.302653 * 2 / math.sqrt(3), rel=1e-6)
    assert got.mean - got.low == pytest.approx(got.high - got.mean)


def test_the_t_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(50, 7, 11)
    low, high = stats.t.interval(0.9, 10, values.mean(), stats.sem(values))
    got = intervals.over_seeds(values, level=0.9)
    assert (got.low, got.high) == pytest.approx((low, high))


def test_one_seed_has_a_mean_and_no_spread() -> None:
    got = intervals.over_seeds([3])
    assert got.mean == 3 and got.n == 1
    assert all(math.isnan(x) for x in (got.std, got.low, got.high))


def test_the_bootstrap_agrees_with_a_loop_over_the_same_draws() -> None:
    a, b = np.array([100.0, 0.0, 100.0, 100.0]), np.array([0.0, 0.0, 100.0, 0.0])
    drawn = np.random.default_rng(5).integers(4, size=(300, 4))
    means = sorted(sum(a[q] - b[q] for q in row) / 4 for row in drawn)
    got = intervals.paired_bootstrap(a, b, resamples=300, seed=5)
    assert got.mean == 50
    assert (got.low, got.high) == pytest.approx((np.percentile(means, 2.5), np.percentile(means, 97.5)))


def test_the_bootstrap_interval_is_the_normal_one_for_many_queries() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 30, 2000)  # what both methods share; an unpaired interval would be ten times as wide
    a, b = hard + rng.normal(1, 2, 2000), hard + rng.normal(0, 2, 2000)
    half = 1.96 * (a - b).std() / math.sqrt(2000)
    got = intervals.paired_bootstrap(a, b, resamples=2000)
    assert got.high - got.low == pytest.approx(2 * half, rel=0.1)
    assert got.low < 1 < got.high


def test_the_bootstrap_repeats_itself_in_one_piece_or_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random(50), rng.random(50)
    first = intervals.paired_bootstrap(a, b, resamples=500, seed=7)
    assert intervals.paired_bootstrap(a, b, resamples=500, seed=7) == first
    assert intervals.paired_bootstrap(a, b, resamples=500, seed=8) != first
    monkeypatch.setattr(intervals, "RESAMPLED_AT_ONCE", 60 * 50)
    assert intervals.paired_bootstrap(a, b, resamples=500, seed=7) == first


def test_a_stratified_bootstrap_agrees_with_a_loop_over_the_same_draws() -> None:
    a, b = [[100.0, 0.0, 100.0], [0.0, 100.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 100.0], [0.0, 0.0, 0.0, 100.0, 0.0]]
    rng = np.random.default_rng(5)
    drawn = [rng.integers(len(x), size=(300, len(x))) for x in a]
    means = [
        sum(sum(x[q] - y[q] for q in rows[r]) / len(x) for x, y, rows in zip(a, b, drawn, strict=True)) / 2
        for r in range(300)
    ]
    got = intervals.stratified_bootstrap(a, b, resamples=300, seed=5)
    assert got.mean == pytest.approx((100 / 3 + 0) / 2)
    assert (got.low, got.high) == pytest.approx((np.percentile(means, 2.5), np.percentile(means, 97.5)))


def test_strata_weigh_the_same_whatever_their_size() -> None:
    # the variance of a mean of two independent means: (s1^2 / n1 + s2^2 / n2) / 4
    rng = np.random.default_rng(3)
    few, many = rng.normal(10, 20, 100), rng.normal(0, 5, 4000)
    got = intervals.stratified_bootstrap([few, many], [np.zeros(100), np.zeros(4000)], resamples=4000)
    half = 1.96 * math.sqrt(few.var() / 100 + many.var() / 4000) / 2
    assert got.mean == pytest.approx((few.mean() + many.mean()) / 2)
    assert got.high - got.low == pytest.approx(2 * half, rel=0.07)


def test_one_stratum_is_the_plain_bootstrap() -> None:
    a, b = np.random.default_rng(4).random((2, 40))
    assert intervals.stratified_bootstrap([a], [b], resamples=200) == intervals.paired_bootstrap(a, b, resamples=200)


def test_equal_methods_differ_by_nothing() -> None:
    assert intervals.paired_bootstrap([1.0, 0.0, 1.0], [1.0, 0.0, 1.0]) == (0.0, 0.0, 0.0)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="same queries"):
        intervals.paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(UserError, match="same queries"):
        intervals.stratified_bootstrap([[1.0], [1.0]], [[1.0]])
    with pytest.raises(UserError, match="same queries"):
        intervals.stratified_bootstrap([], [])
    with pytest.raises(UserError, match="0 values"):
        intervals.stratified_bootstrap([[1.0], []], [[1.0], []])
    with pytest.raises(UserError, match="0 values"):
        intervals.over_seeds([])
    with pytest.raises(UserError, match="level"):
        intervals.over_seeds([1.0, 2.0], level=95.0)
