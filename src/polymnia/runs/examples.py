"""The best hits of a few example queries, the same ones after every task: what the report shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polymnia.ops.search import top_k
from polymnia.types import Embed, Item, Modality, Task

SHOWN = 5  # hits kept of each example query
Entry = dict[str, Any]


def find(task: Task, test: Sequence[Item], embed: Embed, wanted: int) -> Iterator[tuple[str, Entry, list[Entry]]]:
    """Key, description and best hits of ``wanted`` queries a direction, spread evenly over the items."""
    for pair in task.pairs:
        for query, gallery in (pair, pair[::-1]):
            having = [i for i in test if query in i.sources and gallery in i.sources]
            chosen = having[:: max(1, len(having) // max(1, wanted))][:wanted]
            if not chosen:
                continue
            questions = [_first_caption(i) if query == "text" else i for i in chosen]
            table = embed(having, gallery)
            scores, at = top_k(embed(questions, query).vectors, table.vectors, SHOWN * 4)
            for item, found, where in zip(chosen, scores.tolist(), at.tolist(), strict=True):
                key = f"{task.name}/{query}>{gallery}/{item.id}"
                yield key, _entry(task, query, gallery, item), _hits(item, table.ids, table.groups, found, where)


def _first_caption(item: Item) -> Item:
    captions = item.sources["text"]
    text = type(captions)(captions.texts[:1])  # type: ignore[union-attr]
    return Item(f"{item.id}#0", {"text": text}, item.group, item.topic)


def _entry(task: Task, query: Modality, gallery: Modality, item: Item) -> Entry:
    captions = item.sources.get("text")
    caption = captions.texts[0] if captions is not None else None  # type: ignore[union-attr]
    entry = {"task": task.name, "direction": f"{query}>{gallery}", "query": item.id, "results": {}}
    return {**entry, "caption": caption if query == "text" else None}


def _hits(
    item: Item, ids: Sequence[str], groups: Sequence[str], scores: list[float], at: list[int]
) -> list[dict[str, Any]]:
    """The best items, each once (an item may have several captions)."""
    best: dict[str, Entry] = {}
    for score, where in zip(scores, at, strict=True):
        best.setdefault(ids[where], {"id": ids[where], "score": round(score, 4), "hit": groups[where] == item.group})
    return list(best.values())[:SHOWN]
