"""Run folders read back, and the seeds of a method side by side. Only files are read; no run is imported."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from polymnia.eval import intervals, matrix
from polymnia.types import UserError

HEADS = ("latest", "stored")
SHORT = {"bwt": "backward_transfer", "fwt": "forward_transfer"}
INERT = 0.05  # a term whose gradient is a smaller share of the objective's hardly steers the training
Grid = dict[int, list[float | None]]  # after task i -> a score a task


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
    """What one run folder says. ``log`` and ``examples`` may be empty; ``missing`` says so in words."""

    path: Path
    meta: dict[str, Any]
    matrix: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, Any] = field(default_factory=dict)
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
    def after(self) -> list[int]:
        return [int(i) for i in self.matrix.get("rows") or []]

    @property
    def learned(self) -> int:
        return max(self.after, default=0)

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
        trained = [number((r.meta.get("parameters") or {}).get("trainable")) for r in self.counted]
        return self.joint or all(t == 0 for t in trained)

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


def read_run(path: Path) -> Run:
    """One run folder. UserError where it lacks meta.json or matrix.json."""
    meta, scores = (load_json(path / f"{n}.json", needed=True) for n in ("meta", "matrix"))
    log, examples = load_log(path / "log.jsonl"), load_json(path / "examples.json", needed=False)
    missing = []
    if not log:
        missing.append("no log.jsonl, so no losses and no gradient shares")
    if not examples.get("queries"):
        missing.append("no examples.json, so no retrieval gallery")
    run = Run(path, meta, scores, log, examples)
    if not set(run.after) <= set(range(len(run.tasks) + 1)):
        raise UserError(f"{path / 'matrix.json'}: rows {run.after} do not fit {len(run.tasks)} tasks")
    if run.learned < len(run.tasks):
        missing.append(f"in progress: {run.learned} of {len(run.tasks)} tasks learned")
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


def heads(methods: Sequence[Method]) -> list[str]:
    """The heads that any run was tested through."""
    return [h for h in HEADS if any(r.grid(h) for m in methods for r in m.counted)] or ["latest"]


def steps(run: Run) -> list[tuple[int, dict[str, Any]]]:
    """Logged steps on one axis, whether the log counts on or starts anew with every task."""
    out: list[tuple[int, dict[str, Any]]] = []
    offset, before = 0, -1
    for line in run.log:
        if line.get("kind") != "step":
            continue
        step = int(number(line.get("step")) or 0)
        if out and step + offset <= before:
            offset = before + 1 - step
        before = step + offset
        out.append((before, line))
    return out


def gradient_shares(method: Method) -> dict[str, float]:
    """Median share of the objective's gradient norm, a term each, over all seeds."""
    readings: dict[str, list[float]] = defaultdict(list)
    for run in method.runs:
        for line in run.log:
            for term, value in (line.get("ratio") or {}).items():
                known = number(value)
                if known is not None:
                    readings[str(term)].append(known)
    return {term: statistics.median(values) for term, values in readings.items()}
