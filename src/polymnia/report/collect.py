"""What run folders hold: a run, and the seeds of a method side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from polymnia.eval import intervals, matrix

HEADS = ("latest", "stored")
SHORT = {"bwt": "backward_transfer", "fwt": "forward_transfer"}
Grid = dict[int, list[float | None]]  # after task i -> a score a task
Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


@dataclass(frozen=True)
class Estimate:
    """A number over seeds. ``sd`` and the 95 % interval are None when there is one seed."""

    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 1


@dataclass(frozen=True)
class Run:
    """What one run folder says. All but ``meta`` and ``matrix`` may be empty; ``missing`` says so in words."""

    path: Path
    meta: dict[str, Any]
    matrix: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, Any] = field(default_factory=dict)
    ranks: Arrays = field(default_factory=dict)
    task_map: dict[str, Any] = field(default_factory=dict)
    compatibility: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return str(self.meta.get("name") or self.path.name), str(self.meta.get("variant") or "run")

    @property
    def kin(self) -> tuple[Any, ...]:
        """What the seeds of one method have in common."""
        return *self.key, *self.tasks

    @property
    def seed(self) -> int:
        return int(number(self.meta.get("seed")) or 0)

    @property
    def tasks(self) -> list[str]:
        return [str(t) for t in self.matrix.get("tasks") or []]

    @property
    def watched(self) -> list[str]:
        return [str(t) for t in self.matrix.get("watched") or []]

    @property
    def after(self) -> list[int]:
        return [int(i) for i in self.matrix.get("rows") or []]

    @property
    def learned(self) -> int:
        return max(self.after, default=0)

    @property
    def trainable(self) -> float | None:
        return self.size("trainable")

    def size(self, what: str) -> float | None:
        """Parameters that are ``trainable``, ``stored``, of a ``teacher``, or ``total``; None where not counted."""
        return number((self.meta.get("parameters") or {}).get(what))

    def compatible(self) -> dict[str, float | None]:
        """How vectors of older encoders serve the newest: ``index/stale`` ... between modalities, ``index/own/stale``
        ... within one; {} where it was not measured."""
        found = {"index/": self.compatibility.get("summary"), "index/own/": self.compatibility.get("own")}
        return {f"{at}{k}": number(v) for at, means in found.items() for k, v in (means or {}).items()}

    def uses(self, method: str) -> bool:
        """Whether a method of this name is in the run's chain."""
        return any(isinstance(part, dict) and part.get("use") == method for part in self.meta.get("method") or [])

    def task_meta(self) -> list[dict[str, Any]]:
        return [t for t in self.meta.get("tasks") or [] if isinstance(t, dict)]

    def counts(self) -> dict[str, str]:
        """How many of a task's held-out items were there: "913 of 975"."""
        return {str(t): str(n) for t, n in (self.matrix.get("counts") or {}).items()}

    def grid(self, head: str) -> Grid:
        """R[i][j] of a head; a value that is absent or not finite is None."""
        rows = (self.matrix.get("score") or {}).get(head) or []
        width = len(self.tasks)
        return {
            i: ([number(v) for v in row] + [None] * width)[:width] for i, row in zip(self.after, rows, strict=False)
        }

    def summary(self, head: str) -> dict[str, float | None]:
        """The numbers that the run summed up, and those it left out that its matrix defines."""
        raw = (self.matrix.get("summary") or {}).get(head) or {}
        said = {SHORT.get(str(k), str(k)): number(v) for k, v in raw.items()}
        grid = self.grid(head)
        computed = matrix.summary([grid.get(i) for i in range(max(grid) + 1)]) if any(grid) else {}
        return computed | {k: v for k, v in said.items() if v is not None}


@dataclass(frozen=True)
class Method:
    """The runs of one recipe variant: a seed each, in order."""

    label: str
    runs: tuple[Run, ...]

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs that got furthest: a seed still in progress is not averaged with finished ones."""
        furthest = max(r.learned for r in self.runs)
        return tuple(r for r in self.runs if r.learned == furthest)

    @property
    def recipe(self) -> str:
        return self.runs[0].key[0]

    @property
    def tasks(self) -> list[str]:
        return self.counted[0].tasks

    @property
    def learned(self) -> int:
        return self.counted[0].learned

    @property
    def finished(self) -> bool:
        return self.learned == len(self.tasks)

    @property
    def joint(self) -> bool:
        """Trained on everything at once: it has no rows between the first and the last."""
        run = self.counted[0]
        return run.key[1] == "joint" or (len(run.tasks) > 1 and run.after == [0, len(run.tasks)])

    @property
    def reference(self) -> bool:
        """Joint training and a model that trains nothing are there to compare with, not to win."""
        return self.joint or all(r.trainable == 0 for r in self.counted)

    def cells(self, head: str) -> dict[int, list[Estimate | None]]:
        """R[i][j] over seeds."""
        grids = [r.grid(head) for r in self.counted]
        return {
            i: [estimate(g[i][j] for g in grids if i in g) for j in range(len(self.tasks))]
            for i in sorted({i for g in grids for i in g})
        }


def number(value: Any) -> float | None:
    """A finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def estimate(values: Iterable[Any]) -> Estimate | None:
    """Mean, standard deviation and interval of what is defined; None when nothing is."""
    known = [v for v in map(number, values) if v is not None]
    if len(known) < 2:
        return Estimate(known[0]) if known else None
    return Estimate(*intervals.over_seeds(known))


def curve(grid: Grid, measure: Callable[..., float]) -> dict[int, float]:
    """A number of ``eval.matrix`` after each task, where it is defined."""
    dense = [grid.get(i) for i in range(max(grid, default=0) + 1)]
    values = {i: measure(dense, i) for i in grid if i}
    return {i: v for i, v in values.items() if math.isfinite(v)}


def heads(methods: Sequence[Method]) -> list[str]:
    """The heads that any run was tested through."""
    return [h for h in HEADS if any(r.grid(h) for m in methods for r in m.counted)] or ["latest"]
