"""Distillation terms against the papers' own way of writing them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, softmax

from polymnia.ops.distill import cosine_distance, feature_kl, feature_mse, kept_rows, relation_kl
from polymnia.types import UserError


def rows(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mod_x_in_place(new: Tensor, old: Tensor, temperature: float, partner: Tensor) -> Tensor:
    """Mod-X's public code: the old matrix's wrong rows are overwritten with the student's; both directions, halved."""
    total = torch.zeros((), dtype=new.dtype)
    for m, o, right in ((new, old, partner), (new.T, old.T, partner.T)):
        target = o.clone()
        for i in range(len(o)):
            if not right[i, int(np.argmax(o[i].detach().numpy()))]:
                target[i] = m[i].detach()
        total = total + kl_div(
            log_softmax(m / temperature, dim=1), softmax(target / temperature, dim=1), reduction="sum"
        )
    return total / 2


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "mean"])
def test_feature_kl_is_kl_div_with_the_student_written_first(reduction: str) -> None:
    student, teacher = rows(6, 9, 0), rows(6, 9, 1)
    divisor = {"batchmean": 6, "sum": 1, "mean": 6 * 9}[reduction]
    expected = kl_div(log_softmax(student, dim=1), softmax(teacher, dim=1), reduction="sum") / divisor
    torch.testing.assert_close(feature_kl(student, teacher, reduction=reduction), expected)


def test_feature_kl_by_hand() -> None:
    # sigma(teacher) = (3/4, 1/4), sigma(student) = (1/2, 1/2)
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert feature_kl(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_temperature_divides_both_sides_and_t2_scale_undoes_its_square() -> None:
    student, teacher = rows(4, 5, 2), rows(4, 5, 3)
    plain = feature_kl(student / 3, teacher / 3)
    torch.testing.assert_close(feature_kl(student, teacher, temperature=3.0), plain)
    torch.testing.assert_close(feature_kl(student, teacher, temperature=3.0, t2_scale=True), 9 * plain)


def test_normalising_first_equals_unit_rows() -> None:
    student, teacher = rows(4, 5, 4), rows(4, 5, 5)
    expected = feature_kl(normalize(student, dim=1), normalize(teacher, dim=1))
    torch.testing.assert_close(feature_kl(student, teacher, normalize=True), expected)


@pytest.mark.parametrize("distance", [feature_kl, cosine_distance, feature_mse])
def test_no_gradient_reaches_the_teacher_and_equal_features_cost_nothing(distance) -> None:
    student, teacher = rows(4, 5, 6).requires_grad_(), rows(4, 5, 7).requires_grad_()
    distance(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert distance(student, student).item() == pytest.approx(0, abs=1e-12)


def test_cosine_distance_and_mse_by_hand() -> None:
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 3.0], [0.0, 4.0]])
    assert cosine_distance(student, teacher).item() == pytest.approx(0.5)  # 1 - 0 and 1 - 1
    assert feature_mse(student, teacher).item() == pytest.approx((4 + 9 + 0 + 9) / 4)


@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_leaving_rows_out_is_overwriting_them_in_value_and_gradient(temperature: float) -> None:
    a, b = rows(12, 6, 8).requires_grad_(), rows(12, 6, 9).requires_grad_()
    # half right: noise strong enough that the teacher misses some partners
    old_a = rows(12, 4, 10)
    old_b = old_a + 1.0 * rows(12, 4, 11)
    new = normalize(a, dim=1) @ normalize(b, dim=1).T
    old = normalize(old_a, dim=1) @ normalize(old_b, dim=1).T
    expected = mod_x_in_place(new, old, temperature, torch.eye(12, dtype=torch.bool))
    wanted = torch.autograd.grad(expected, (a, b))
    loss = relation_kl(a, b, old_a, old_b, temperature=temperature)
    got = torch.autograd.grad(loss, (a, b))
    assert 0 < kept_rows(old_a, old_b).item() < 1
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-14)


def test_a_row_of_the_right_group_counts_as_the_partner() -> None:
    a, b, old_a = rows(8, 6, 12), rows(8, 6, 13), rows(8, 4, 14)
    old_b, group = old_a + rows(8, 4, 15), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    new = normalize(a, dim=1) @ normalize(b, dim=1).T
    old = normalize(old_a, dim=1) @ normalize(old_b, dim=1).T
    expected = mod_x_in_place(new, old, 1.0, group[:, None] == group[None, :])
    torch.testing.assert_close(relation_kl(a, b, old_a, old_b, group=group), expected)


def test_kept_rows_counts_both_directions() -> None:
    a = torch.eye(3)
    b = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.9, 0.1]])
    # a -> b: arg-max of the columns of b is 0, 2, 2, so rows 0 and 2 are right; b -> a: 0, 1, 1, so 0 and 1
    assert kept_rows(a, b).item() == pytest.approx(4 / 6)
    assert kept_rows(a, b, torch.tensor([0, 5, 5])).item() == pytest.approx(1.0)


def test_a_teacher_that_is_always_wrong_teaches_nothing_unless_align_is_off() -> None:
    a, b, old = rows(4, 6, 16).requires_grad_(), rows(4, 6, 17), rows(4, 4, 18)
    shifted = old.roll(1, 0)
    loss = relation_kl(a, b, old, shifted)
    loss.backward()
    assert loss.item() == 0 and a.grad is not None and not a.grad.any()
    assert relation_kl(a, b, old, shifted, align=False).item() > 0


def test_batchmean_divides_by_all_rows_and_the_teacher_gets_no_gradient() -> None:
    a, b = rows(5, 3, 19).requires_grad_(), rows(5, 3, 20)
    old_a, old_b = rows(5, 3, 21).requires_grad_(), rows(5, 3, 22).requires_grad_()
    whole = relation_kl(a, b, old_a, old_b, align=False)
    mean = relation_kl(a, b, old_a, old_b, align=False, reduction="batchmean")
    assert mean.item() == pytest.approx(whole.item() / 5)
    whole.backward()
    assert old_a.grad is None and old_b.grad is None and a.grad is not None


def test_without_the_diagonal_it_is_minus_infinity_there() -> None:
    a, b, old_a, old_b = (rows(4, 3, seed) for seed in (23, 24, 25, 26))
    new = (normalize(a, dim=1) @ normalize(b, dim=1).T).numpy()
    old = (normalize(old_a, dim=1) @ normalize(old_b, dim=1).T).numpy()
    expected = 0.0
    for m, o in ((new, old), (new.T, old.T)):
        for i in range(4):
            others = [j for j in range(4) if j != i]
            p, q = np.exp(o[i, others]), np.exp(m[i, others])
            p, q = p / p.sum(), q / q.sum()
            expected += (p * np.log(p / q)).sum() / 2
    got = relation_kl(a, b, old_a, old_b, align=False, exclude_diagonal=True)
    assert got.item() == pytest.approx(expected, rel=1e-10)
    single = relation_kl(a[:1], b[:1], old_a[:1], old_b[:1], exclude_diagonal=True)
    assert single.item() == 0  # nothing is left to compare


def test_wrong_shapes_and_temperatures_are_refused() -> None:
    with pytest.raises(UserError, match="shapes"):
        feature_kl(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(UserError, match="non-empty"):
        feature_mse(torch.ones(0, 3), torch.ones(0, 3))
    with pytest.raises(UserError, match="temperature"):
        feature_kl(torch.ones(2, 3), torch.ones(2, 3), temperature=0.0)
    with pytest.raises(UserError, match="temperature"):
        relation_kl(*[torch.ones(2, 3)] * 4, temperature=-1.0)
