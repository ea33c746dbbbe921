"""Distances that hold a student near its teacher: features (LwF, CaSSLe, DER) and relations (Mod-X).

No gradient ever reaches a teacher argument. LwF: Li & Hoiem, "Learning without Forgetting", ECCV 2016, on features as
in the continual audio pre-training paper. Mod-X: Ni et al., "Continual Vision-Language Representation Learning with
Off-Diagonal Information", ICML 2023, equations 5-7. DER: Buzzega et al., "Dark Experience", NeurIPS 2020, equation 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div, log_softmax, mse_loss
from torch.nn.functional import normalize as unit
from torch.utils.checkpoint import checkpoint

from polymnia.types import UserError


def feature_kl(
    student: Float[Tensor, "n d"],
    teacher: Float[Tensor, "m e"],
    temperature: float = 1.0,
    normalize: bool = False,
    reduction: Literal["batchmean", "sum", "mean"] = "batchmean",
    t2_scale: bool = False,
) -> Float[Tensor, ""]:
    """KL(teacher || student) of the softmax over the feature axis, in nats.

    sum_c sigma_c(v/T) [ ln sigma_c(v/T) - ln sigma_c(u/T) ] with u the student's and v the teacher's row.

    ``normalize`` brings rows to unit norm first; at T = 1 that makes the term almost nothing (2e-4 nats at d = 512).
    ``reduction``: mean over rows, sum over everything, or mean over everything. ``t2_scale`` multiplies by T^2, which
    keeps the size of the gradient when T changes (Hinton et al. 2015).
    Raises UserError for empty or unequal shapes and for a temperature that is not positive.
    """
    _check(student, teacher, temperature)
    teacher = teacher.detach()
    if normalize:
        student, teacher = unit(student, dim=-1), unit(teacher, dim=-1)
    rows = _kl(teacher / temperature, student / temperature)
    loss = rows.sum() if reduction == "sum" else rows.mean()
    if reduction == "mean":
        loss = loss / student.shape[1]
    return loss * temperature**2 if t2_scale else loss


def relation_kl(  # noqa: PLR0913 (four matrices and the paper's five switches)
    student_a: Float[Tensor, "n d"],
    student_b: Float[Tensor, "n d"],
    teacher_a: Float[Tensor, "n e"],
    teacher_b: Float[Tensor, "n e"],
    temperature: float = 1.0,
    align: bool = True,
    reduction: Literal["sum", "batchmean"] = "sum",
    exclude_diagonal: bool = False,
    group: Int[Tensor, " n"] | None = None,
    block: int | None = None,
) -> Float[Tensor, ""]:
    """Mod-X: the student's cosine similarities between two modalities of a batch follow the teacher's, in nats.

    1/2 sum_{directions} sum_i m_i KL( softmax(O_i / T) || softmax(M_i / T) ),  m_i = [arg-max_j O_ij is i's partner]
    with M = cos(student_a, student_b) and O = cos(teacher_a, teacher_b).

    The paper overwrites the rows that the teacher gets wrong with the student's own; KL(P || P) has zero value and
    zero gradient, so leaving them out is the same. ``align=False`` keeps every row. ``group`` lets any row of the
    right group count as the partner. ``exclude_diagonal`` takes entry (i, i) out of both softmaxes (never out of the
    arg-max test). ``batchmean`` divides by all n rows, kept or not. With ``block`` only so many rows of M and O are
    there at a time, forward and backward, for one more matrix product: block x n numbers, never n x n.
    Raises UserError for an empty batch and for a temperature that is not positive.
    """
    _check(student_a, student_b, temperature)
    n, rule = len(student_a), _Rule(temperature, align, exclude_diagonal, group)
    total = student_a.new_zeros(())
    if block is None or block >= n:
        old = _cosines(teacher_a, teacher_b).detach()
        new = _cosines(student_a, student_b)
        for o, m in ((old, new), (old.T, new.T)):
            total = total + _kept_kl(o, m, 0, rule) / 2
        return total if reduction == "sum" else total / n
    new_a, new_b, old_a, old_b = (unit(x, dim=-1) for x in (student_a, student_b, teacher_a, teacher_b))
    for sides in ((old_a.detach(), old_b.detach(), new_a, new_b), (old_b.detach(), old_a.detach(), new_b, new_a)):
        for start in range(0, n, block):
            rows = slice(start, start + block)
            total = total + checkpoint(_block_kl, *sides, rows, rule, use_reentrant=False) / 2
    return total if reduction == "sum" else total / n


class _Rule(NamedTuple):
    """Which rows of a relation count, and how; see ``relation_kl``."""

    temperature: float
    align: bool
    exclude_diagonal: bool
    group: Int[Tensor, " n"] | None


def _block_kl(
    old_a: Float[Tensor, "n e"],
    old_b: Float[Tensor, "n e"],
    new_a: Float[Tensor, "n d"],
    new_b: Float[Tensor, "n d"],
    rows: slice,
    rule: _Rule,
) -> Float[Tensor, ""]:
    """Some rows of one direction; computed again in the backward pass."""
    return _kept_kl(old_a[rows] @ old_b.T, new_a[rows] @ new_b.T, rows.start, rule)


def _kept_kl(old: Float[Tensor, "r n"], new: Float[Tensor, "r n"], start: int, rule: _Rule) -> Float[Tensor, ""]:
    """The sum over those rows, ``start`` and on, that the teacher gets right."""
    kept = _partner_found(old, rule.group, start) if rule.align else torch.ones_like(old[:, 0], dtype=torch.bool)
    if rule.exclude_diagonal:
        old, new = _off_diagonal(old, start), _off_diagonal(new, start)
    return (_kl(old / rule.temperature, new / rule.temperature) * kept).sum()


def kept_rows(
    teacher_a: Float[Tensor, "n d"],
    teacher_b: Float[Tensor, "n d"],
    group: Int[Tensor, " n"] | None = None,
    block: int | None = None,
) -> Float[Tensor, ""]:
    """Share (0 to 1) of rows, over both directions, that ``relation_kl`` keeps: how much of Mod-X is at work."""
    a, b = unit(teacher_a, dim=-1).detach(), unit(teacher_b, dim=-1).detach()
    found = [
        _partner_found(rows @ columns.T, group, start)
        for one, columns in ((a, b), (b, a))
        for start, rows in _blocks(one, block)
    ]
    return torch.cat(found).float().mean()


def _blocks(rows: Float[Tensor, "n d"], block: int | None) -> Iterator[tuple[int, Float[Tensor, "r d"]]]:
    """Rows, so many at a time, with the place of the first."""
    start = 0
    for some in rows.split(block or len(rows)):
        yield start, some
        start += len(some)


def cosine_distance(student: Float[Tensor, "n d"], teacher: Float[Tensor, "m e"]) -> Float[Tensor, ""]:
    """Mean over rows of 1 - cos(student, teacher), from 0 to 2. Raises UserError for empty or unequal shapes."""
    _check(student, teacher)
    return (1 - cosine_similarity(student, teacher.detach(), dim=-1)).mean()


def feature_mse(student: Float[Tensor, "n d"], teacher: Float[Tensor, "m e"]) -> Float[Tensor, ""]:
    """Mean over rows and features of (student - teacher)^2 (DER). Raises UserError for empty or unequal shapes."""
    _check(student, teacher)
    return mse_loss(student, teacher.detach())


def _check(student: Tensor, other: Tensor, temperature: float = 1.0) -> None:
    if student.shape != other.shape or len(student) == 0:
        raise UserError(f"distillation needs equal, non-empty shapes, got {student.shape} and {other.shape}")
    if not temperature > 0:
        raise UserError(f"temperature must be positive, got {temperature}")


def _kl(true: Float[Tensor, "n d"], approximate: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """KL( softmax(true) || softmax(approximate) ) of each row of logits."""
    logs = log_softmax(approximate, dim=-1), log_softmax(true, dim=-1)
    return kl_div(*logs, reduction="none", log_target=True).sum(-1)


def _cosines(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    return unit(a, dim=-1) @ unit(b, dim=-1).T


def _partner_found(old: Float[Tensor, "r n"], group: Int[Tensor, " n"] | None, start: int = 0) -> Bool[Tensor, " r"]:
    top = old.argmax(1)
    place = torch.arange(start, start + len(old), device=old.device)
    return top == place if group is None else group[top] == group[place]


def _off_diagonal(rows: Float[Tensor, "r n"], start: int) -> Float[Tensor, "r k"]:
    # Dropping the entry, not filling it with -inf: the KL of two -inf would be NaN.
    r, n = rows.shape
    own = torch.arange(n, device=rows.device) == torch.arange(start, start + r, device=rows.device)[:, None]
    return rows[~own].reshape(r, n - 1)
