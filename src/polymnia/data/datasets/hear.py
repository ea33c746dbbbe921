"""HEAR: the scene tasks of the Holistic Evaluation of Audio Representations, one of them at a time.

Where to get it: Zenodo 5885750, ``hear2021-<task>-<version>-<mode>-48000.tar.gz`` (Turian et al., 2022), unpacked;
other rates by hear-preprocess.
Licence: that of each task's own data; most are CC BY, some non-commercial.
Layout: ``root/<task>-<version>-<mode>/`` with ``task_metadata.json``, ``labelvocabulary.csv`` (idx, label),
``<split>.json`` ({"file.wav": ["label", ...]}) and ``<rate>/<split>/file.wav``; splits are train, valid, test or
fold00, fold01, ... ``root`` is the folder ``tasks``, or the folder of the one task.
Keys: ``task`` (the name up to a dash, ``esc50``, or the whole folder, ``nsynth_pitch-v2.2.3-5h``; patterns with ``*``
are fine); ``rate`` (48000); of tasks with folds, ``test_fold`` (0) and ``valid_fold`` (the next one) are held out;
``templates`` give the clips captions.

Items come in the order of the vocabulary, their ``labels`` too. Of multi-class tasks ``topic`` is the label and clips
of a label are positives; of multi-label tasks every clip is its own group. The event tasks (dcase2016_task2, maestro)
need time stamps: ``polymnia eval hear`` reads those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import Field

from polymnia.data.folds import FoldsConfig
from polymnia.data.items import Template, check, require
from polymnia.data.layout import Clips
from polymnia.data.official import read_json, read_rows, require_a_clip, stem, whole
from polymnia.data.table import Row
from polymnia.types import AbsentError, AudioFile, Captions, Item, Modality, Source, Split, UserError

META = "task_metadata.json"
SPLITS: dict[str, Split] = {"train": "train", "valid": "valid", "test": "test"}
FOLD = re.compile(r"fold(\d+)")
SHOWN = 8  # task folders that a message names


class Config(FoldsConfig):
    """``task``: which one; ``rate``: of the recordings, in Hz; ``valid_fold``: none is the one after the test fold."""

    task: str = "*"
    rate: int = Field(default=48000, gt=0)
    test_fold: int | Literal["all"] = 0
    templates: tuple[Template, ...] = ()


def items(cfg: Config) -> list[Item]:
    """One item a file of each split, in the order of the vocabulary; missing recordings stay in.

    Raises UserError for a root without the task, an event task, a rate that is not there, or no recording at all.
    """
    folder = _folder(cfg)
    meta = read_json(folder / META)
    if meta.get("embedding_type") != "scene":
        kind = meta.get("embedding_type")
        raise UserError(f"{folder} is a task of kind '{kind}', not 'scene'; `polymnia eval hear` reads event tasks")
    order = _vocabulary(folder)
    splits = _splits(folder)
    folds = [int(match[1]) for name in splits if (match := FOLD.fullmatch(name))]
    if folds:
        if cfg.valid_fold is None and cfg.test_fold != "all":
            cfg = cfg.model_copy(update={"valid_fold": (cfg.test_fold + 1) % len(folds)})
        cfg.check_folds(folds, str(folder))
    cfg.check_names(order, str(folder))
    single = meta.get("prediction_type") == "multiclass"
    found = [_item(cfg, row, order, single) for name in splits for row in _rows(cfg, folder, name)]
    found.sort(key=lambda item: [order[label] for label in item.labels])
    require_a_clip(check(found, f"HEAR task {folder}"), [folder / str(cfg.rate)], f"HEAR task {folder}")
    return found


def _folder(cfg: Config) -> Path:
    """The folder of the one task that ``root`` and ``task`` name."""
    root = require(cfg.root, "the folder of HEAR tasks")
    there = [root] if (root / META).is_file() else _tasks(root)
    if not there:
        # of a task's inner folder, its task; of a folder above, the one that holds tasks
        near = [up for up in list(root.resolve().parents)[:2] if (up / META).is_file()]
        near += [down for down in sorted(root.glob("*/")) if _tasks(down)]
        hint = f"; give {near[0]}" if near else ""
        raise UserError(f"no HEAR task in {root}{hint} (data=FOLDER, or the set's root: the folder 'tasks' or a task)")
    fit = [path for path in there if fnmatchcase(path.name, cfg.task) or fnmatchcase(path.name, f"{cfg.task}-*")]
    if len(fit) != 1:
        names = [path.name for path in fit or there]
        listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        kind = UserError if fit else AbsentError
        raise kind(f"task: {root} has {len(fit) or 'no'} tasks called '{cfg.task}'; choose one of: {listed}")
    return fit[0]


def _tasks(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob(f"*/{META}"))


def _vocabulary(folder: Path) -> dict[str, int]:
    rows = read_rows(folder / "labelvocabulary.csv", ("idx", "label"))
    order = {row.word("label"): whole(row, "idx") for row in rows}
    if sorted(order.values()) != list(range(len(order))):
        raise UserError(f"{folder / 'labelvocabulary.csv'}: idx must count from 0, once a label")
    return order


def _splits(folder: Path) -> list[str]:
    names = sorted(path.stem for path in folder.glob("*.json"))
    folds = [name for name in names if FOLD.fullmatch(name)]
    if folds:
        return folds
    if missing := [name for name in SPLITS if name not in names]:
        raise UserError(f"{folder} has neither fold00.json, ... nor {', '.join(f'{n}.json' for n in missing)}")
    return list(SPLITS)


def _rows(cfg: Config, folder: Path, name: str) -> Iterator[Row]:
    """One row a recording: its split, path and labels."""
    if not (folder / str(cfg.rate)).is_dir():
        rates = sorted(int(path.name) for path in folder.glob("*/") if path.name.isdigit())
        there = ", ".join(map(str, rates)) or "none: unpack the recordings"
        way = "any of them will do, as recordings are resampled"
        raise UserError(f"rate: {folder} has no folder {cfg.rate}; rates there: {there}; {way}")
    clips = Clips([folder / str(cfg.rate) / name])
    for file, labels in read_json(folder / f"{name}.json").items():
        row = Row(f"{folder / name}.json, '{file}'", {"file": file, "labels": labels, "split": name})
        yield Row(row.where, row.cells | {"path": clips.path(stem(row, "file"))})


def _item(cfg: Config, row: Row, order: Mapping[str, int], single: bool) -> Item:
    names = row.cells["labels"]
    if not isinstance(names, list) or (single and len(names) != 1):
        raise row.fault(f"expected a list of {'one label' if single else 'labels'}, found {names!r:.80}")
    if unknown := [name for name in map(str, names) if name not in order]:
        raise row.fault(f"label '{unknown[0]}' is not in labelvocabulary.csv")
    labels = tuple(sorted(map(str, names), key=order.__getitem__))
    fold = FOLD.fullmatch(row.cells["split"])
    sources: dict[Modality, Source] = {"audio": AudioFile(row.cells["path"])}
    if cfg.templates and labels:
        texts = [text for label in labels for text in cfg.text(label).texts]
        sources["text"] = Captions(tuple(texts))
    name = stem(row, "file")
    task = row.cells["path"].parents[2].name.split("-")[0]
    return Item(
        name,
        sources,
        group=f"{task}:{labels[0]}" if single else name,
        topic=labels[0] if single else "",
        split=cfg.split(int(fold[1])) if fold else SPLITS[row.cells["split"]],
        labels=labels,
        fold=int(fold[1]) if fold else 0,
    )
