"""What a run keeps so that an index can follow its encoder: vectors of a few items, as every encoder embeds them.

``anchors/items.json`` lists the items, ``anchors/after-<k>.safetensors`` holds their unit vectors after task k. Items
have a role: adapters are *fit* on training items and *chosen* on others of them (a quarter); on *test* items (at most
``TEST`` a task) it is only measured how well vectors of one encoder serve another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polymnia.data.disk import write_text
from polymnia.types import MODALITIES, Embed, Item, Modality, Pair, Task, UserError

FOLDER, TEST = "anchors", 1000
MANY = 20  # groups of a task from which on some are held out whole
Role = Literal["fit", "choose", "test"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """An item whose vectors are kept. ``task`` counts from 1."""

    id: str
    group: str
    task: int
    role: Role


@dataclass(frozen=True)
class Rows:
    """Vectors of one modality after one task; ``at`` says which anchor each is of (a text has one a caption)."""

    vectors: Float[Tensor, "n d"]
    at: Int[Tensor, " n"]


@dataclass(frozen=True)
class Anchors:
    """All that a run kept: ``rows[k][modality]`` after task k. ``pairs`` are those that each task aligns."""

    items: tuple[Anchor, ...]
    rows: Mapping[int, Mapping[Modality, Rows]]
    tasks: tuple[str, ...]
    pairs: tuple[tuple[Pair, ...], ...]

    def partners(self, modality: Modality, tasks: Sequence[int]) -> set[Modality]:
        """The modalities that some tasks align with this one, and itself."""
        aligned = (pair for t in tasks for pair in self.pairs[t - 1] if modality in pair)
        return {modality, *(m for pair in aligned for m in pair)}

    def select(
        self, after: int, modality: Modality, roles: Sequence[Role], tasks: Sequence[int]
    ) -> tuple[Float[Tensor, "n d"], tuple[str, ...], tuple[str, ...]]:
        """Vectors of a modality after a task, of anchors of some roles and tasks; with each row's id and group."""
        rows = self.rows[after].get(modality)
        if rows is None:
            return torch.zeros(0, self.dim), (), ()
        wanted = torch.tensor([a.role in roles and a.task in tasks for a in self.items], dtype=torch.bool)
        kept = wanted[rows.at].nonzero()[:, 0]
        of = [self.items[n] for n in rows.at[kept].tolist()]
        return rows.vectors[kept], tuple(a.id for a in of), tuple(a.group for a in of)

    @property
    def dim(self) -> int:
        return next(r.vectors.shape[1] for after in self.rows.values() for r in after.values())

    def need(self, *after: int) -> None:
        """Raise UserError if there are no vectors after one of these tasks."""
        lacking = [k for k in after if k not in self.rows]
        if lacking:
            raise UserError(f"no anchors were kept after task {lacking[0]}; there are {sorted(self.rows)}")


def choose(tasks: Sequence[Task], count: int) -> list[tuple[Item, Anchor]]:
    """At most ``count`` training items and ``TEST`` test items of each task, by a hash of their ids."""
    chosen: dict[str, tuple[Item, Anchor]] = {}
    for task in tasks:
        for item in sorted(task.test, key=lambda i: _hashed(i.id))[:TEST]:
            chosen.setdefault(item.id, (item, Anchor(item.id, item.group, task.index, "test")))
        drawn = sorted(task.train, key=lambda i: _hashed(i.id))[:count]
        # By group, as near copies share one; but where groups are a few classes, that would hold out whole classes.
        classes = len({i.group for i in drawn}) < MANY
        for item in drawn:
            held = int(_hashed(f"held {item.id if classes else item.group}"), 16) % 4 == 0
            chosen.setdefault(item.id, (item, Anchor(item.id, item.group, task.index, "choose" if held else "fit")))
    return list(chosen.values())


def keep(folder: Path, after: int, tasks: Sequence[Task], embed: Embed, count: int) -> None:
    """Write what the encoder makes of the anchors after task ``after``; nothing if ``count`` is 0."""
    chosen = choose(tasks, count) if count else []
    if not chosen:
        return
    out: dict[str, Tensor] = {}
    for m in MODALITIES:
        at = [n for n, (item, _) in enumerate(chosen) if m in item.sources]
        if not at:
            continue
        table = embed([chosen[n][0] for n in at], m)
        number = {chosen[n][0].id: n for n in at}
        out[m] = table.vectors.contiguous()
        out[f"{m}.at"] = torch.tensor([number[i] for i in table.ids])
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    items = [[a.id, a.group, a.task, a.role] for _, a in chosen]
    said = {"tasks": [t.name for t in tasks], "pairs": [t.pairs for t in tasks], "items": items}
    write_text(place / "items.json", json.dumps(said))
    partial = place / f".after-{after}.tmp"
    save_file(out, partial)
    partial.replace(place / f"after-{after}.safetensors")


def read(folder: Path) -> Anchors:
    """The anchors of a run folder. Raises UserError where there are none, or they are damaged."""
    place = folder / FOLDER
    files = {int(p.stem.removeprefix("after-")): p for p in place.glob("after-*.safetensors")}
    if not files:
        raise UserError(f"{folder} has no anchors: it was run with anchors: 0, or by an older version; run it again")
    try:
        said = json.loads((place / "items.json").read_text(encoding="utf-8"))
        items = tuple(Anchor(*fields) for fields in said["items"])
        pairs = tuple(tuple((a, b) for a, b in aligned) for aligned in said["pairs"])
        rows = {after: _rows(path, len(items)) for after, path in sorted(files.items())}
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"{place} is damaged ({error}); delete {folder}/checkpoints and run again") from error
    return Anchors(items, rows, tuple(said["tasks"]), pairs)


def _rows(path: Path, count: int) -> dict[Modality, Rows]:
    out: dict[Modality, Rows] = {}
    with safe_open(path, "pt") as file:
        for m in (m for m in MODALITIES if m in file.keys()):  # noqa: SIM118 (no mapping)
            rows = Rows(file.get_tensor(m), file.get_tensor(f"{m}.at"))
            if len(rows.at) != len(rows.vectors) or not bool(((rows.at >= 0) & (rows.at < count)).all()):
                raise ValueError(f"{path.name}: its {m} rows are of other items")
            out[m] = rows
    return out


def _hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
