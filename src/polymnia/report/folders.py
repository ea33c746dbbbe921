"""Run folders read back. Only files are read; no run is imported."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from polymnia.report.collect import Arrays, Method, Run
from polymnia.types import UserError


def load_json(path: Path, *, needed: bool) -> dict[str, Any]:
    """An object from a file; {} where an optional one is absent or half-written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if needed:
            raise UserError(f"cannot read {path}: {error}; is {path.parent} the folder of a run?") from error
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__}, not an object")
    return value


def load_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last one of a run in progress may be cut short, and is left out."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def load_ranks(path: Path) -> Arrays:
    """The ranks of single queries; {} where the file is absent or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}


def read_run(path: Path) -> Run:
    """One run folder. UserError where it lacks meta.json or matrix.json."""
    meta, scores = (load_json(path / f"{n}.json", needed=True) for n in ("meta", "matrix"))
    names = ("examples", "taskmap", "compatibility")
    examples, task_map, compatibility = (load_json(path / f"{n}.json", needed=False) for n in names)
    log = load_log(path / "log.jsonl")
    run = Run(path, meta, scores, log, examples, load_ranks(path / "ranks.npz"), task_map, compatibility)
    if not set(run.after) <= set(range(len(run.tasks) + 1)):
        raise UserError(f"{path / 'matrix.json'}: rows {run.after} do not fit {len(run.tasks)} tasks")
    missing = [] if log else ["no log.jsonl, so no losses and no gradient shares"]
    if run.learned < len(run.tasks):
        missing.append(f"in progress: {run.learned} of {len(run.tasks)} tasks learned")
    elif not examples.get("queries"):
        missing.append("no examples.json, so no retrieval gallery")
    return replace(run, missing=tuple(missing))


def read_methods(folders: Sequence[Path]) -> list[Method]:
    """Methods in the order in which their first folder is named, seeds sorted.

    Runs of one name and variant are seeds of one method, unless their tasks differ or a seed comes twice (an edited
    recipe): those stand apart, as "er (2)".
    """
    if not folders:
        raise UserError("no run folder was named: polymnia report RUN...")
    groups: list[dict[int, Run]] = []
    for run in map(read_run, dict.fromkeys(p.resolve() for p in folders)):
        fitting = (g for g in groups if run.seed not in g and run.kin == next(iter(g.values())).kin)
        group = next(fitting, None)
        if group is None:
            groups.append(group := {})
        group[run.seed] = run
    several = len({r.key[0] for g in groups for r in g.values()}) > 1
    methods: dict[str, Method] = {}
    for group in groups:
        name, variant = next(iter(group.values())).key
        label = first = f"{name} / {variant}" if several else variant
        for k in count(2):
            if label not in methods:
                break
            label = f"{first} ({k})"
        methods[label] = Method(label, tuple(run for _, run in sorted(group.items())))
    return list(methods.values())
