"""Stripes with the probabilities of PANNs, counted by hand, and mixup in numbers."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from polymnia.ops.specaugment import mixup, mixup_weights, specaugment, stripes
from polymnia.types import UserError

CPU = torch.device("cpu")


def covered(length: int, width: int) -> list[float]:
    """The probability of each position to lie in one of two stripes: every width and start, counted one by one."""
    once = [Fraction(0)] * length
    widths = range(min(width, length))
    for wide in widths:
        for start in range(length - wide):
            for t in range(start, start + wide):
                once[t] += Fraction(1, len(widths) * (length - wide))
    return [float(1 - (1 - p) ** 2) for p in once]


@pytest.mark.parametrize(("length", "width"), [(64, 8), (100, 64), (64, 64), (63, 64), (20, 64), (2, 64)])
def test_each_position_is_covered_as_often_as_two_uniform_stripes_cover_it(length: int, width: int) -> None:
    torch.manual_seed(0)
    rows = 20_000
    found = stripes(rows, length, width, 2, CPU).double().mean(0).numpy()
    wanted = np.array(covered(length, width))
    error = np.sqrt(wanted * (1 - wanted) / rows) + 1e-9
    assert np.abs((found - wanted) / error).max() < 5


def test_a_stripe_has_each_width_below_the_limit_equally_often() -> None:
    torch.manual_seed(1)
    widths = stripes(20_000, 64, 8, 1, CPU).sum(1)
    counts = torch.bincount(widths, minlength=9)
    assert counts[8:].sum() == 0
    assert (counts[:8] - 2500).abs().max() < 5 * (20_000 * 1 / 8 * 7 / 8) ** 0.5


def test_a_row_has_at_most_two_runs_of_its_own() -> None:
    torch.manual_seed(2)
    mask = stripes(500, 300, 64, 2, CPU)
    begins = (mask[:, 1:] & ~mask[:, :-1]).sum(1) + mask[:, 0]
    assert begins.max() == 2
    assert len(mask.unique(dim=0)) > 490
    spread = mask.sum(1).double()  # rows drawn one by one: neighbours know nothing of each other
    assert abs(np.corrcoef(spread[:-1], spread[1:])[0, 1]) < 0.2


@pytest.mark.parametrize("frames", [1, 2, 31, 63, 64, 1001])
def test_any_picture_keeps_at_least_a_frame_and_a_band_and_the_rest_as_it_was(frames: int) -> None:
    torch.manual_seed(3)
    x = torch.randn(40, 64, frames) + 10
    before = x.clone()
    out = specaugment(x)
    assert torch.equal(x, before)
    assert torch.equal(out[out != 0], x[out != 0])
    gone = out == 0
    frames_gone, bands_gone = gone.all(1), gone.all(2)
    assert torch.equal(gone, frames_gone[:, None] | bands_gone[:, :, None])
    assert not frames_gone.all(1).any()
    assert frames_gone.any() == (frames > 1)


def test_the_same_seed_hides_the_same() -> None:
    x = torch.randn(4, 64, 100)
    torch.manual_seed(4)
    one = specaugment(x)
    torch.manual_seed(4)
    assert torch.equal(one, specaugment(x))
    assert not torch.equal(one, specaugment(x))


def test_mixup_weighs_neighbouring_rows_of_inputs_and_targets_alike() -> None:
    weight = torch.tensor([0.25, 0.75, 1.0, 0.0])
    x = torch.tensor([[[4.0, 8.0]], [[0.0, 4.0]], [[1.0, 2.0]], [[9.0, 9.0]]])
    assert mixup(x, weight).tolist() == [[[1.0, 5.0]], [[1.0, 2.0]]]
    assert mixup(torch.eye(4), weight).tolist() == [[0.25, 0.75, 0, 0], [0, 0, 1, 0]]


def test_mixup_weights_are_uniform_and_each_pair_adds_up_to_one() -> None:
    torch.manual_seed(5)
    weight = mixup_weights(20_000)
    assert torch.allclose(weight[0::2] + weight[1::2], torch.ones(20_000))
    assert abs(weight[0::2].mean() - 1 / 2) < 5 * (1 / 12 / 20_000) ** 0.5
    assert abs(weight[0::2].var() - 1 / 12) < 5 * (1 / 180 / 20_000) ** 0.5  # Var of (u - 1/2)^2: 1/80 - 1/144


@pytest.mark.parametrize(("rows", "weights"), [(3, 3), (4, 2), (4, 6)])
def test_rows_that_make_no_pairs_are_refused(rows: int, weights: int) -> None:
    with pytest.raises(UserError, match=f"got {rows} rows and {weights} weights"):
        mixup(torch.zeros(rows, 2), torch.zeros(weights))
