"""Which files of a collection are there: each folder is listed once, not asked for one clip at a time."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polymnia.config import Part
from polymnia.data.items import DatasetConfig, OnlineConfig
from polymnia.data.tasks import Reading
from polymnia.types import MODALITIES, Captions, Item, Modality, Split, UserError


@dataclass(frozen=True)
class SetCount:
    """How many items a split of a data set has by its tables, and how many have all their files.

    ``online``: those that lack one are left out, and are not broken. ``example`` is a file that is not there, if any.
    """

    name: str
    split: Split
    official: int
    present: int
    online: bool = False
    example: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.split}: {self.present:,} of {self.official:,} items are there"


def missing(items: Iterable[Item], modalities: Collection[Modality] = MODALITIES) -> dict[str, Path]:
    """A file that is not there, by the id of the item that needs it for one of ``modalities``.

    A link that leads nowhere counts as there (it is found broken when it is read). Raises UserError for a folder that
    may not be listed.
    """
    wanted: dict[str, set[str]] = {}
    known = [(item.id, path) for item in items for path in files(item, modalities)]
    for _, path in known:
        folder, name = os.path.split(path)
        wanted.setdefault(folder, set()).add(name)
    for folder, names in wanted.items():
        names -= _listed(folder, names)
    found: dict[str, Path] = {}
    for id, path in known:
        folder, name = os.path.split(path)
        if name in wanted[folder]:
            found.setdefault(id, Path(path))
    return found


def files(item: Item, modalities: Collection[Modality] = MODALITIES) -> list[str]:
    """The paths of an item's media."""
    return [
        os.fspath(source.path)
        for modality, source in item.sources.items()
        if modality in modalities and not isinstance(source, Captions)
    ]


def _listed(folder: str, names: set[str]) -> set[str]:
    """Which of ``names`` a folder has; of a folder of millions only those are kept in memory."""
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.name in names}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}; make it readable") from error


def tolerated(config: DatasetConfig) -> float | None:
    """The share of a set's items whose files may be absent; None where those count as broken (``max_broken``).

    A set made of others (``join``) tolerates what the most tolerant of them does.
    """
    if isinstance(config, OnlineConfig):
        return config.max_missing
    inner = [tolerated(value.config) for _, value in config if isinstance(value, Part)]
    return max((share for share in inner if share is not None), default=None)


def count(
    readings: Sequence[Reading], modalities: Collection[Modality], read: Collection[str] | None = None
) -> tuple[tuple[SetCount, ...], set[str]]:
    """The counts of each data set and split, and the ids of items to leave out because their clips are gone.

    ``read``: ids of the items whose media the run reads (default: all); splits without any are not counted.
    Raises UserError for a set of online clips of which more than its ``max_missing`` are absent.
    """
    ids: dict[tuple[str, Split], set[str]] = {}
    share: dict[str, float] = {}
    absent: dict[str, Path] = {}
    gone: set[str] = set()
    for reading in readings:
        lost = missing(reading.items, modalities)
        absent |= lost
        for item in reading.items:
            ids.setdefault((reading.name, item.split), set()).add(item.id)
        tolerance = tolerated(reading.part.config)
        if tolerance is not None:
            share[reading.name] = max(tolerance, share.get(reading.name, 0.0))
            gone.update(lost)
    counts = tuple(
        _counted(SetCount(name, split, len(members), 0, name in share), members, absent)
        for (name, split), members in ids.items()
        if read is None or not members.isdisjoint(read)
    )
    for found in counts:
        if found.name in share and found.official - found.present > share[found.name] * found.official:
            raise UserError(
                f"{found}, and max_missing allows {share[found.name]:.0%} to be missing; the first that is: "
                f"{found.example}. Fetch more clips, check that data= and the set's root point at them, or raise "
                f"max_missing of {found.name}. `polymnia data check` lists what is missing."
            )
    return counts, gone


def _counted(bare: SetCount, ids: set[str], absent: dict[str, Path]) -> SetCount:
    lost = [id for id in absent if id in ids]
    return replace(bare, present=bare.official - len(lost), example=str(absent[lost[0]]) if lost else "")
