"""Ranks and average precision against brute force and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import normalize

from polymnia.ops import metrics
from polymnia.types import UserError


def brute_ranks(scores: np.ndarray, query_group: np.ndarray, gallery_group: np.ndarray) -> list[int]:
    out = []
    for row, group in zip(scores, query_group, strict=True):
        best = max(s for s, g in zip(row, gallery_group, strict=True) if g == group)
        out.append(1 + sum(1 for s, g in zip(row, gallery_group, strict=True) if g != group and s >= best))
    return out


def brute_precision(row: np.ndarray, positive: np.ndarray, k: int) -> float:
    """Sort with positives behind equals, walk down the list."""
    order = sorted(range(len(row)), key=lambda j: (-row[j], positive[j]))
    found, total = 0, 0.0
    for rank, j in enumerate(order[:k], start=1):
        if positive[j]:
            found += 1
            total += found / rank
    return total / min(int(positive.sum()), k)


def problem(seed: int, n: int = 23, m: int = 41, groups: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Small whole numbers: exact in float32, with ties everywhere."""
    g = torch.Generator().manual_seed(seed)
    queries, gallery = (torch.randint(-2, 3, (k, 4), generator=g).float() for k in (n, m))
    own = torch.cat([torch.arange(groups), torch.randint(groups, (m - groups,), generator=g)])
    return queries, gallery, torch.randint(groups, (n,), generator=g), own


@pytest.mark.parametrize("block", [1, 3, 64, 1024])
def test_ranks_equal_brute_force_with_ties_and_groups(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "NARROWEST", 2)
    for seed in range(5):
        queries, gallery, own, its = problem(seed)
        scores = queries.numpy() @ gallery.numpy().T
        got = metrics.ranks(queries, gallery, own, its, block=block)
        assert got.dtype == torch.int64
        assert got.tolist() == brute_ranks(scores, own.numpy(), its.numpy())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(3, 12))
def test_average_precisions_equal_a_walk_down_the_list(seed: int, k: int, m: int) -> None:
    queries, gallery, own, its = problem(seed, n=5, m=m, groups=3)
    scores, positive = queries.numpy() @ gallery.numpy().T, own.numpy()[:, None] == its.numpy()[None, :]
    capped = [brute_precision(s, p, k) for s, p in zip(scores, positive, strict=True)]
    whole = [brute_precision(s, p, m) for s, p in zip(scores, positive, strict=True)]
    assert metrics.average_precision_at(queries, gallery, own, its, k=k).tolist() == pytest.approx(capped, rel=1e-5)
    assert metrics.mean_average_precision(queries, gallery, own, its, block=2) == pytest.approx(np.mean(whole))


def test_five_captions_by_hand() -> None:
    # one clip, five captions at ranks 1, 3, 4, 11, 12: (1/1 + 2/3 + 3/4) / 5
    gallery = torch.arange(20, 0, -1).float()[:, None]
    its = torch.full((20,), 1)
    its[[0, 2, 3, 10, 11]] = 0
    query, own = torch.ones(1, 1), torch.zeros(1, dtype=torch.long)
    found = metrics.average_precision_at(query, gallery, own, its, k=10)
    assert found.tolist() == pytest.approx([(1 + 2 / 3 + 3 / 4) / 5])
    assert metrics.ranks(query, gallery, own, its).tolist() == [1]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1234567])
@pytest.mark.parametrize("captions", [1, 5])
def test_a_collapsed_encoder_scores_chance_or_worse(value: float, captions: int) -> None:
    # 209 rows leave a remainder in every kernel; equal rows may then differ in the last bit from column to column
    n = 209
    clips, texts = (
        normalize(torch.full((n, 37), value), dim=1),
        normalize(torch.full((n * captions, 37), value), dim=1),
    )
    own = torch.arange(n)
    its = own.repeat_interleave(captions)
    for sides in ((texts, clips, its, own), (clips, texts, own, its)):
        rank = metrics.ranks(*sides)
        for k in (1, 5, 10):
            assert metrics.recall_at(rank, k) <= k / n
        assert metrics.average_precision_at(*sides).mean() <= 10 / n
        assert metrics.mean_average_precision(*sides) < 0.05


def test_a_twin_in_another_group_stands_before_the_positive_whatever_its_column() -> None:
    clips = normalize(torch.randn(331, 65, generator=torch.Generator().manual_seed(0)), dim=1)
    order = torch.randperm(331, generator=torch.Generator().manual_seed(1))
    own = torch.arange(331)
    rank = metrics.ranks(clips, torch.cat([clips, clips[order]]), own, torch.cat([own, order + 1000]))
    assert rank.min() == 2


@pytest.mark.parametrize("n", [1, 2, 9])
def test_equal_gallery_rows_tie_to_the_last_bit_for_a_single_query_too(n: int) -> None:
    for seed in range(20):
        point = normalize(torch.randn(1, 65, generator=torch.Generator().manual_seed(seed)), dim=1)
        rank = metrics.ranks(point.repeat(n, 1), point.repeat(331, 1), torch.arange(n), torch.arange(331))
        assert rank.tolist() == [331] * n


def test_a_perfect_encoder_scores_everything() -> None:
    eye = torch.eye(12)
    own = torch.arange(12)
    rank = metrics.ranks(eye, eye, own, own)
    assert rank.tolist() == [1] * 12
    assert metrics.recall_at(rank, 1) == 1 and metrics.median_rank(rank) == 1
    assert metrics.mean_average_precision(eye, eye, own, own) == pytest.approx(1)


def test_recall_and_median_rank_by_hand() -> None:
    rank = torch.tensor([1, 4, 10, 11])
    assert [metrics.recall_at(rank, k) for k in (1, 5, 10, 11)] == [0.25, 0.5, 0.75, 1.0]
    assert metrics.median_rank(rank) == 7


def test_macro_average_precision_equals_scikit_learn_over_classes_with_a_positive() -> None:
    g = torch.Generator().manual_seed(3)
    scores, labels = torch.randn(200, 9, generator=g), torch.rand(200, 9, generator=g) < 0.2
    labels[:, 4] = False
    kept = [c for c in range(9) if c != 4]
    expected = average_precision_score(labels[:, kept].numpy(), scores[:, kept].numpy(), average="macro")
    assert metrics.macro_average_precision(scores, labels) == pytest.approx(expected, rel=1e-6)
    assert metrics.macro_average_precision(scores, labels.float(), block=2) == pytest.approx(expected, rel=1e-6)


def test_constant_class_scores_earn_less_than_the_share_of_positives() -> None:
    labels = torch.zeros(100, 1, dtype=torch.bool)
    labels[:10] = True
    assert metrics.macro_average_precision(torch.zeros(100, 1), labels) < 0.1


def test_no_product_holds_more_scores_than_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    product = metrics._product

    def watched(queries: Tensor, gallery: Tensor) -> Tensor:
        scores = product(queries, gallery)
        held.append(scores.numel())
        return scores

    monkeypatch.setattr(metrics, "_product", watched)
    rows, own = normalize(torch.randn(3000, 4, generator=torch.Generator().manual_seed(4)), dim=1), torch.arange(3000)
    metrics.ranks(rows, rows, own, own, block=512)
    assert sum(held) == 3000 * 3000 and max(held) <= 512**2
    for gallery in (1, 900, 5_000, 20_000, 32_768, 1_000_000):
        assert metrics._height(gallery, 1024) * gallery <= max(1024**2, metrics.NARROWEST * gallery)


def test_half_precision_and_gradients_are_no_obstacle() -> None:
    a = normalize(torch.randn(9, 8, generator=torch.Generator().manual_seed(5)), dim=1).half().requires_grad_()
    own = torch.arange(9)
    rank = metrics.ranks(a, a, own, own)
    assert rank.tolist() == [1] * 9 and not rank.requires_grad


def test_bad_input_is_refused() -> None:
    rows, own = torch.eye(3), torch.arange(3)
    with pytest.raises(UserError, match="1 of 3 queries have no positive"):
        metrics.ranks(rows, rows[:2], own, own[:2])
    with pytest.raises(UserError, match="NaN"):
        metrics.ranks(rows, rows * torch.nan, own, own)
    with pytest.raises(UserError, match="gallery"):
        metrics.mean_average_precision(rows[:0], rows, own[:0], own)
    with pytest.raises(UserError, match="no query"):
        metrics.recall_at(own[:0], 1)
    with pytest.raises(UserError, match="at least one positive"):
        metrics.macro_average_precision(rows, torch.zeros(3, 3))
