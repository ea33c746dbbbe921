"""The scorebook of a run: every evaluator on every task, before the first and after each."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymnia.config import Part
from polymnia.data.disk import write_text
from polymnia.embed.embedder import Embedder
from polymnia.eval import matrix
from polymnia.eval.evaluators import retrieval
from polymnia.recipe import Recipe, WatchConfig
from polymnia.runs import ceilings, examples, ranks
from polymnia.runs.assemble import Curriculum
from polymnia.types import EvalData, Item, Modality, Task, UserError

HEADS = ("latest", "stored")


class Scorebook:
    """Scores by head, task, metric and row; row i is after task i. Its state is plain JSON."""

    def __init__(
        self,
        recipe: Recipe,
        curriculum: Curriculum,
        class_names: dict[Modality, Sequence[str]],
    ):
        self.recipe, self.curriculum, self.class_names = recipe, curriculum, class_names
        self.rows: list[int] = []
        self.values: dict[str, dict[str, dict[str, list[float | None]]]] = {h: {} for h in HEADS}
        self.examples: dict[str, dict[str, Any]] = {}
        self._ranks: dict[str, Any] | None = None  # of the newest row, or None if this process has scored no row
        self._ceilings: dict[str, float] | None = None

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows, "values": self.values, "examples": self.examples}

    def restore(self, state: dict[str, Any]) -> None:
        self.rows, self.values, self.examples = state["rows"], state["values"], state["examples"]

    def add_row(
        self, after: int, embed: Embedder, routed: Mapping[str, Mapping[str, float]] | None = None
    ) -> dict[str, dict[str, float]]:
        """Score everything with the model as it is, after ``after`` tasks. Gives the row under the latest heads.

        ``routed``: scores of the choice of a task, by task (see ``polymnia.runs.routing``).
        """
        seen = self._seen(after)
        self._ranks = {}
        row: dict[str, dict[str, dict[str, float]]] = {h: {} for h in HEADS}
        for task, cfg in self.curriculum.tasks:
            parts = cfg.eval or self.recipe.eval
            latest = self._score(parts, task, seen, embed) | dict((routed or {}).get(task.name, {}))
            row["latest"][task.name] = latest
            # The head stored after a task differs from the latest one only once a later task was learned.
            old = task.index < after
            stored = self._score(parts, task, seen, embed.with_head(task.index), projected=True) if old else {}
            row["stored"][task.name] = {**latest, **stored}
            self._ranks |= ranks.of_task(parts, task, self._held_out(task), embed)
            for key, entry, hits in examples.find(task, self._held_out(task), embed, self.recipe.examples):
                self.examples.setdefault(key, entry)["results"][str(after)] = hits
        configs = {w.name: w for w in self.recipe.watch}
        for watched in self.curriculum.watch:
            watch_cfg = configs[watched.name]
            if watch_cfg.rows == "all" or after == len(self.curriculum.tasks):
                row["latest"][watched.name], row["stored"][watched.name] = self._look(watched, watch_cfg, after, embed)
        self._append(after, row)
        return row["latest"]

    def _look(
        self, watched: Task, cfg: WatchConfig, after: int, embed: Embedder
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Scores of a watched set, under the latest heads and under those stored after the task that it tests."""
        latest = self._score(cfg.eval, watched, (), embed)
        head = max((t.index for t, c in self.curriculum.tasks if c.name in cfg.of), default=after)
        if head >= after:
            return latest, latest
        return latest, {**latest, **self._score(cfg.eval, watched, (), embed.with_head(head), projected=True)}

    def _seen(self, after: int) -> tuple[Item, ...]:
        learned = [t for t, _ in self.curriculum.tasks if t.index <= after]
        return tuple({i.id: i for t in learned for i in self._held_out(t)}.values())

    def _held_out(self, task: Task) -> tuple[Item, ...]:
        items = task.test if self.recipe.eval_split == "test" else task.valid
        if not items:
            raise UserError(f"'{task.name}' has no {self.recipe.eval_split} items to score")
        return items

    def _score(
        self, parts: Sequence[Part], task: Task, seen: tuple[Item, ...], embed: Embedder, projected: bool = False
    ) -> dict[str, float]:
        test = self._held_out(task)
        data = EvalData(task.train, task.valid, test, seen, task.pairs, self.class_names)
        return evaluate(parts, task.name, data, embed, projected)

    def _append(self, after: int, row: dict[str, dict[str, dict[str, float]]]) -> None:
        for head, tasks in row.items():
            for task, metrics in tasks.items():
                columns = self.values[head].setdefault(task, {})
                for metric, value in metrics.items():
                    column = columns.setdefault(metric, [None] * len(self.rows))
                    column.append(float(value) if math.isfinite(value) else None)
                for column in columns.values():  # a metric that only later rows have, or this row lacks
                    column.extend([None] * (len(self.rows) + 1 - len(column)))
        self.rows.append(after)

    def matrices(self) -> dict[str, Any]:
        """What ``matrix.json`` holds: values, r[i][j] and the continual numbers, per head."""
        tasks = [t.name for t, _ in self.curriculum.tasks]
        score = {h: self._scalars(h) for h in HEADS}
        full = {h: self._full(rows) for h, rows in score.items()}
        return {
            "tasks": tasks,
            "watched": [t.name for t in self.curriculum.watch],
            "rows": self.rows,
            "values": self.values,
            "score": score,
            "summary": {h: finite(matrix.summary(full[h])) if len(self.rows) > 1 else {} for h in HEADS},
            "ceiling": self._ceiling(),
            "counts": self._counts(),
        }

    def _ceiling(self) -> dict[str, float]:
        """How far each task's score could go, where its data set can tell."""
        if self._ceilings is None and self.rows:
            found = {
                task.name: ceilings.of_task(cfg, self._held_out(task), self.values["latest"][task.name])
                for task, cfg in self.curriculum.tasks
            }
            self._ceilings = {task: value for task, value in found.items() if value is not None}
        return self._ceilings or {}

    def _counts(self) -> dict[str, str]:
        """How many of the items that each task and watched set is scored on were really there: "913 of 975"."""
        used = {task.name: self.curriculum.used(task.name) for task in self.curriculum.tests}
        return {name: f"{there} of {official}" for name, (there, official) in used.items()}

    def _scalars(self, head: str) -> list[list[float | None]]:
        rows = []
        for n in range(len(self.rows)):
            row: list[float | None] = []
            for task, cfg in self.curriculum.tasks:
                found = {k: c[n] for k, c in self.values[head][task.name].items() if c[n] is not None}
                value = matrix.scalar(found, list(cfg.score) or None)
                row.append(value if math.isfinite(value) else None)
            rows.append(row)
        return rows

    def _full(self, rows: list[list[float | None]]) -> list[list[float | None] | None]:
        """Rows by number of tasks learned; None where no row was measured (a joint run)."""
        by_number = dict(zip(self.rows, rows, strict=True))
        return [by_number.get(i) for i in range(max(self.rows) + 1)]

    def write(self, folder: Path) -> None:
        """``matrix.json``, ``matrix.csv`` (a line a head, task, metric and row) and ``ranks.npz``.

        The ranks are in no checkpoint: a run that goes on keeps the file that it wrote with its last row.
        """
        content = self.matrices()
        write_text(folder / "matrix.json", json.dumps(content, indent=1, allow_nan=False))
        lines = io.StringIO()
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(["head", "task", "metric", "after", "value"])
        for head, tasks in self.values.items():
            for task, metrics in tasks.items():
                for metric, column in metrics.items():
                    table.writerows([head, task, metric, r, v] for r, v in zip(self.rows, column, strict=True))
        write_text(folder / "matrix.csv", lines.getvalue())
        if self._ranks is not None:
            ranks.write(folder, self.rows[-1], self._ranks)


def evaluate(
    parts: Sequence[Part], name: str, data: EvalData, embed: Embedder, projected: bool = False
) -> dict[str, float]:
    """The scores of all evaluators together; ``projected``: of those only that a head can change.

    Raises UserError, saying ``name``, where two of them give one score.
    """
    scores: dict[str, float] = {}
    for part in parts:
        if projected and not part.module.PROJECTED:
            continue  # it reads features, which no head changes
        found = part.module.evaluate(part.config, embed, data)
        clash = set(found) & set(scores)
        if clash:
            raise UserError(f"'{name}': two evaluators both give {', '.join(sorted(clash)[:3])}")
        scores |= found
    return scores


def validation_score(task: Task, embed: Embedder) -> float:
    """r on the validation items of a task: what early stopping and the plateau rule watch."""
    data = EvalData(task.train, task.valid, task.valid, task.valid, task.pairs)
    return matrix.scalar(retrieval.evaluate(retrieval.Config(), embed, data))


def finite(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores as JSON can hold them: None stands for what has no value."""
    return {k: float(v) if math.isfinite(v) else None for k, v in scores.items()}
