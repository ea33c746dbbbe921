"""The map of the tasks of a method that keeps something of each: how far they are by name, by prompt and by data.

Distances are of cosines (0 alike, 1 unrelated, 2 opposite), as ``taskmap.json`` of a run has them; where several seeds
left one, their mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from polymnia.report.collect import Estimate, Method, Run, estimate, number

Squares = Mapping[str, Float[np.ndarray, "t t"]]
SEMANTIC, PROMPTS, DATA = "semantic", "prompts", "data"
CALLED = {SEMANTIC: "names", PROMPTS: "prompts", DATA: "features"}
MEANT = {
    "names": "of what their names mean to the text tower",
    "prompts": "of the prompts that were learned for them",
    "features": "of the mean features of their data",
}
FINE = 0.1  # distances that lie closer together are printed with a third digit
LEGIBLE = 6  # tasks up to which a cell has room for its number


@dataclass(frozen=True)
class Square:
    """A map: ``cells`` a task a row; on the diagonal and where a task had no such thing, None."""

    name: str
    cells: list[list[float | None]]
    low: float
    high: float
    digits: int

    def heat(self, value: float) -> float:
        """Where a value lies between the nearest and the farthest pair, from 0 to 1."""
        return round((value - self.low) / ((self.high - self.low) or 1.0), 3)

    def text(self, value: float | None) -> str:
        return "\N{EN DASH}" if value is None else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Link:
    """Spearman's rank correlation between two maps over pairs of tasks; None where it has no value."""

    one: str
    other: str
    rho: Estimate | None
    pairs: int


@dataclass(frozen=True)
class TaskMap:
    """All maps of a method. ``pairs``: two tasks, and their distance in each map, nearest in the first map first."""

    tasks: list[str]
    squares: list[Square]
    pairs: list[tuple[str, str, list[float | None]]]
    links: list[Link]
    seeds: tuple[int, ...]

    @property
    def legible(self) -> bool:
        return len(self.tasks) <= LEGIBLE

    @property
    def kinds(self) -> list[str]:
        """What is compared, in words."""
        return [said for kind, said in MEANT.items() if any(s.name.startswith(kind) for s in self.squares)]

    @property
    def rows(self) -> int:
        """Modalities, where each has prompts and features to stand beside the names; else 0."""
        kinds = [s.name.partition(" ")[0] for s in self.squares]
        rows = len(kinds) // 2
        return rows if kinds == [CALLED[SEMANTIC], *[CALLED[PROMPTS], CALLED[DATA]] * rows] else 0


def task_map(method: Method) -> TaskMap | None:
    """The map of a method's tasks; None where no run left one."""
    found = {r.seed: squares for r in method.counted if (squares := read(r))}
    if not found:
        return None
    keys = [k for k in next(iter(found.values())) if all(k in squares for squares in found.values())]
    modalities = list(dict.fromkeys(k.partition("/")[2] for k in keys))
    keys.sort(key=lambda k: (k != SEMANTIC, modalities.index(k.partition("/")[2]), k.startswith(DATA)))
    means = {k: np.mean([squares[k] for squares in found.values()], axis=0) for k in keys}
    links = [link(one, other, list(found.values())) for one, other in compared(keys)]
    return TaskMap(
        method.tasks, [shown(k, v) for k, v in means.items()], listed(method.tasks, means), links, tuple(found)
    )


def read(run: Run) -> dict[str, Float[np.ndarray, "t t"]]:
    """The matrices of a run, NaN where it says null; {} unless they are of its tasks."""
    tasks, out = len(run.tasks), {}
    maps = run.task_map.get("maps")
    if run.task_map.get("tasks") != run.tasks or not isinstance(maps, dict) or tasks < 2:
        return {}
    for name, rows in maps.items():
        square = isinstance(rows, list) and len(rows) == tasks and all(isinstance(r, list) for r in rows)
        if square and all(len(r) == tasks for r in rows) and name.partition("/")[0] in CALLED:
            out[name] = np.array([[np.nan if (n := number(v)) is None else n for v in row] for row in rows])
    return out


def compared(keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names with everything; and what is of one modality with each other."""
    for one, other in combinations(keys, 2):
        if one == SEMANTIC or one.partition("/")[2] == other.partition("/")[2]:
            yield one, other


def link(one: str, other: str, seeds: Sequence[Squares]) -> Link:
    known = [spearman(upper(squares[one]), upper(squares[other])) for squares in seeds]
    pairs = np.isfinite(upper(seeds[0][one]) + upper(seeds[0][other]))
    return Link(called(one), called(other), estimate(known), int(pairs.sum()))


def spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float | None:
    """Spearman's rank correlation over what both have; None for fewer than three pairs, or where all are alike."""
    from scipy.stats import spearmanr  # half a second that few reports need

    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def upper(square: Float[np.ndarray, "t t"]) -> Float[np.ndarray, " pairs"]:
    """What stands above the diagonal: each pair of tasks once."""
    return square[np.triu_indices(len(square), 1)]


def shown(name: str, square: Float[np.ndarray, "t t"]) -> Square:
    pairs = upper(square)
    known = pairs[np.isfinite(pairs)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    beside = np.where(np.eye(len(square), dtype=bool), np.nan, square)
    cells = [[number(float(v)) for v in row] for row in beside]
    return Square(called(name), cells, low, high, 3 if high - low < FINE else 2)


def listed(tasks: Sequence[str], squares: Squares) -> list[tuple[str, str, list[float | None]]]:
    """Every pair of tasks with its distances, sorted by the first of them."""
    at = list(combinations(range(len(tasks)), 2))
    out = [(tasks[i], tasks[j], [number(float(s[i, j])) for s in squares.values()]) for i, j in at]
    return sorted(out, key=lambda line: (line[2][0] is None, line[2][0] or 0.0))


def called(name: str) -> str:
    """ "prompts/image" is "prompts (image)"."""
    what, _, modality = name.partition("/")
    return CALLED[what] + (f" ({modality})" if modality else "")
