"""Two data sets joined by topic: every item of the left one gets a partner of the same topic from the right one.

Spoken digits and handwritten digits, say, become pairs of a recording and a picture of the same digit:
``{use: join, root: ., left: {use: fsdd, root: fsdd}, right: {use: mnist, root: mnist_t10k}}``.
Nothing is downloaded; licences and layouts are those of the two data sets, whose relative roots start at ``root``.

The pairing depends on the seed and the ids only, not on the order of items. A partner is of the same split, and none
serves twice before all of its topic and split have served. Each pair is a group of its own, so that a recording has
one right picture; captions that a whole class shares would then be false negatives of each other, which is why
``keep_text`` is ``none`` unless asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from polymnia.config import DatasetPart, Part
from polymnia.data.items import DatasetConfig, check, require
from polymnia.types import Item, Split, UserError


class Config(DatasetConfig):
    """``left`` gives split, labels and fold; ``keep_text`` says whose captions a pair keeps."""

    left: DatasetPart
    right: DatasetPart
    seed: int = 0
    keep_text: Literal["left", "right", "none"] = "none"


def items(cfg: Config) -> list[Item]:
    """One item for each of the left data set, in its order; a modality of both sides is the left one's.

    Raises UserError where a topic has no partner, or a pair is left with one modality.
    """
    require(cfg.root, "the folder of the data sets to join")
    left, right = _load(cfg, cfg.left), _load(cfg, cfg.right)
    partners = _partners(cfg, left, right)
    return check([_pair(cfg, item, partners[item.id]) for item in left], f"{cfg.left.use} joined with {cfg.right.use}")


def _load(cfg: Config, part: Part) -> list[Item]:
    return part.module.items(part.config.model_copy(update={"root": cfg.root / part.config.root}))


def _partners(cfg: Config, left: Sequence[Item], right: Sequence[Item]) -> dict[str, Item]:
    """The partner of each left id: both sides of a topic and split in an order by hash, laid beside each other."""
    wanted, offered = _by_topic(left), _by_topic(right)
    chosen: dict[str, Item] = {}
    for (topic, split), members in wanted.items():
        choice = offered.get((topic, split), [])
        if not topic or not choice:
            raise UserError(_lonely(cfg, topic, split, sorted({t for t, s in offered if s == split})))
        choice = sorted(choice, key=lambda item: _rank(cfg.seed, "right", item.id))
        members = sorted(members, key=lambda item: _rank(cfg.seed, "left", item.id))
        chosen |= {item.id: choice[i % len(choice)] for i, item in enumerate(members)}
    return chosen


def _by_topic(items: Sequence[Item]) -> dict[tuple[str, Split], list[Item]]:
    found: dict[tuple[str, Split], list[Item]] = {}
    for item in items:
        found.setdefault((item.topic, item.split), []).append(item)
    return found


def _rank(seed: int, side: str, id: str) -> bytes:
    return blake2b(f"{seed}/{side}/{id}".encode(), digest_size=8).digest()


def _lonely(cfg: Config, topic: str, split: Split, offered: Sequence[str]) -> str:
    if not topic:
        return (
            f"join: items of '{cfg.left.use}' have no topic, so nothing says which of '{cfg.right.use}' go with them"
        )
    return (
        f"join: topic '{topic}' of '{cfg.left.use}' has no partner in the {split} split of '{cfg.right.use}', "
        f"which has there: {', '.join(offered) or 'nothing'}"
    )


def _pair(cfg: Config, left: Item, right: Item) -> Item:
    sources = {**right.sources, **left.sources}
    sources.pop("text", None)
    keeper = {"left": left, "right": right}.get(cfg.keep_text)
    if keeper is not None and "text" in keeper.sources:
        sources["text"] = keeper.sources["text"]
    name = f"{left.id}+{right.id}"
    if len(sources) < 2:
        raise UserError(
            f"join: '{name}' has nothing but {', '.join(sources) or 'captions'}; choose data sets of different "
            f"modalities, or keep_text other than '{cfg.keep_text}'"
        )
    return Item(
        id=name,
        sources=sources,
        group=name,
        topic=left.topic,
        split=left.split,
        labels=left.labels,
        fold=left.fold,
        origin=tuple(dict.fromkeys((*left.origin, *right.origin))),
    )
