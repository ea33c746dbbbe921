"""Exact nearest neighbours in blocks: never a queries x gallery matrix in memory."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def top_k(
    queries: Float[Tensor, "n d"], gallery: Float[Tensor, "m d"], k: int, block: int = 1024
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k gallery rows with the highest inner product, best first (equal scores in gallery order), and the scores.

    Gives min(k, m) columns. Memory is O(block x block) beside the result.
    """
    k = min(k, len(gallery))
    scores = torch.empty(len(queries), k, dtype=queries.dtype)
    at = torch.empty(len(queries), k, dtype=torch.long)
    for i in range(0, len(queries), block):
        part = queries[i : i + block]
        best = torch.full((len(part), k), -torch.inf, dtype=queries.dtype)
        where = torch.full((len(part), k), len(gallery))
        for j in range(0, len(gallery), block):
            found = part @ gallery[j : j + block].T
            joined = torch.cat([best, found], dim=1)
            numbers = torch.cat([where, torch.arange(j, j + found.shape[1]).expand(len(part), -1)], dim=1)
            order = joined.sort(dim=1, descending=True, stable=True).indices[:, :k]
            best, where = joined.gather(1, order), numbers.gather(1, order)
        scores[i : i + block], at[i : i + block] = best, where
    return scores, at
