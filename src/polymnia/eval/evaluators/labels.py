"""Zero-shot classification through the tower's own classifier (say AudioSet's 527 classes): no text tower needed.

A topic's score is the highest logit among the tower's classes that ``classes`` lists for it; the arg-max over topics
is the answer, right only if it scores *strictly* higher than every other topic.

Keys: ``labels/accuracy`` (percent), ``labels/N`` (items). Items whose topic is not listed are left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

import torch

from polymnia.config import Frozen
from polymnia.types import Embed, EvalData, Item, UserError

PROJECTED = False  # reads features, which no projection head changes


class Config(Frozen):
    """``classes``: names of the tower's classes for each topic; by default a topic is itself such a name."""

    modality: Literal["audio", "image"] = "audio"
    classes: dict[str, tuple[str, ...]] = {}
    split: Literal["test", "all"] = "test"


def evaluate(cfg: Config, embed: Embed, data: EvalData) -> dict[str, float]:
    """Accuracy in percent. Raises UserError for a tower without class names and for a name that it does not know."""
    asked = data.test if cfg.split == "test" else data.train + data.valid + data.test
    columns = _columns(cfg, asked, data.names.get(cfg.modality, ()))
    topics = list(columns)
    items = {item.id: item for item in asked if item.topic in columns and cfg.modality in item.sources}
    if not items:
        return {"labels/N": 0.0}
    table = embed(list(items.values()), cfg.modality, "scores")
    scores = torch.stack([table.vectors[:, columns[topic]].amax(1) for topic in topics], dim=1)
    target = torch.tensor([topics.index(items[i].topic) for i in table.ids])[:, None]
    rivals = scores.scatter(1, target, -torch.inf)
    right = scores.gather(1, target) > rivals.amax(1, keepdim=True)
    return {"labels/accuracy": 100 * right.double().mean().item(), "labels/N": float(len(right))}


def _columns(cfg: Config, items: Sequence[Item], known: Sequence[str]) -> dict[str, list[int]]:
    if not known:
        raise UserError(f"labels: the {cfg.modality} tower has no classifier of its own, or does not name its classes")
    number = {name: i for i, name in enumerate(known)}
    wanted = cfg.classes or {item.topic: (item.topic,) for item in items if item.topic}
    return {topic: [_find(name, topic, number, known) for name in names] for topic, names in wanted.items()}


def _find(name: str, topic: str, number: dict[str, int], known: Sequence[str]) -> int:
    if name not in number:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise UserError(f"labels: the tower has no class '{name}' (topic '{topic}'); nearest: {', '.join(near)}")
    return number[name]
