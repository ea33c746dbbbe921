"""Prompts of two towers, layer against layer: the same depth belongs together, other depths do not.

LPI's hierarchical contrast (*Low-rank Prompt Interaction for Continual Vision-Language Retrieval*, ACM MM 2024).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from polymnia.types import UserError

Form = Literal["raw", "cosine"]


def layer_contrast(
    one: Float[Tensor, "l p d"], other: Float[Tensor, "m q e"], form: Form = "raw", temperature: float = 0.01
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy, in nats, of an l x l matrix of layers against layers; the diagonal is right.

    v_l = mean over channels of one[l], t_l likewise: rows of p numbers;
    loss = 1/2 [ mean_i CE(G_i., i) + mean_j CE(G_.j, j) ].

    ``raw``: G = (V / temperature)(T / temperature)^T, lengths and all; ``cosine``: G = cos(v_i, t_j) / temperature.
    The channels of the two may differ in number; one layer alone gives 0.
    Raises UserError for another number of layers or tokens, and for a temperature that is not positive.
    """
    if one.shape[:2] != other.shape[:2] or not one.numel():
        raise UserError(f"layer_contrast needs equally many layers and tokens, got {one.shape} and {other.shape}")
    if not temperature > 0:
        raise UserError(f"temperature must be positive, got {temperature}")
    v, t = one.mean(2), other.mean(2)
    if form == "cosine":
        logits = normalize(v, dim=1) @ normalize(t, dim=1).T / temperature
    else:
        logits = (v / temperature) @ (t / temperature).T
    layers = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, layers) + cross_entropy(logits.T, layers)) / 2
