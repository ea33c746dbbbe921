"""The contrastive and the Mod-X loss a few rows at a time: the same value and gradient, without the square."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from polymnia.ops.contrastive import clip_loss
from polymnia.ops.distill import kept_rows, relation_kl

N, D = 13, 5
BLOCKS = [1, 4, 5, 12, 13, 50]
Loss = Callable[[Tensor, Tensor, Tensor, int | None], Tensor]


def draws() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(N, D, generator=g, dtype=torch.double) for _ in range(2))
    old = a + 0.3 * torch.randn(N, D, generator=g, dtype=torch.double)
    return a, b, old, b + 0.0, torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 8])


def with_gradient(loss: Loss, block: int | None) -> list[Tensor]:
    """The value, and the gradient of both sides and of the scale."""
    a, b, *_ = draws()
    leaves = [a.requires_grad_(), b.requires_grad_(), torch.tensor(3.0, dtype=torch.double, requires_grad=True)]
    value = loss(*leaves, block)
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    return [value.detach(), *(torch.zeros(()) if g is None else g for g in grads)]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("grouped", [False, True])
def test_the_blocked_clip_loss_has_the_value_and_gradient_of_the_whole(block: int, grouped: bool) -> None:
    group = draws()[4] if grouped else None
    found, whole = (with_gradient(lambda a, b, s, n: clip_loss(a, b, s, group, n), n) for n in (block, None))
    assert all(torch.allclose(x, y, rtol=1e-12) for x, y in zip(found, whole, strict=True))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("align", "diagonal", "grouped", "reduction"),
    [*itertools.product([False, True], [False, True], [False, True], ["sum"]), (True, False, False, "batchmean")],
)
def test_the_blocked_relation_loss_has_the_value_and_gradient_of_the_whole(
    block: int, align: bool, diagonal: bool, grouped: bool, reduction: str
) -> None:
    _, _, old_a, old_b, groups = draws()
    group = groups if grouped else None

    def loss(a: Tensor, b: Tensor, scale: Tensor, n: int | None) -> Tensor:
        # Two rows of b are exchanged, so that the old model is right in some rows only.
        near = torch.where(torch.arange(N)[:, None] < 4, old_a, old_b)
        turned = near.index_copy(0, torch.tensor([2, 3]), old_a[[3, 2]])
        return relation_kl(a, b, old_a, turned, 0.2, align, reduction, diagonal, group, n)

    found, whole = (with_gradient(loss, n) for n in (block, None))
    assert whole[0] > 0
    assert all(torch.allclose(x, y, rtol=1e-12, atol=1e-15) for x, y in zip(found, whole, strict=True))


@pytest.mark.parametrize("block", BLOCKS)
def test_the_share_of_kept_rows_does_not_depend_on_the_blocks(block: int) -> None:
    _, b, old_a, _, group = draws()
    assert kept_rows(old_a, b, block=block) == kept_rows(old_a, b)
    assert kept_rows(old_a, b, group, block) == kept_rows(old_a, b, group)


def largest_kept(loss: Callable[[], Tensor]) -> int:
    """The greatest number of values that a forward pass keeps in one tensor for the backward pass."""
    sizes = [0]

    def keep(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss().backward()
    return max(sizes)


def test_no_square_is_kept_for_the_backward_pass() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 8, generator=g).requires_grad_() for _ in range(2))
    scale = torch.tensor(10.0)
    for blocked, whole in (
        (lambda: clip_loss(a, b, scale, block=16), lambda: clip_loss(a, b, scale)),
        (
            lambda: relation_kl(a, b, a.detach(), b.detach(), align=False, block=16),
            lambda: relation_kl(a, b, a.detach(), b.detach(), align=False),
        ),
    ):
        assert largest_kept(whole) == 256 * 256
        assert largest_kept(blocked) <= 16 * 256
