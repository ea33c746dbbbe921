"""How well vectors of an older encoder serve queries of a newer one, and what an adapter wins back.

A *direction* is query > gallery. Between modalities a query finds the items of its group; within one modality each
item has to find itself again, as when someone searches with a sound that is in the collection. Numbers are the mean of
R@1, R@5 and R@10 in percent, ties pessimistic:

    kept      old queries, old vectors      the index as it was, each encoder asked in its own space
    stale     new queries, old vectors      the index as it is when nobody noticed
    upgraded  new queries, mapped vectors   after an adapter
    self      new queries, new vectors      everything embedded again
    back      new queries mapped back, old vectors   (only where a map of the queries is given)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from polymnia.ops.metrics import ranks, recall_at
from polymnia.types import Modality

AT = (1, 5, 10)
MEASURES = ("kept", "stale", "upgraded", "self")
BACK = "back"
Map = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]]


@dataclass(frozen=True)
class Side:
    """The same things as two encoders embed them: rows match. ``names`` are groups (or ids, to find oneself)."""

    old: Float[Tensor, "n d"]
    new: Float[Tensor, "n d"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


def measure(
    sides: Mapping[Modality, Side],
    gallery: Modality,
    adapter: Map,
    target: Side | None = None,
    backwards: Mapping[Modality, Map] | None = None,
) -> dict[str, dict[str, float]]:
    """``kept``, ``stale``, ``upgraded`` and ``self`` of every direction into a gallery, by direction.

    ``target``: the gallery, where it is none of the ``sides`` that are asked. ``backwards``: maps of new queries into
    the old space; then ``back``, too.
    """
    target = sides[gallery] if target is None else target
    mapped = adapter(target.old)
    out: dict[str, dict[str, float]] = {}
    for m, side in sides.items():
        if len(side) == 0 or len(target) == 0:
            continue
        names = _names(side, target, own=m == gallery)
        scores = {
            "kept": score(side.old, target.old, *names),
            "stale": score(side.new, target.old, *names),
            "upgraded": score(side.new, mapped, *names),
            "self": score(side.new, target.new, *names),
        }
        if backwards is not None:
            scores[BACK] = score(backwards[m](side.new), target.old, *names)
        if all(map(math.isfinite, scores.values())):
            out[f"{m}>{gallery}"] = scores
    return out


def score(
    queries: Float[Tensor, "n d"],
    gallery: Float[Tensor, "m d"],
    query_names: Sequence[str],
    gallery_names: Sequence[str],
) -> float:
    """The mean of R@1, R@5 and R@10 in percent over the queries that have a positive; NaN if none has."""
    rank = _ranks(queries, gallery, query_names, gallery_names)
    return math.nan if rank is None else 100 * sum(recall_at(rank, k) for k in AT) / len(AT)


def _names(asked: Side, target: Side, own: bool) -> tuple[Sequence[str], Sequence[str]]:
    """What has to be alike for a hit: within a modality an item finds itself, else any of its group."""
    return (asked.ids, target.ids) if own else (asked.groups, target.groups)


def _ranks(
    queries: Tensor, gallery: Tensor, query_names: Sequence[str], gallery_names: Sequence[str]
) -> Tensor | None:
    number = {name: i for i, name in enumerate(dict.fromkeys([*gallery_names, *query_names]))}
    asked = torch.tensor([number[q] for q in query_names])
    there = torch.tensor([number[g] for g in gallery_names])
    some = torch.isin(asked, there)
    return ranks(queries[some], gallery, asked[some], there) if some.any() else None


def judge(sides: Mapping[Modality, Side], gallery: Modality) -> Callable[[Float[Tensor, "n d"]], float]:
    """What an adapter is chosen by: the mean reciprocal rank of new queries in a mapped gallery, over directions, and
    a thousandth of the mean cosine to the true new vectors, which decides between equals."""
    target = sides[gallery]

    def of(mapped: Float[Tensor, "n d"]) -> float:
        asked = {m: s for m, s in sides.items() if len(s)}
        found = [_ranks(s.new, mapped, *_names(s, target, own=m == gallery)) for m, s in asked.items()]
        known = [(1 / rank.double()).mean().item() for rank in found if rank is not None]
        cosine = (mapped * target.new).sum(1).mean().item()
        return sum(known) / max(1, len(known)) + cosine / 1000

    return of


def won_back(scores: Mapping[str, float]) -> float:
    """(upgraded - stale) / (self - stale): the share of the loss that an adapter wins back; NaN where nothing is lost.

    Below 0 the adapter does harm; where stale vectors do better than new ones there is nothing to win.
    """
    lost = scores["self"] - scores["stale"]
    return (scores["upgraded"] - scores["stale"]) / lost if lost > 0 else math.nan


def weighted(found: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """The mean of each measure by weights; empty where nothing weighs anything."""
    total = sum(w for w, _ in found)
    return {k: sum(w * f[k] for w, f in found) / total for k in _keys([f for _, f in found])} if total > 0 else {}


def mean(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each measure; empty for nothing."""
    return {k: sum(f[k] for f in found) / len(found) for k in _keys(found)} if found else {}


def _keys(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return [*MEASURES, *([BACK] if all(f.get(BACK) is not None for f in found) else [])]
