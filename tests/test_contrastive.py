"""Contrastive losses against explicit loops in numpy."""

import math

import numpy as np
import pytest
import torch

from polymnia.ops.contrastive import clip_loss, info_nce
from polymnia.types import UserError


def rows(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop(a: np.ndarray, b: np.ndarray, scale: float, positives: list[set[int]]) -> float:
    """Both directions, entry by entry; each positive of a row carries the same share of the target."""
    n = len(a)
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(n):
            logits = [
                scale * sum(x[i] * y[j]) / (math.sqrt(sum(x[i] ** 2)) * math.sqrt(sum(y[j] ** 2))) for j in range(n)
            ]
            log_total = math.log(sum(math.exp(z) for z in logits))
            for j in positives[i]:
                total += (log_total - logits[j]) / len(positives[i]) / n / 2
    return total


def test_clip_loss_is_the_double_loop() -> None:
    a, b = rows(7, 5, 0), rows(7, 5, 1)
    expected = loop(a.numpy(), b.numpy(), 14.3, [{i} for i in range(7)])
    assert clip_loss(a, b, 14.3).item() == pytest.approx(expected, rel=1e-12)


def test_rows_of_a_group_share_the_target_evenly() -> None:
    a, b = rows(6, 4, 2), rows(6, 4, 3)
    group = torch.tensor([4, 9, 4, 1, 4, 9])
    positives = [{0, 2, 4}, {1, 5}, {0, 2, 4}, {3}, {0, 2, 4}, {1, 5}]
    expected = loop(a.numpy(), b.numpy(), 3.0, positives)
    assert clip_loss(a, b, 3.0, group).item() == pytest.approx(expected, rel=1e-12)


def test_groups_of_one_change_nothing() -> None:
    a, b = rows(5, 3, 4), rows(5, 3, 5)
    torch.testing.assert_close(clip_loss(a, b, 7.0, torch.arange(5)), clip_loss(a, b, 7.0), rtol=1e-12, atol=0)


def test_collapsed_rows_cost_the_logarithm_of_the_batch() -> None:
    same = torch.ones(8, 3)
    assert clip_loss(same, same, 100.0).item() == pytest.approx(math.log(8), rel=1e-6)


def test_the_learned_scale_gets_its_gradient_and_row_length_does_not_matter() -> None:
    a, b = rows(4, 3, 6).requires_grad_(), rows(4, 3, 7)
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    loss = clip_loss(a, b, scale)
    loss.backward()
    step = 1e-6
    slope = (clip_loss(a, b, 5.0 + step) - clip_loss(a, b, 5.0 - step)) / (2 * step)
    assert scale.grad is not None and scale.grad.item() == pytest.approx(slope.item(), rel=1e-6)
    assert clip_loss(10 * a, 0.1 * b, 5.0).item() == pytest.approx(loss.item(), rel=1e-12)
    assert a.grad is not None and torch.allclose((a.grad * a).sum(1), torch.zeros(4, dtype=torch.float64))


def test_half_precision_targets_of_a_group_still_sum_to_one() -> None:
    a = torch.eye(3, dtype=torch.bfloat16)
    loss = clip_loss(a, a, 0.0, torch.zeros(3, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(3), rel=1e-6)


def test_info_nce_of_the_diagonal_both_ways_is_clip_loss() -> None:
    a, b = rows(6, 4, 8), rows(6, 4, 9)
    own = torch.arange(6)
    both = (info_nce(a, b, own, 9.0) + info_nce(b, a, own, 9.0)) / 2
    torch.testing.assert_close(both, clip_loss(a, b, 9.0), rtol=1e-12, atol=0)


def test_info_nce_by_hand() -> None:
    query = torch.tensor([[2.0, 0.0]])
    key = torch.tensor([[0.0, 3.0], [5.0, 0.0], [0.0, -1.0]])  # cosines 0, 1, 0
    expected = math.log(math.exp(2) + 2) - 2
    assert info_nce(query, key, torch.tensor([1]), 2).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 4)])
def test_empty_or_unpaired_rows_are_refused(n: int, m: int) -> None:
    with pytest.raises(UserError, match="clip_loss"):
        clip_loss(torch.ones(n, 2), torch.ones(m, 2), 1.0)


def test_wrong_lengths_of_groups_and_positives_are_refused() -> None:
    with pytest.raises(UserError, match="2 groups"):
        clip_loss(torch.ones(3, 2), torch.ones(3, 2), 1.0, torch.zeros(2, dtype=torch.long))
    with pytest.raises(UserError, match="1 positives"):
        info_nce(torch.ones(3, 2), torch.ones(4, 2), torch.zeros(1, dtype=torch.long), 1.0)
    with pytest.raises(UserError, match="keys"):
        info_nce(torch.ones(3, 2), torch.ones(0, 2), torch.zeros(3, dtype=torch.long), 1.0)
