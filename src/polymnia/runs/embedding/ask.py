"""What `embed` may be asked for: a folder, a manifest, a data set by name, or the run's own items."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from polymnia.config import parse_part
from polymnia.data.names import escape
from polymnia.data.presence import count
from polymnia.data.tasks import Sets
from polymnia.recipe import parse_overrides
from polymnia.runs.embedding.job import Plan
from polymnia.runs.embedding.plans import CaptionFrom, folder_plan, items_plan
from polymnia.runs.encoder import Encoder
from polymnia.runs.own_items import own_items
from polymnia.types import MODALITIES, Item, Modality, Split, UserError

SPLITS: tuple[Split, ...] = get_args(Split)
TABLES = (".csv", ".jsonl")
Wanted = Literal["test", "valid", "train", "all"]


@dataclass(frozen=True)
class Ask:
    """``source``: a folder that is walked, or a manifest; the root of ``dataset``; None: the run's own items.

    ``dataset``: the name of a data set, with ``keys`` (key=value words). ``split``: of items (default: the run's test
    items, all of a manifest or data set). ``only``: these modalities (default: all that the run has towers for).
    ``links`` and ``captions``: of a folder, see ``folder_plan``.
    """

    source: Path | None = None
    dataset: str = ""
    keys: tuple[str, ...] = ()
    split: Wanted | None = None
    only: tuple[str, ...] = ()
    links: bool = False
    captions: CaptionFrom = "none"


def make_plan(run: Path, encoder: Encoder, ask: Ask, out: Path) -> Plan:
    """Everything to be embedded, in order. Raises UserError for what is not there or does not go together."""
    modalities = _modalities(encoder, ask.only)
    walked = ask.source is not None and not ask.dataset and not _is_table(ask.source)
    _check(ask, walked)
    if walked:
        return folder_plan(ask.source, modalities, ask.links, ask.captions, out)  # type: ignore[arg-type]
    if ask.source is None:
        splits = _splits(ask.split or "test")
        names, items = own_items(run, encoder.recipe, "embed them", splits)
        about = {"kind": "run", "place": _place(encoder.recipe.data), "split": ask.split or "test"}
        return items_plan(items, encoder.recipe.data, modalities, about, names)
    name, root = (ask.dataset, ask.source) if ask.dataset else ("manifest", ask.source.parent)
    more: dict[str, Any] = parse_overrides(ask.keys) if ask.dataset else {"file": ask.source.name}
    if "use" in more or "root" in more:
        raise UserError("the data set's name and folder are said by --dataset and SOURCE: leave use= and root= out")
    items, gone = _read({"use": name, "root": str(root), **more}, modalities)
    wanted = _splits(ask.split or "all")
    about = {"kind": name, "place": _place(ask.source), "split": ask.split or "all", "keys": " ".join(ask.keys)}
    there = [i for i in items if i.split in wanted and i.id not in gone]
    plan = items_plan(there, root, modalities, about)
    for item in (i for i in items if i.split in wanted and i.id in gone):
        plan.skip(escape(item.id.encode("utf-8", "surrogatepass")), "a clip of an online set that is not there")
    return plan


def _check(ask: Ask, walked: bool) -> None:
    """Raises UserError for options that have no effect on such a source."""
    if ask.source is not None and not ask.source.exists():
        raise UserError(f"there is no {_place(ask.source)}; give a folder, a manifest, or none: the run's own items")
    if ask.dataset and ask.source is None:
        raise UserError(f"--dataset {ask.dataset}: give the folder that it lies in, too")
    if ask.keys and not ask.dataset:
        raise UserError(f"'{ask.keys[0]}' is a key of a data set: say which with --dataset NAME")
    if walked and ask.split:
        raise UserError("a folder has no splits: leave --split out, or write a manifest")
    if not walked and (ask.links or ask.captions != "none"):
        raise UserError("--links and --caption-from are for a folder that is walked")


def _modalities(encoder: Encoder, only: Sequence[str]) -> tuple[Modality, ...]:
    there = encoder.model.modalities
    if lacking := [m for m in only if m not in there]:
        raise UserError(f"this run has no {lacking[0]} tower; it has {', '.join(there)}")
    return tuple(m for m in there if not only or m in only)


def _splits(wanted: Wanted) -> tuple[Split, ...]:
    return SPLITS if wanted == "all" else (wanted,)


def _read(raw: dict[str, Any], modalities: Sequence[Modality]) -> tuple[list[Item], set[str]]:
    """The items of a data set under the ids that a run gives them, and those that may be, and are, absent."""
    try:
        part = parse_part("data.datasets", raw)
    except ValueError as error:
        raise UserError(str(error)) from error
    sets = Sets(Path())
    items = sets.items(part)
    _, gone = count(sets.readings, [m for m in MODALITIES if m in modalities])
    return items, gone


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES and not path.is_dir()


def _place(path: Path) -> str:
    return escape(os.fsencode(os.path.abspath(path)))
