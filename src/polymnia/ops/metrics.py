"""Ranks, recall and average precision over blocks of queries: exact, and never an N x M matrix.

Scores are inner products of the rows as given: pass unit rows for cosine similarity. Ties are pessimistic everywhere
(a non-positive that scores the same as a positive stands before it), so that an encoder that maps everything to one
point scores chance or worse, never 100 %.

A strip of queries is scored against the *whole* gallery in one matrix product, and the scores of the positives and of
the others are read out of that one result. So equal pairs cannot differ in the last bit because two products summed in
another order. A strip is as narrow as the gallery is long: at most max(block^2, 32 M) scores are alive at a time,
which is less than the gallery itself once vectors have more than 32 dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped
from torch import Tensor
from torch.nn.functional import pad

from polymnia.types import UserError

NARROWEST = 32  # rows of a strip below which a matrix product becomes slower than reading the gallery
FEWEST = 8  # rows of a matrix product; shorter strips are filled up with zeros
Strip = tuple[slice, Float[Tensor, "r m"], Bool[Tensor, "r m"]]


def ranks(
    queries: Float[Tensor, "n d"],
    gallery: Float[Tensor, "m d"],
    query_group: Int[Tensor, " n"],
    gallery_group: Int[Tensor, " m"],
    block: int = 1024,
) -> Int64[Tensor, " n"]:
    """Rank of the best positive of each query: 1 + the number of non-positives that score as high or higher.

    A gallery row is a positive of a query if their groups are equal. About ``block``^2 scores are held at a time.
    Raises UserError for an empty side, a query without a positive in the gallery, and vectors with NaN or infinity.
    """
    out = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    for rows, scores, positive in _strips(queries, gallery, query_group, gallery_group, block):
        best = scores.masked_fill(~positive, -torch.inf).amax(1, keepdim=True)
        out[rows] = 1 + ((scores >= best) & ~positive).sum(1)
    return out


def recall_at(rank: Int[Tensor, " n"], k: int) -> float:
    """R@k: the share (0 to 1) of queries with a positive among the first k. Raises UserError without queries."""
    return (_some(rank) <= k).double().mean().item()


def median_rank(rank: Int[Tensor, " n"]) -> float:
    """The median of the ranks; between the two middle ones for an even count. Raises UserError without queries."""
    return float(np.median(_some(rank).cpu().numpy()))


def average_precision_at(
    queries: Float[Tensor, "n d"],
    gallery: Float[Tensor, "m d"],
    query_group: Int[Tensor, " n"],
    gallery_group: Int[Tensor, " m"],
    k: int = 10,
    block: int = 1024,
) -> Float[Tensor, " n"]:
    """AP@k (0 to 1) of each query; their mean is mAP@k as in DCASE's language-based audio retrieval.

    sum over the positives j (best first) with rank_j <= k of j / rank_j, over min(number of positives, k).
    Raises UserError as ``ranks`` does.
    """
    found = min(k, len(gallery))
    place = torch.arange(1, found + 1, device=queries.device)
    out = torch.empty(len(queries), device=queries.device)
    for rows, scores, positive in _strips(queries, gallery, query_group, gallery_group, block):
        own = scores.masked_fill(~positive, -torch.inf).topk(found, dim=1).values
        others = scores.masked_fill(positive, -torch.inf).topk(found, dim=1).values
        # The k best others are enough: a positive behind all of them has a rank beyond k anyway.
        rank = place + (others[:, None, :] >= own[:, :, None]).sum(-1)
        total = positive.sum(1)
        hit = (place <= total[:, None]) & (rank <= k)
        out[rows] = torch.where(hit, place / rank, 0.0).sum(1) / total.clamp(max=k)
    return out


def mean_average_precision(
    queries: Float[Tensor, "n d"],
    gallery: Float[Tensor, "m d"],
    query_group: Int[Tensor, " n"],
    gallery_group: Int[Tensor, " m"],
    block: int = 1024,
) -> float:
    """mAP (0 to 1) over the whole gallery: the mean over queries of sum_j (j / rank_j) / number of positives.

    With classes as groups this is class-level retrieval. Raises UserError as ``ranks`` does.
    """
    total = 0.0
    for _, scores, positive in _strips(queries, gallery, query_group, gallery_group, block):
        total += _average_precision(scores, positive).double().sum().item()
    return total / len(queries)


def macro_average_precision(scores: Float[Tensor, "n c"], labels: Shaped[Tensor, "n c"], block: int = 1024) -> float:
    """Multi-label mAP (0 to 1): the mean over the classes with a positive of the average precision over examples.

    ``labels`` is true or non-zero where the example has the class. Without ties this is scikit-learn's macro average.
    Raises UserError when no class has a positive, and for NaN or infinite scores.
    """
    _finite(scores)
    positive = labels.bool()
    classes = positive.any(0).nonzero()[:, 0]
    if len(classes) == 0:
        raise UserError("macro average precision needs a class with at least one positive example")
    total = 0.0
    for chunk in classes.split(_height(len(scores), block)):
        total += _average_precision(scores.T[chunk], positive.T[chunk]).double().sum().item()
    return total / len(classes)


def _average_precision(scores: Float[Tensor, "r m"], positive: Bool[Tensor, "r m"]) -> Float[Tensor, " r"]:
    total = positive.sum(1)
    own = scores.masked_fill(~positive, -torch.inf).topk(int(total.max()), dim=1).values
    others = scores.masked_fill(positive, -torch.inf).sort(dim=1).values
    above = scores.shape[1] - torch.searchsorted(others, own)  # others that score as high or higher
    place = torch.arange(1, own.shape[1] + 1, device=scores.device)
    return torch.where(place <= total[:, None], place / (place + above), 0.0).sum(1) / total


def _strips(
    queries: Tensor, gallery: Tensor, query_group: Tensor, gallery_group: Tensor, block: int
) -> Iterator[Strip]:
    """Scores and positives of a few queries at a time against the whole gallery."""
    if len(queries) == 0 or len(gallery) == 0:
        raise UserError(f"ranking needs queries and a gallery, got {len(queries)} and {len(gallery)} rows")
    lost = ~torch.isin(query_group, gallery_group)
    if lost.any():
        raise UserError(f"{int(lost.sum())} of {len(lost)} queries have no positive in the gallery")
    queries, gallery = (
        _finite(x.detach()).to(torch.promote_types(x.dtype, torch.float32)) for x in (queries, gallery)
    )
    height = _height(len(gallery), block)
    for start in range(0, len(queries), height):
        rows = slice(start, min(start + height, len(queries)))
        yield rows, _product(queries[rows], gallery), query_group[rows, None] == gallery_group[None, :]


def _product(queries: Float[Tensor, "r d"], gallery: Float[Tensor, "m d"]) -> Float[Tensor, "r m"]:
    # One row times a matrix takes another kernel (gemv), where equal gallery rows can differ in the last bit.
    lacking = max(0, FEWEST - len(queries))
    return (pad(queries, (0, 0, 0, lacking)) @ gallery.T)[: len(queries)]


def _height(width: int, block: int) -> int:
    return min(block, max(NARROWEST, block * block // width))


def _finite(vectors: Tensor) -> Tensor:
    # A NaN loses every comparison, so that a diverged model would be ranked first everywhere.
    if not torch.isfinite(vectors).all():
        raise UserError("vectors to rank hold NaN or infinity: the encoder has diverged")
    return vectors


def _some(rank: Tensor) -> Tensor:
    if len(rank) == 0:
        raise UserError("no ranks: there was no query")
    return rank
