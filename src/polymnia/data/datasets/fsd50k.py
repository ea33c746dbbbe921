"""FSD50K: 51,197 Freesound clips of 0.3 to 30 s (a few longer), 200 classes of AudioSet's ontology, several a clip.

Where to get it: Zenodo 4060432 (Fonseca et al., 2022); join the parts of the archives first (``zip -s 0``).
Licence: CC BY 4.0; each clip has its own (CC0, CC BY, CC BY-NC, Sampling+), in the clips' info.
Layout: ``root/FSD50K.dev_audio`` and ``root/FSD50K.eval_audio`` (``<id>.wav``), ``root/FSD50K.ground_truth`` with
``dev.csv`` (fname, labels, mids, split), ``eval.csv`` and ``vocabulary.csv`` (no header: index, label, mid),
``root/FSD50K.metadata/{dev,eval}_clips_info_FSD50K.json`` (title, description, ...).
Keys: ``captions: false`` reads neither titles nor descriptions; ``punctuation: false`` drops the marks;
``drop_long: true`` leaves out the twelve development clips of over 30 s that HEAR drops.

Development is train and valid (column ``split``), evaluation is test. The caption is "title description" without
HTML; a clip that has neither has no text. ``labels`` include ancestors and come in the order of the vocabulary. The
file name is the Freesound id.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymnia.config import nearest
from polymnia.data.captions import clean, html_free
from polymnia.data.items import DatasetConfig, check
from polymnia.data.layout import Clips, find_root
from polymnia.data.official import read_json, read_rows, require_a_clip, stem, whole
from polymnia.data.table import Row
from polymnia.types import AudioFile, Captions, Item, Modality, Source, Split, UserError

TRUTH = "FSD50K.ground_truth"
HEAR_DROPS = "83299 83298 121426 121351 121472 121471 124796 397150 124797 124800 124834 124858"
LONG = frozenset(HEAR_DROPS.split())
SPLITS: dict[str, Split] = {"train": "train", "val": "valid"}


class Config(DatasetConfig):
    """``captions``: title and description as text; ``punctuation``: keep the marks; ``drop_long``: as HEAR does."""

    captions: bool = True
    punctuation: bool = True
    drop_long: bool = False


def items(cfg: Config) -> list[Item]:
    """One item a row of ``dev.csv`` and ``eval.csv``, in their order; missing recordings stay in.

    Raises UserError for a root without the layout, a table of another version, or no recording at all.
    """
    tables = [f"{TRUTH}/{name}" for name in ("dev.csv", "eval.csv", "vocabulary.csv")]
    root = find_root(cfg.root, [*tables, *(["FSD50K.metadata"] if cfg.captions else [])], "FSD50K")
    order = {name: number for number, name in enumerate(vocabulary(root))}
    found = [item for part in ("dev", "eval") for item in _part(cfg, root, part, order)]
    what = f"FSD50K at {root}"
    require_a_clip(check(found, what), [root / "FSD50K.dev_audio", root / "FSD50K.eval_audio"], what)
    return found


def vocabulary(root: Path) -> list[str]:
    """The classes in their official order. UserError if the indices do not count from 0."""
    names = []
    for row in read_rows(root / TRUTH / "vocabulary.csv", ("index", "label", "mid"), header=False):
        if whole(row, "index") != len(names):
            raise row.fault(f"index {row.word('index')} where {len(names)} should follow")
        names.append(row.word("label"))
    return names


def _part(cfg: Config, root: Path, part: str, order: Mapping[str, int]) -> list[Item]:
    columns = ("fname", "labels", "mids", *(["split"] if part == "dev" else []))
    info = root / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json"
    told: Mapping[str, Any] = read_json(info) if cfg.captions else {}
    clips = Clips([root / f"FSD50K.{part}_audio"])
    found = []
    for row in read_rows(root / TRUTH / f"{part}.csv", columns):
        name = stem(row, "fname")
        if cfg.drop_long and part == "dev" and name in LONG:
            continue
        sources: dict[Modality, Source] = {"audio": AudioFile(clips.path(name))}
        if cfg.captions and (text := _caption(cfg, told, name, info)):
            sources["text"] = Captions((text,))
        found.append(
            Item(name, sources, name, split=_split(row), labels=_labels(row, order), origin=(f"freesound:{name}",))
        )
    return found


def _split(row: Row) -> Split:
    if "split" not in row.cells:
        return "test"
    if row.word("split") not in SPLITS:
        raise row.fault(f"unknown split '{row.word('split')}'; {nearest(row.word('split'), list(SPLITS))}")
    return SPLITS[row.word("split")]


def _labels(row: Row, order: Mapping[str, int]) -> tuple[str, ...]:
    labels = [label.strip() for label in row.word("labels").split(",") if label.strip()]
    for label in labels:
        if label not in order:
            raise row.fault(f"label '{label}' is not in vocabulary.csv: are the tables of one version?")
    return tuple(sorted(labels, key=order.__getitem__))


def _caption(cfg: Config, told: Mapping[str, Any], name: str, info: Path) -> str:
    clip = told.get(name)
    words = [clip.get(key) for key in ("title", "description")] if isinstance(clip, dict) else [None]
    if not all(isinstance(word, str) for word in words):
        raise UserError(f"{info}: clip {name} has no title and description; captions: false does without")
    return clean(html_free(" ".join(words)), cfg.punctuation)
