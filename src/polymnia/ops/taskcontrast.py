"""Prompts of tasks that mean similar things are drawn together, others are pushed apart.

LPI's task contrast (*Low-rank Prompt Interaction for Continual Vision-Language Retrieval*, ACM MM 2024). Its release
applies a sigmoid twice, at a temperature where it is flat, so that the term does not move (0.1394 to 0.1395 over a
task). ``task_contrast`` is what its comments intend; ``released_task_contrast`` is what it does.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import normalize

from polymnia.types import UserError


def similar(
    similarity: Float[Tensor, "t t"], threshold: float | None = None, quantile: float = 0.75
) -> Bool[Tensor, "t t"]:
    """Which pairs of tasks count as similar: those above ``threshold``, or above that quantile of all pairs.

    A quantile, because cosines of names lie elsewhere in every text encoder. The diagonal is True. Nothing but the
    diagonal is True of a single pair, or where all pairs are alike.
    """
    tasks, limit = len(similarity), threshold
    own = torch.eye(tasks, dtype=torch.bool, device=similarity.device)
    if limit is None and tasks > 1:
        i, j = torch.triu_indices(tasks, tasks, 1, device=similarity.device)
        limit = similarity[i, j].quantile(quantile)
    return own if limit is None else own | (similarity > limit)


def task_contrast(
    prompts: Float[Tensor, "t n"], target: Bool[Tensor, "u v"] | Float[Tensor, "u v"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Binary cross-entropy of sigmoid(cos(x_i, x_j) / temperature) over pairs of tasks, in nats.

    l_ij = softplus(-c_ij / temperature) where i and j are similar, softplus(c_ij / temperature) where they are not;
    loss = mean_i [ mean over similar j of l_ij + mean over the others of l_ij ], j never i.

    ``prompts``: a task a row, the last one being learned: gradient reaches it alone. A target of numbers is soft:
    l_ij = BCE(sigmoid(c_ij / temperature), target_ij clamped to 0..1), one mean over all j. A row without similar
    tasks, or without others, goes without that mean.
    Raises UserError for fewer than two tasks, targets of another size, and a temperature that is not positive.
    """
    logits = _cosines(prompts, target, temperature) / temperature
    others = ~torch.eye(len(prompts), dtype=torch.bool, device=prompts.device)
    if target.dtype == torch.bool:
        return _split_means(bce(logits, target.to(logits.dtype), reduction="none"), target, others)
    soft = bce(logits, target.clamp(0, 1).to(logits.dtype), reduction="none")
    return _masked_mean(soft, others).mean()


def released_task_contrast(
    prompts: Float[Tensor, "t n"], target: Bool[Tensor, "u v"], temperature: float = 0.001
) -> Float[Tensor, ""]:
    """The released form: z = sigmoid(c / temperature), 1 on the diagonal; l = BCE-with-logits(z, target).

    Both means of a row are bounded (0.3133 to 0.6931 over similar ones, itself included, and 0.6931 to 1.3133 over
    the others), so that a row with both is never below 1.0064 nor above 2.0064, whatever the prompts are.
    """
    own = torch.eye(len(prompts), dtype=torch.bool, device=prompts.device)
    squashed = (_cosines(prompts, target, temperature) / temperature).sigmoid()
    squashed = torch.where(own, torch.ones_like(squashed), squashed)
    positive = target | own
    loss = bce(squashed, positive.to(squashed.dtype), reduction="none")
    return _split_means(loss, positive, torch.ones_like(own))


def _cosines(prompts: Float[Tensor, "t n"], target: Tensor, temperature: float) -> Float[Tensor, "t t"]:
    tasks = len(prompts)
    if tasks < 2 or target.shape != (tasks, tasks):
        raise UserError(
            f"a task contrast needs two tasks or more and a square of targets, got {tasks}, {target.shape}"
        )
    if not temperature > 0:
        raise UserError(f"temperature must be positive, got {temperature}")
    unit = normalize(torch.cat([prompts[:-1].detach(), prompts[-1:]]), dim=1)
    return unit @ unit.T


def _split_means(
    loss: Float[Tensor, "t t"], positive: Bool[Tensor, "t t"], counted: Bool[Tensor, "t t"]
) -> Float[Tensor, ""]:
    """The mean over rows of the two means."""
    return (_masked_mean(loss, positive & counted) + _masked_mean(loss, ~positive & counted)).mean()


def _masked_mean(loss: Float[Tensor, "t t"], mask: Bool[Tensor, "t t"]) -> Float[Tensor, " t"]:
    """The mean of each row over what counts; 0 for a row where nothing does."""
    return (loss * mask).sum(1) / mask.sum(1).clamp(min=1)
