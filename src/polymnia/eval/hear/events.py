"""Sound events: from probabilities over time to events, and how well two lists of events agree.

Times are milliseconds, as in HEAR's files. The measures are those of sed_eval (Mesaros et al. 2016) with its optimal
matching: an event is found if one of the same label begins within the collar (and, where asked, ends within it), and
no event counts twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

INCLUSIVE = 1e-4  # ms added to an end, so that a frame at that very moment is in the event


class Event(NamedTuple):
    """Something that sounds from ``start`` to ``end``, in milliseconds."""

    label: str
    start: float
    end: float


Lists = Mapping[str, Sequence[Event]]  # events by file


class Postprocessing(NamedTuple):
    """The length of the median filter and the shortest event, in milliseconds."""

    median: float
    shortest: float


def activity(
    events: Sequence[Event], times: Float[np.ndarray, " t"], number: Mapping[str, int]
) -> Bool[np.ndarray, "t c"]:
    """Which labels sound at each moment. ``number``: the column of each label."""
    active = np.zeros((len(times), len(number)), dtype=bool)
    for event in events:
        active[(times >= event.start) & (times < event.end + INCLUSIVE), number[event.label]] = True
    return active


def detect(
    active: Bool[np.ndarray, "t c"], times: Float[np.ndarray, " t"], labels: Sequence[str], how: Postprocessing
) -> list[Event]:
    """Events of frames: a median filter, then runs of active frames at least ``how.shortest`` from first to last."""
    smooth = median(active, times, how.median)
    edges = np.diff(np.pad(smooth, ((1, 1), (0, 0))).astype(np.int8), axis=0)
    found = []
    for column, label in enumerate(labels):
        first, last = (edges[:, column] == 1).nonzero()[0], (edges[:, column] == -1).nonzero()[0] - 1
        pairs = zip(times[first], times[last], strict=True)
        found += [Event(label, float(a), float(b)) for a, b in pairs if b - a >= how.shortest]
    return sorted(found, key=lambda event: event.start)


def median(active: Bool[np.ndarray, "t c"], times: Float[np.ndarray, " t"], ms: float) -> Bool[np.ndarray, "t c"]:
    """A median filter of ``ms`` over frames, mirrored at the ends, as scipy's of the probabilities thresholded after.

    A threshold and a rank filter commute, so that counting active frames in the window is enough.
    """
    width = round(ms / float(np.mean(np.diff(times)))) if len(times) > 1 else 0
    if width < 2:
        return active
    before = width // 2
    padded = np.pad(active, ((before, width - 1 - before), (0, 0)), mode="symmetric")
    total = np.cumsum(np.pad(padded, ((1, 0), (0, 0))), axis=0, dtype=np.int64)
    return total[width:] - total[:-width] >= width - before


class Agreement(NamedTuple):
    """Counts over all files: events of the reference, events found, and pairs of the two that agree."""

    reference: int
    found: int
    pairs: int

    @property
    def f_measure(self) -> float:
        """Micro-averaged, in percent; 0 where nothing agrees."""
        return 100 * 2 * self.pairs / max(1, self.reference + self.found)


def agreement(reference: Lists, found: Lists, collar: float, of_length: float | None = None) -> Agreement:
    """Match events of the same label whose onsets lie within ``collar`` ms, as many as possible, file by file.

    With ``of_length`` the ends must agree too: within the larger of the collar and that share of the true length.
    """
    counts = [0, 0, 0]
    for file in reference.keys() | found.keys():
        own, others = reference.get(file, ()), found.get(file, ())
        counts[0] += len(own)
        counts[1] += len(others)
        by_label: dict[str, list[int]] = {}
        for k, other in enumerate(others):
            by_label.setdefault(other.label, []).append(k)
        hits = [[k for k in by_label.get(e.label, ()) if _agree(e, others[k], collar, of_length)] for e in own]
        counts[2] += _largest_matching(hits)
    return Agreement(*counts)


def _agree(true: Event, other: Event, collar: float, of_length: float | None) -> bool:
    # In seconds, as sed_eval compares: a difference that is the collar itself falls on the same side of rounding.
    a, b, within = true.start / 1000, other.start / 1000, collar / 1000
    if not math.fabs(a - b) <= within:
        return False
    end, other_end = true.end / 1000, other.end / 1000
    return of_length is None or math.fabs(end - other_end) <= max(within, of_length * (end - a))


def _largest_matching(hits: Sequence[Sequence[int]]) -> int:
    """Pairs of the largest bipartite matching, by augmenting paths (Kuhn 1955). ``hits``: partners of each node."""
    partner: dict[int, int] = {}
    owned: dict[int, int] = {}

    def augment(root: int) -> bool:
        came: dict[int, int] = {}  # right node -> left node that reached it first
        layer = [root]
        while layer:
            nodes, layer = layer, []
            for node in nodes:
                for k in hits[node]:
                    if k in came:
                        continue
                    came[k] = node
                    if k in partner:
                        layer.append(partner[k])
                    else:
                        _flip(k, came, partner, owned)
                        return True
        return False

    return sum(augment(node) for node in range(len(hits)))


def _flip(free: int, came: Mapping[int, int], partner: dict[int, int], owned: dict[int, int]) -> None:
    """Take the path that ends in ``free``, pair by pair, back to the node that had none."""
    k: int | None = free
    while k is not None:
        node = came[k]
        before = owned.get(node)
        partner[k], owned[node] = node, k
        k = before


def segment_error(reference: Lists, found: Lists, labels: Sequence[str], segment: float = 1000.0) -> float:
    """Error rate over segments of ``segment`` ms: (substitutions + deletions + insertions) / active in the reference.

    A share, not percent: it may exceed 1, and lower is better. NaN if the reference is silent.
    """
    wrong = total = 0.0
    for file in reference.keys() | found.keys():
        lists = (reference.get(file, ()), found.get(file, ()))
        length = max((math.ceil(e.end / segment) for events in lists for e in events), default=0)
        true, other = (_roll(events, labels, length, segment) for events in lists)
        both, n_true, n_other = (true & other).sum(1), true.sum(1), other.sum(1)
        wrong += float((np.maximum(n_true, n_other) - both).sum())  # min - both substituted, the difference added
        total += float(n_true.sum())
    return wrong / total if total else math.nan


def _roll(events: Sequence[Event], labels: Sequence[str], length: int, segment: float) -> Bool[np.ndarray, "t c"]:
    roll = np.zeros((length, len(labels)), dtype=bool)
    number = {label: k for k, label in enumerate(labels)}
    for event in events:
        roll[math.floor(event.start / segment) : math.ceil(event.end / segment), number[event.label]] = True
    return roll


EVENT: dict[str, Callable[[Lists, Lists, Sequence[str]], float]] = {
    "event_onset_200ms_fms": lambda true, found, labels: agreement(true, found, 200.0).f_measure,
    "event_onset_50ms_fms": lambda true, found, labels: agreement(true, found, 50.0).f_measure,
    "event_onset_offset_50ms_20perc_fms": lambda true, found, labels: agreement(true, found, 50.0, 0.2).f_measure,
    "segment_1s_er": lambda true, found, labels: segment_error(true, found, labels),
}
LOWER_IS_BETTER = ("segment_1s_er",)
