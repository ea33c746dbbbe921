"""Contrastive losses between rows of embeddings: the CLIP loss and InfoNCE.

CLIP: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, figure 3.
InfoNCE: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, equation 4.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.utils.checkpoint import checkpoint

from polymnia.types import UserError

Scale = float | int | Float[Tensor, ""]


def clip_loss(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    scale: Scale,
    group: Int[Tensor, " g"] | None = None,
    block: int | None = None,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of the cosine similarities of paired rows, in nats.

    L = scale * cos(a_i, b_j);  loss = 1/2 [ mean_i CE(L_i., P_i.) + mean_j CE(L_.j, P_.j) ].

    Row i of ``a`` belongs to row i of ``b``; both are brought to unit norm here. ``scale`` is the multiplicative logit
    scale (not its logarithm). Without ``group`` P is the identity. With it every row of the same group is a positive:
    P_ij = [g_i = g_j] / row sum (WavCaps' answer to several captions of one clip in a batch). With ``block`` so many
    rows of L at a time are there, forward and backward, for one more matrix product: block x n numbers, never n x n.
    Raises UserError for an empty batch, for sides of different shape and for a ``group`` of another length.
    """
    if a.shape != b.shape or len(a) == 0:
        raise UserError(
            f"clip_loss pairs row i with row i: needs equal, non-empty shapes, got {a.shape} and {b.shape}"
        )
    if group is not None and len(group) != len(a):
        raise UserError(f"clip_loss: {len(a)} rows but {len(group)} groups")
    a, b = normalize(a, dim=-1), normalize(b, dim=-1)
    if block is None or block >= len(a):
        logits = scale * a @ b.T
        # [g_i = g_j] is symmetric, so the same target rows serve both directions.
        logits, target = _targets(logits, 0, group)
        return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    total = a.new_zeros(())
    for rows, columns in ((a, b), (b, a)):
        for start in range(0, len(a), block):
            some = rows[start : start + block]
            total = total + checkpoint(_block_loss, some, columns, scale, start, group, use_reentrant=False)
    return total / (2 * len(a))


def _block_loss(
    rows: Float[Tensor, "r d"], columns: Float[Tensor, "n d"], scale: Scale, start: int, group: Tensor | None
) -> Float[Tensor, ""]:
    """Summed cross-entropy of rows ``start`` and on. What is summed here is computed again in the backward pass."""
    return cross_entropy(*_targets(scale * rows @ columns.T, start, group), reduction="sum")


def _targets(
    logits: Float[Tensor, "r n"], start: int, group: Int[Tensor, " n"] | None
) -> tuple[Float[Tensor, "r n"], Shaped[Tensor, "r ..."]]:
    """Rows ``start`` and on of the square of logits, and their targets."""
    place = torch.arange(start, start + len(logits), device=logits.device)
    if group is None:
        return logits, place
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # 1/3 has no place in bfloat16
    same = (group[place][:, None] == group[None, :]).to(logits.dtype)
    return logits, same / same.sum(1, keepdim=True)


def info_nce(
    query: Float[Tensor, "n d"], key: Float[Tensor, "m d"], positive: Int[Tensor, " p"], scale: Scale
) -> Float[Tensor, ""]:
    """Cross-entropy of each query against all keys, in nats; ``positive[i]`` is the row of the key that query i means.

    loss = mean_i CE(scale * cos(query_i, key_.), positive_i). Rows are brought to unit norm here.
    Raises UserError for no queries, no keys, or a ``positive`` of another length than ``query``.
    """
    if len(query) == 0 or len(key) == 0:
        raise UserError(f"info_nce needs queries and keys, got {len(query)} and {len(key)}")
    if len(positive) != len(query):
        raise UserError(f"info_nce: {len(query)} queries but {len(positive)} positives")
    if not 0 <= int(positive.min()) <= int(positive.max()) < len(key):
        raise UserError(f"info_nce: positive holds row numbers of {len(key)} keys, got {positive.tolist()[:8]}")
    return cross_entropy(scale * normalize(query, dim=-1) @ normalize(key, dim=-1).T, positive.long())
