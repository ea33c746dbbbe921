"""What a data set gives: items. One file a data set, under ``data/datasets/``, with ``Config`` and ``items(cfg)``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from polymnia.config import Frozen
from polymnia.types import Captions, Item, UserError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]  # a caption with one {} in it


class DatasetConfig(Frozen):
    """Keys that every data set has. ``root`` is taken against the recipe's ``data:`` before ``items`` sees it."""

    root: Path


class OnlineConfig(DatasetConfig):
    """For sets whose clips everyone fetches from a video site, where some are gone: a share of at most
    ``max_missing`` of the files may be absent. They are left out, and every score says how many there were."""

    max_missing: float = Field(0.5, ge=0, le=1)


def require(path: Path, what: str) -> Path:
    """``path`` if it exists; else a UserError that says what was looked for and what to point ``data=`` at."""
    if not path.exists():
        raise UserError(f"{what} not found: {path} does not exist. Point data=FOLDER at the folder that holds it.")
    return path


def captions(templates: Sequence[str], phrase: str) -> Captions:
    """The templates, filled with a phrase."""
    return Captions(tuple(template.format(phrase) for template in templates))


def check(items: Sequence[Item], what: str) -> list[Item]:
    """The items, after refusing an empty list and duplicate ids."""
    if not items:
        raise UserError(f"{what} has no items")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(f"{what}: duplicate id '{item.id}'; ids must be unique")
        seen.add(item.id)
    return list(items)
