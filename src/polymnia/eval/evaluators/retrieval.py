"""Retrieval between the modalities of a pair, in both directions, over the task's test items.

Keys of a direction such as ``audio>text`` (all in percent but MedR, N and M):

- ``audio>text/R@10``: share of queries with a positive (same group) among the first 10. Every caption is a query of
  its own; an item with several captions is hit if *any* of them is found. ``/mAP@10`` and ``/MedR`` (median rank) too.
- ``audio>text/N`` and ``/M``: how many queries, how many rows in the gallery. Items that lack one of the two
  modalities are left out; a pair that no item has gives ``/N`` = 0 and no score.
- ``audio>text/class_mAP``: mAP over the whole gallery with every row of the same topic as a positive.
- ``topic:rain/audio>text/R@10``: the same gallery, the queries of one topic; largest k only.
- ``union/audio>text/R@10``: the gallery is the test items of all tasks seen so far, ``union/audio>text/M`` rows of it.

Ties are pessimistic (see ``ops/metrics.py``): a collapsed encoder scores chance or worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Int, Int64
from pydantic import Field
from torch import Tensor

from polymnia.config import Frozen
from polymnia.ops.metrics import average_precision_at, mean_average_precision, median_rank, ranks, recall_at
from polymnia.types import Embed, EvalData, Item, Pair, Table

PROJECTED = True  # reads embeddings: another head changes the score


class Config(Frozen):
    """``pairs``: by default those that the task aligns. ``gallery``: the task's own, or also of all tasks seen."""

    pairs: tuple[Pair, ...] = ()
    k: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5, 10)
    gallery: Literal["task", "both"] = "both"


def evaluate(cfg: Config, embed: Embed, data: EvalData) -> dict[str, float]:
    """Scores of all pairs in percent; the keys are explained at the top of the file."""
    out: dict[str, float] = {}
    others = _others(data) if cfg.gallery == "both" else None
    for pair in cfg.pairs or data.pairs:
        items = [item for item in data.test if all(m in item.sources for m in pair)]
        tables = {m: embed(items, m) for m in pair} if items else {}
        for query, target in (pair, pair[::-1]):
            name = f"{query}>{target}"
            if not items:
                out[f"{name}/N"] = 0.0
                continue
            out |= _own_gallery(cfg, name, tables[query], tables[target])
            more = [item for item in others or () if target in item.sources]
            if others is not None:
                union = _join(tables[target], embed(more, target)) if more else tables[target]
                out |= _recalls(cfg.k, f"union/{name}", query_ranks(tables[query], union))
                out[f"union/{name}/M"] = float(len(union))
    return out


def query_ranks(queries: Table, gallery: Table) -> Int64[Tensor, " n"]:
    """Rank of the best positive (same group) of each row of ``queries``; a bootstrap over queries starts here."""
    return ranks(queries.vectors, gallery.vectors, *_codes(queries.groups, gallery.groups))


def _own_gallery(cfg: Config, name: str, queries: Table, gallery: Table) -> dict[str, float]:
    rank = query_ranks(queries, gallery)
    sides = (queries.vectors, gallery.vectors, *_codes(queries.groups, gallery.groups))
    out = _recalls(cfg.k, name, rank)
    out[f"{name}/mAP@10"] = 100 * average_precision_at(*sides, k=10).double().mean().item()
    out[f"{name}/MedR"] = median_rank(rank)
    out |= {f"{name}/N": float(len(queries)), f"{name}/M": float(len(gallery))}
    return out | _by_topic(max(cfg.k), name, queries, gallery, rank)


def _by_topic(k: int, name: str, queries: Table, gallery: Table, rank: Int[Tensor, " n"]) -> dict[str, float]:
    topics = sorted(set(queries.topics) - {""})
    if len(topics) < 2:
        return {}
    code = torch.tensor([topics.index(t) if t else -1 for t in queries.topics])
    out = {f"topic:{t}/{name}/R@{k}": 100 * recall_at(rank[code == i], k) for i, t in enumerate(topics)}
    items = dict(zip(queries.ids, queries.topics, strict=True))
    if len([t for t in items.values() if t]) > len(topics):  # else a topic is an item, and this would be mAP again
        query, target = _with_topic(queries), _with_topic(gallery)
        codes = _codes(query.topics, target.topics)
        out[f"{name}/class_mAP"] = 100 * mean_average_precision(query.vectors, target.vectors, *codes)
    return out


def _recalls(ks: Iterable[int], name: str, rank: Int[Tensor, " n"]) -> dict[str, float]:
    return {f"{name}/R@{k}": 100 * recall_at(rank, k) for k in ks}


def _others(data: EvalData) -> list[Item] | None:
    """Test items of other tasks; None for a task that is not among those seen: it has no place in their gallery."""

    def key(item: Item) -> tuple[str, str, str]:
        return item.id, item.group, item.topic  # two data sets may both hold a "1.wav"

    own = {key(item) for item in data.test}
    others = [item for item in data.seen if key(item) not in own]
    return others if len(data.seen) - len(others) >= len(own) else None


def _codes(queries: Sequence[str], gallery: Sequence[str]) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    number = {name: i for i, name in enumerate(dict.fromkeys([*queries, *gallery]))}
    return torch.tensor([number[q] for q in queries]), torch.tensor([number[g] for g in gallery])


def _with_topic(table: Table) -> Table:
    keep = [i for i, topic in enumerate(table.topics) if topic]
    ids, groups, topics = (tuple(column[i] for i in keep) for column in (table.ids, table.groups, table.topics))
    return Table(ids, table.vectors[keep], groups, topics, table.encoder)


def _join(a: Table, b: Table) -> Table:
    vectors = torch.cat([a.vectors, b.vectors])
    return Table(a.ids + b.ids, vectors, a.groups + b.groups, a.topics + b.topics, a.encoder)
