"""What is written of HEAR's tasks, and the table over all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polymnia.data.disk import write_text
from polymnia.types import UserError

# The benchmark's 19 tasks: name, folders without their version (task-mode; beehive's two folds are one task), metric.
TASKS: dict[str, tuple[tuple[str, ...], str]] = {
    "DCASE 2016 task 2": (("dcase2016_task2-full",), "event_onset_200ms_fms"),
    "NSynth Pitch 5h": (("nsynth_pitch-5h",), "pitch_acc"),
    "NSynth Pitch 50h": (("nsynth_pitch-50h",), "pitch_acc"),
    "Speech Commands 5h": (("speech_commands-5h",), "top1_acc"),
    "Speech Commands full": (("speech_commands-full",), "top1_acc"),
    "Beehive States": (("beehive_states_fold0-full", "beehive_states_fold1-full"), "aucroc"),
    "Beijing Opera": (("beijing_opera-full",), "top1_acc"),
    "ESC-50": (("esc50-full",), "top1_acc"),
    "FSD50K": (("fsd50k-full",), "mAP"),
    "Gunshot": (("gunshot_triangulation-full",), "top1_acc"),
    "LibriCount": (("libricount-full",), "top1_acc"),
    "MAESTRO 5h": (("maestro-5h",), "event_onset_50ms_fms"),
    "Mridangam Stroke": (("mridangam_stroke-full",), "top1_acc"),
    "Mridangam Tonic": (("mridangam_tonic-full",), "top1_acc"),
    "CREMA-D": (("tfds_crema_d-full",), "top1_acc"),
    "GTZAN Genre": (("tfds_gtzan-full",), "top1_acc"),
    "GTZAN M/S": (("tfds_gtzan_music_speech-full",), "top1_acc"),
    "Vocal Imitation": (("vocal_imitation-full",), "mAP"),
    "VoxLingua107 top 10": (("vox_lingua_top10-full",), "top1_acc"),
}
# Which 16 the audio paper means by "full HEAR" is not known; this is a task a data set, the largest mode of each.
FULL16: tuple[str, ...] = tuple(
    name for name in TASKS if name not in ("NSynth Pitch 5h", "Speech Commands 5h", "Mridangam Tonic")
)
# Columns of that paper's Table 3; US8K and AudioSet, the other two behind its "Avg.", are no tasks of HEAR.
TABLE3: tuple[str, ...] = ("ESC-50", "FSD50K", "Gunshot", "GTZAN M/S", "CREMA-D")


class Row(NamedTuple):
    """A line of the table. ``score`` is None where the task was not run, or its score has no value."""

    name: str
    metric: str
    score: float | None
    std: float | None
    n: int


def write(path: Path, result: Mapping[str, Any]) -> None:
    """A result as JSON, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1, allow_nan=False))


def read(path: Path) -> dict[str, Any] | None:
    """A result that was written, or None where there is none. Raises UserError for a damaged file."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
        return found if {"task", "primary", "score", "N"} <= found.keys() else None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and run again") from error


def table(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The 19 tasks in the benchmark's order, what was run of them, then tasks that are not the benchmark's."""
    by_key = {_key(r): r for r in results}
    rows = []
    for name, (folders, metric) in TASKS.items():
        found = [by_key.pop(folder) for folder in folders if folder in by_key]
        whole = found if len(found) == len(folders) else []  # half of Beehive is no score of it
        rows.append(_row(name, metric, whole))
    return rows + [_row(key, r["primary"], [r]) for key, r in by_key.items()]


def _key(result: Mapping[str, Any]) -> str:
    return f"{result['name']}-{result['mode']}"


def _row(name: str, metric: str, results: Sequence[Mapping[str, Any]]) -> Row:
    scores = [r["score"] for r in results if r["primary"] == metric]
    if not results or len(scores) < len(results) or None in scores:
        return Row(name, metric, None, None, 0)
    std = results[0]["std"] if len(results) == 1 else float(np.std(scores, ddof=1))
    return Row(name, metric, float(np.mean(scores)), std, sum(r["N"] for r in results))


def mean(rows: Sequence[Row], names: Sequence[str]) -> tuple[float | None, list[str]]:
    """The mean primary score over those of ``names`` that have one, and which those are.

    Raises UserError for a name that is no row.
    """
    scores = {r.name: r.score for r in rows}
    if strange := [n for n in names if n not in scores]:
        raise UserError(f"no HEAR task '{strange[0]}'; known: {', '.join(scores)}")
    have = [n for n in names if scores[n] is not None]
    return (float(np.mean([scores[n] for n in have])) if have else None), have


def markdown(rows: Sequence[Row], full16: Sequence[str] = FULL16) -> str:
    """The table and its two means, each with the columns that it is over."""
    out = ["| task | metric | score | std over folds | N |", "|---|---|---|---|---|"]
    for r in rows:
        out.append(f"| {r.name} | {r.metric} | {_number(r.score)} | {_number(r.std)} | {r.n or '–'} |")
    for title, names in (("HEAR columns of the audio paper's Table 3", TABLE3), ("full16", full16)):
        value, have = mean(rows, names)
        over = ", ".join(have) if have and len(have) < 8 else f"{len(have)} tasks"
        out += ["", f"{title}: {_number(value)} over {len(have)} of {len(names)} ({over})"]
    return "\n".join(out)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
