"""Distances that hold a student near its teacher: features (LwF, CaSSLe, DER) and relations (Mod-X).

No gradient ever reaches a teacher argument. LwF: Li & Hoiem, "Learning without Forgetting", ECCV 2016, on features as
in the continual audio pre-training paper. Mod-X: Ni et al., "Continual Vision-Language Representation Learning with
Off-Diagonal Information", ICML 2023, equations 5-7. DER: Buzzega et al., "Dark Experience", NeurIPS 2020, equation 5.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div, log_softmax, mse_loss
from torch.nn.functional import normalize as unit

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
) -> Float[Tensor, ""]:
    """Mod-X: the student's cosine similarities between two modalities of a batch follow the teacher's, in nats.

    1/2 sum_{directions} sum_i m_i KL( softmax(O_i / T) || softmax(M_i / T) ),  m_i = [arg-max_j O_ij is i's partner]
    with M = cos(student_a, student_b) and O = cos(teacher_a, teacher_b).

    The paper overwrites the rows that the teacher gets wrong with the student's own; KL(P || P) has zero value and
    zero gradient, so leaving them out is the same. ``align=False`` keeps every row. ``group`` lets any row of the
    right group count as the partner. ``exclude_diagonal`` takes entry (i, i) out of both softmaxes (never out of the
    arg-max test). ``batchmean`` divides by all n rows, kept or not.
    Raises UserError for an empty batch and for a temperature that is not positive.
    """
    _check(student_a, student_b, temperature)
    old = _cosines(teacher_a, teacher_b).detach()
    new = _cosines(student_a, student_b)
    total = new.new_zeros(())
    for o, m in ((old, new), (old.T, new.T)):
        kept = _partner_found(o, group) if align else torch.ones_like(o[:, 0], dtype=torch.bool)
        if exclude_diagonal:
            o, m = _off_diagonal(o), _off_diagonal(m)
        rows = _kl(o / temperature, m / temperature)
        total = total + (rows * kept).sum() / 2
    return total if reduction == "sum" else total / len(new)


def kept_rows(
    teacher_a: Float[Tensor, "n d"], teacher_b: Float[Tensor, "n d"], group: Int[Tensor, " n"] | None = None
) -> Float[Tensor, ""]:
    """Share (0 to 1) of rows, over both directions, that ``relation_kl`` keeps: how much of Mod-X is at work."""
    old = _cosines(teacher_a, teacher_b).detach()
    return torch.stack([_partner_found(o, group).float().mean() for o in (old, old.T)]).mean()


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


def _partner_found(old: Float[Tensor, "n n"], group: Int[Tensor, " n"] | None) -> Bool[Tensor, " n"]:
    top = old.argmax(1)
    if group is None:
        return top == torch.arange(len(old), device=old.device)
    return group[top] == group


def _off_diagonal(square: Float[Tensor, "n n"]) -> Float[Tensor, "n k"]:
    # Dropping the entry, not filling it with -inf: the KL of two -inf would be NaN.
    n = len(square)
    return square[~torch.eye(n, dtype=torch.bool, device=square.device)].reshape(n, n - 1)
