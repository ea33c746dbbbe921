"""HEAR's tasks as they lie on disk.

    tasks/<task>-<version>-<mode>/task_metadata.json      what kind of task, its splits, its metrics (the first counts)
                                  labelvocabulary.csv     idx,label
                                  <split>.json            train, valid, test, or fold00, fold01, ...
                                  <rate>/<split>/*.wav

A scene file is {"a.wav": ["label", ...]}; an event file {"a.wav": [{"label": ..., "start": ms, "end": ms}, ...]}.
Archives: https://zenodo.org/record/5885750 (48 kHz; other rates on gs://hear2021-archive).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from polymnia.config import nearest
from polymnia.eval.hear.events import EVENT, Event
from polymnia.eval.hear.metrics import SCENE
from polymnia.eval.probes.folds import rotate
from polymnia.types import UserError

METADATA, VOCABULARY = "task_metadata.json", "labelvocabulary.csv"
LARGEST = 1 << 30  # bytes of a JSON file
KFOLD = ("new_split_kfold", "presplit_kfold")
Rotation = tuple[tuple[str, ...], str, str]  # splits of train; of valid; of test


@dataclass(frozen=True)
class Task:
    """One task. ``name`` is its folder's; ``task`` without version and mode. ``params``: the metadata's own settings.

    ``early_stop_by_score``: false where training stops by the loss on validation.
    """

    folder: Path
    task: str
    mode: str
    kind: Literal["scene", "event"]
    exclusive: bool
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    kfold: bool
    metrics: tuple[str, ...]
    early_stop_by_score: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def rotations(self) -> list[Rotation]:
        if not self.kfold:
            return [(("train",), "valid", "test")]
        return [(tuple(train), valid, test) for train, valid, test in rotate(self.splits)]


def find(root: Path, wanted: Sequence[str] = ()) -> list[Task]:
    """The tasks of a folder, in the order of their names; of ``wanted`` only, by folder, task or task-mode.

    Raises UserError for a folder that holds none (one level too high or too deep is said), an unknown name, two
    versions of one task, and metadata that are damaged or of a kind that is not HEAR's.
    """
    if (root / METADATA).is_file():
        raise UserError(f"{root} is one task: give the folder that holds it, {root.parent}, and --task {root.name}")
    folders = sorted(p.parent for p in root.glob(f"*/{METADATA}"))
    if not folders:
        below = sorted(
            {p.parents[1] for p in root.glob(f"*/*/{METADATA}")}
            | {p.parents[1] for p in root.glob(f"*/*/*/{METADATA}")}
        )
        found = f"; {below[0]} has some" if below else ": it needs <task>-<version>-<mode>/" + METADATA
        raise UserError(f"{root} holds no HEAR tasks{found}")
    tasks = [read(folder) for folder in folders]
    for name in wanted:
        if not any(name in _names(t) for t in tasks):
            raise UserError(f"no task '{name}' in {root}; {nearest(name, [t.name for t in tasks])}")
    chosen = [t for t in tasks if set(wanted) & _names(t)] if wanted else tasks
    versions: dict[tuple[str, str], Task] = {}
    for task in chosen:
        other = versions.setdefault((task.task, task.mode), task)
        if other is not task:
            raise UserError(f"{other.name} and {task.name} in {root} are one task: choose by --task {task.name}")
    return chosen


def _names(task: Task) -> set[str]:
    return {task.name, task.task, f"{task.task}-{task.mode}"}


def read(folder: Path) -> Task:
    """One task's metadata. Raises UserError as ``find`` does."""
    path = folder / METADATA
    meta = _json(path)
    try:
        kind, prediction, mode = meta["embedding_type"], meta["prediction_type"], meta["split_mode"]
        name, metrics = str(meta["task_name"]), tuple(map(str, meta["evaluation"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no HEAR metadata of 2021: {error} is missing") from error
    for key, value, known in (
        ("embedding_type", kind, ["scene", "event"]),
        ("prediction_type", prediction, ["multiclass", "multilabel"]),
        ("split_mode", mode, ["trainvaltest", *KFOLD]),
        *(("evaluation", m, list(SCENE if kind == "scene" else EVENT)) for m in metrics),
    ):
        if value not in known:
            raise UserError(f"{path}: {key} '{value}' is not known; {nearest(str(value), known)}")
    if not metrics or (kind == "event" and prediction == "multiclass"):
        raise UserError(f"{path}: a task needs a metric, and events are multilabel")
    task = Task(
        folder=folder,
        task=name,
        mode=str(meta.get("mode", folder.name.rpartition("-")[2])),
        kind=kind,
        exclusive=prediction == "multiclass",
        labels=_vocabulary(folder / VOCABULARY),
        splits=_splits(meta, mode in KFOLD),
        kfold=mode in KFOLD,
        metrics=metrics,
        early_stop_by_score=bool(meta.get("use_scoring_for_early_stopping", True)),
        params=meta.get("evaluation_params") or {},
    )
    for split in task.splits:
        if not (folder / f"{split}.json").is_file():
            raise UserError(f"{folder} has no {split}.json: unpack its archive again")
    return task


def _splits(meta: Mapping[str, Any], kfold: bool) -> tuple[str, ...]:
    if not kfold:
        return ("train", "valid", "test")
    return tuple(meta.get("splits") or (f"fold{k:02d}" for k in range(int(meta.get("nfolds", 0)))))


def _vocabulary(path: Path) -> tuple[str, ...]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = {int(row["idx"]): row["label"] for row in csv.DictReader(file)}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no table of idx,label: {error}") from error
    if sorted(rows) != list(range(len(rows))) or not rows:
        raise UserError(f"{path}: idx must count up from 0")
    return tuple(rows[k] for k in range(len(rows)))


def scenes(task: Task, split: str) -> dict[str, tuple[str, ...]]:
    """The labels of each file of a split. Raises UserError for one that HEAR's format does not have."""
    path, known = task.folder / f"{split}.json", set(task.labels)
    found = {}
    for name, labels in _json(path).items():
        found[_plain(path, name)] = own = tuple(str(label) for label in labels)
        if strange := [label for label in own if label not in known]:
            raise UserError(f"{path}: {name}: '{strange[0]}'; {nearest(strange[0], list(task.labels)[:50])}")
        if task.exclusive and len(own) != 1:
            raise UserError(f"{path}: {name} has {len(own)} labels, but the task is multiclass")
    return found


def events(task: Task, split: str) -> dict[str, tuple[Event, ...]]:
    """The events of each file of a split. Raises UserError for one that HEAR's format does not have."""
    path, known = task.folder / f"{split}.json", set(task.labels)
    found = {}
    for name, raw in _json(path).items():
        try:
            own = tuple(Event(str(e["label"]), float(e["start"]), float(e["end"])) for e in raw)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {name}: an event needs label, start and end in ms ({error!r})") from error
        for event in own:
            if event.label not in known or not 0 <= event.start <= event.end < float("inf"):
                raise UserError(f"{path}: {name}: {event} is not of this task's vocabulary, or ends before it starts")
        found[_plain(path, name)] = own
    return found


def names(task: Task, split: str) -> list[str]:
    """The files of a split. Raises UserError for a name that leads out of its folder."""
    path = task.folder / f"{split}.json"
    return [_plain(path, name) for name in _json(path)]


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST >> 20} MiB: no file of HEAR is")
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): unpack its archive again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold an object, not a {type(found).__name__}")
    return found


def _plain(path: Path, name: str) -> str:
    if PurePosixPath(name).name != name or name in ("", ".", "..") or "\\" in name:
        raise UserError(f"{path}: {name!r} is no plain file name")
    return name


def audio(task: Task, split: str, names: Sequence[str], rate: int) -> list[Path]:
    """The recordings of a split at a rate. Raises UserError if that rate was not unpacked, or files are missing."""
    folder = task.folder / str(rate) / split
    if not folder.is_dir():
        rates = sorted(p.name for p in task.folder.iterdir() if p.is_dir() and p.name.isdigit())
        have = f"it has {', '.join(rates)}: " if rates else ""
        raise UserError(
            f"{task.folder} has no {rate}/{split}; {have}unpack the archive of {rate} Hz, or resample by --rate"
        )
    paths = [folder / name for name in names]
    if missing := [p for p in paths if not p.is_file()]:
        raise UserError(f"{task.name}: {len(missing)} of {len(paths)} files are missing, as {missing[0]}")
    return paths
