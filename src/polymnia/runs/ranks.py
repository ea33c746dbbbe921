"""The rank of every single query after the newest task: what an interval over queries is made from.

``ranks.npz`` holds ``after`` (how many tasks were learned) and for each direction ``<task>|<a>><b>``, the int32 ranks
of its queries, and ``<task>|<a>><b>|items``, the id of the item that each query belongs to (an item has a query a
caption). It is loaded with ``allow_pickle=False``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Shaped

from polymnia.config import Part
from polymnia.eval.evaluators import retrieval
from polymnia.types import Embed, Item, Task

FILE = "ranks.npz"
Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


def of_task(parts: Sequence[Part], task: Task, test: Sequence[Item], embed: Embed) -> Arrays:
    """The arrays of one task; none where retrieval is not among its evaluators."""
    out: dict[str, Shaped[np.ndarray, "..."]] = {}
    for part in parts:
        if part.module is not retrieval:
            continue
        for pair in part.config.pairs or task.pairs:
            items = [i for i in test if all(m in i.sources for m in pair)]
            tables = {m: embed(items, m) for m in pair} if items else {}
            for query, target in (pair, pair[::-1]) if items else ():
                key = f"{task.name}|{query}>{target}"
                out[key] = _int32(retrieval.query_ranks(tables[query], tables[target]).cpu().numpy())
                out[f"{key}|items"] = np.array(tables[query].ids)
    return out


def write(folder: Path, after: int, arrays: Arrays) -> None:
    """``ranks.npz``: either the old file or the new one, whenever the process dies."""
    partial = folder / f".{FILE}.tmp"
    with partial.open("wb") as file:
        np.savez_compressed(file, after=np.int32(after), **arrays)
    partial.replace(folder / FILE)


def _int32(ranks: Shaped[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    return ranks.astype(np.int32)
