"""A manifest whose files may be absent, and whose topics are the videos that the clips are from."""

from __future__ import annotations

from dataclasses import replace

from polymnia.data.datasets import manifest
from polymnia.data.items import OnlineConfig
from polymnia.types import Item


class Config(OnlineConfig, manifest.Config):
    """The keys of a manifest, and ``max_missing``."""


def items(cfg: Config) -> list[Item]:
    """The rows of the manifest, each with its video."""
    return [replace(i, origin=(f"youtube:{i.topic}",) if i.topic else ()) for i in manifest.items(cfg)]
