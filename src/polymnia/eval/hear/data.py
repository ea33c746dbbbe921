"""The rows of a task that a probe sees, and how predictions for them are scored."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from polymnia.eval.hear import embeddings, tasks
from polymnia.eval.hear.embeddings import HearEncoder, Part
from polymnia.eval.hear.events import EVENT, LOWER_IS_BETTER, Event, Postprocessing, activity, detect
from polymnia.eval.hear.metrics import SCENE
from polymnia.eval.hear.tasks import Task
from polymnia.types import UserError

Logits = Float64[np.ndarray, "n c"]
GRID = {"median_filter_ms": (250.0,), "min_duration": (125.0, 250.0)}  # the kit's, where a task names none


@dataclass(frozen=True)
class Recording:
    """One recording: where its embeddings lie, the classes of each, and for events when each is and what is true."""

    name: str
    part: Part
    y: Bool[np.ndarray, "t c"]
    times: Float64[np.ndarray, " t"] | None
    truth: tuple[Event, ...]


def prepare(task: Task, split: str, embed: Callable[[Sequence[str]], embeddings.Embedded]) -> list[Recording]:
    """The recordings of a split in the order that training sees them: shuffled once, as the kit does."""
    number = {label: k for k, label in enumerate(task.labels)}
    labelled = tasks.scenes(task, split) if task.kind == "scene" else {}
    heard = tasks.events(task, split) if task.kind == "event" else {}
    names = list(labelled or heard)
    if not names:
        raise UserError(f"{task.folder}/{split}.json names no recording")
    found = embed(names)
    random.Random(0).shuffle(names)
    made = []
    for name in names:
        times = found.times.get(name)
        if times is None:
            y = np.zeros((1, len(number)), dtype=bool)
            y[0, [number[label] for label in labelled[name]]] = True
        else:
            y = activity(heard[name], times, number)
        made.append(Recording(name, found.parts[name], y, times, tuple(heard.get(name, ()))))
    return made


def load(
    task: Task,
    encoder: HearEncoder,
    cache: Path,
    rate: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, list[Recording]]:
    """All splits of a task, embedded. Raises UserError and MediaError as ``embed`` does."""
    return {
        split: prepare(
            task, split, lambda names, s=split: embeddings.embed(task, s, names, encoder, cache, rate, progress)
        )
        for split in task.splits
    }


def stack(recordings: Sequence[Recording]) -> Bool[np.ndarray, "n c"]:
    """The classes of all rows."""
    return np.concatenate([r.y for r in recordings])


def measure(
    task: Task, recordings: Sequence[Recording], logits: Logits, how: Postprocessing | None
) -> dict[str, float]:
    """Every metric of a task. ``how`` makes events of frames; it is None for scenes."""
    if how is None:
        return {m: SCENE[m](_scores(task, logits), stack(recordings)) for m in task.metrics}
    found, first = {}, 0
    for r in recordings:
        active = logits[first : first + len(r.y)] > 0  # a probability above one half
        found[r.name] = detect(active, r.times, task.labels, how)
        first += len(r.y)
    truth = {r.name: r.truth for r in recordings}
    return {m: EVENT[m](truth, found, task.labels) for m in task.metrics}


def _scores(task: Task, logits: Logits) -> Logits:
    """The logarithm of each class's odds, which has the order of probabilities, but never saturates into ties."""
    if not task.exclusive or logits.shape[1] < 2:
        return logits
    best = logits.argmax(1)[:, None]
    without = logits.copy()
    np.put_along_axis(without, best, -np.inf, axis=1)
    rest = np.logaddexp.reduce(without, axis=1, keepdims=True)  # of all but the best
    of_best = np.take_along_axis(logits, best, axis=1) - rest
    log_p = logits - np.logaddexp(np.take_along_axis(logits, best, axis=1), rest)
    with np.errstate(divide="ignore"):  # only of the best, whose odds are put in next
        odds = log_p - np.log1p(-np.exp(np.minimum(log_p, 0.0)))
    np.put_along_axis(odds, best, of_best, axis=1)
    return odds


def best_postprocessing(task: Task, recordings: Sequence[Recording], logits: Logits) -> Postprocessing | None:
    """The task's postprocessing with the best primary score, the longest of equals as in the kit. None for scenes."""
    if task.kind == "scene":
        return None
    grid = postprocessings(task.params)
    if len(grid) == 1:
        return grid[0]
    first = replace(task, metrics=task.metrics[:1])
    return max(grid, key=lambda how: (gain(first, measure(first, recordings, logits, how)), how))


def gain(task: Task, scores: Mapping[str, float]) -> float:
    """The primary score, turned so that higher is better; what has no value counts 0, as in the kit."""
    value = scores[task.metrics[0]]
    if not np.isfinite(value):
        return 0.0
    return -value if task.metrics[0] in LOWER_IS_BETTER else value


def postprocessings(params: Mapping[str, object]) -> list[Postprocessing]:
    """The grid of a task. Raises UserError for one with other keys."""
    grid = params.get("event_postprocessing_grid", GRID)
    try:
        medians, shortest = grid["median_filter_ms"], grid["min_duration"]  # type: ignore[index]
        made = [Postprocessing(float(m), float(d)) for m, d in itertools.product(medians, shortest)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"event_postprocessing_grid {grid!r} needs median_filter_ms and min_duration") from error
    if not made or len(grid) != 2:  # type: ignore[arg-type]
        raise UserError(f"event_postprocessing_grid {grid!r} has keys other than median_filter_ms and min_duration")
    return made
