"""A procedural world of sounds, pictures and captions that share latent attributes. Needs no download.

16 families of sources in 4 domains, times pitch, tempo, envelope and background: 144 combinations a domain. Written
once to ``root/soundworld-<hash of the settings>`` as ordinary wav, png and ``scenes.json`` (10 seconds, 200 MB at
the defaults). Validation and test hold new instances of combinations that training has seen too, unless
``fraction`` leaves some out. How far ambiguous captions let retrieval go: ``polymnia.data.synth.world.ceiling``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from polymnia.config import nearest
from polymnia.data.items import DatasetConfig, check
from polymnia.data.synth import world as synth
from polymnia.data.synth.scene import FAMILIES, World
from polymnia.data.synth.world import POOLS, chosen, ensure, read
from polymnia.types import AudioFile, Captions, ImageFile, Item


class Config(DatasetConfig, World):
    """The settings of the world (see ``World``), and which of its items to return.

    ``families``: of those domains, only these (all when none is named).
    ``part: base`` is a pool of instances apart, all of split "train", for what is trained before the first task;
    ``part: train`` is everything else, valid and test included. ``fraction`` keeps the items of that share of the
    combinations in split "train": a smaller share is a subset of a larger one.
    """

    domains: tuple[str, ...] = tuple(FAMILIES)
    families: tuple[str, ...] = ()
    part: Literal["train", "base"] = "train"
    fraction: float = Field(1.0, gt=0, le=1)

    @field_validator("domains")
    @classmethod
    def _known_once(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        for domain in domains:
            if domain not in FAMILIES:
                raise ValueError(f"no domain '{domain}'; {nearest(domain, list(FAMILIES))}")
        if not domains or len(set(domains)) < len(domains):
            raise ValueError("at least one domain, and each one once")
        return domains

    @field_validator("families")
    @classmethod
    def _known_families(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        known = [f for domain in FAMILIES.values() for f in domain]
        for family in families:
            if family not in known:
                raise ValueError(f"no family '{family}'; {nearest(family, known)}")
        return families


def items(cfg: Config) -> list[Item]:
    """The items of the chosen domains, in a fixed order; the world is written first if it is not there.

    An item has a 16 kHz mono sound, a picture, captions, its attributes as labels ("pitch:low"), its domain as topic
    and itself as group.

    Raises:
        UserError: no items, such as part "base" of a world without base instances.
    """
    world = ensure(cfg.root, cfg)
    pools = ("base",) if cfg.part == "base" else ("train", "valid", "test")
    kept = {domain: _kept(cfg, domain) for domain in cfg.domains}
    found = [
        _item(world, scene)
        for scene in read(world)
        if scene["domain"] in kept
        and (not cfg.families or scene["labels"][0].removeprefix("family:") in cfg.families)
        and scene["pool"] in pools
        and (scene["pool"] in ("valid", "test") or scene["combo"] in kept[scene["domain"]])
    ]
    return check(found, f"soundworld (part '{cfg.part}', domains {', '.join(cfg.domains)})")


def elsewhere(cfg: Config, folder: Path) -> Config:
    """Settings under which ``items`` writes into ``folder`` alone; the same ones where the world is already there."""
    there = (synth.folder(cfg.root, cfg) / synth.INDEX).exists()
    return cfg if there else cfg.model_copy(update={"root": folder})


def ceiling(items: Sequence[Item]) -> dict[str, float]:
    """How far ambiguous captions let retrieval go on these items: see ``polymnia.data.synth.world.ceiling``.

    Their ids may carry the name of a data set in front, as those of tasks do.
    """
    return synth.ceiling([replace(item, id=item.id.rpartition("/")[2]) for item in items])


def _kept(cfg: Config, domain: str) -> set[int]:
    combos = chosen(cfg, domain)
    rng = np.random.default_rng([cfg.seed, len(POOLS) + 1, list(FAMILIES).index(domain)])
    return set(rng.permutation(combos)[: max(1, round(cfg.fraction * len(combos)))].tolist())


def _item(world: Path, scene: dict[str, Any]) -> Item:
    return Item(
        id=scene["id"],
        sources={
            "audio": AudioFile(world / scene["audio"]),
            "image": ImageFile(world / scene["image"]),
            "text": Captions(tuple(caption["text"] for caption in scene["captions"])),
        },
        group=scene["id"],
        topic=scene["domain"],
        split="train" if scene["pool"] == "base" else scene["pool"],
        labels=tuple(scene["labels"]),
    )
