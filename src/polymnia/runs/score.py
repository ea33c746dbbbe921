"""The scorebook of a run: every evaluator on every task, before the first and after each."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polymnia.config import Part
from polymnia.embed.embedder import Embedder
from polymnia.eval import matrix
from polymnia.eval.evaluators import retrieval
from polymnia.ops.search import top_k
from polymnia.recipe import Recipe
from polymnia.runs.assemble import Curriculum
from polymnia.types import EvalData, Item, Modality, Task, UserError

HEADS = ("latest", "stored")
SHOWN = 5  # hits kept of each example query


class Scorebook:
    """Scores by head, task, metric and row; row i is after task i. Its state is plain JSON."""

    def __init__(self, recipe: Recipe, curriculum: Curriculum, class_names: dict[Modality, Sequence[str]]):
        self.recipe, self.curriculum, self.class_names = recipe, curriculum, class_names
        self.rows: list[int] = []
        self.values: dict[str, dict[str, dict[str, list[float | None]]]] = {h: {} for h in HEADS}
        self.examples: dict[str, dict[str, Any]] = {}

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows, "values": self.values, "examples": self.examples}

    def restore(self, state: dict[str, Any]) -> None:
        self.rows, self.values, self.examples = state["rows"], state["values"], state["examples"]

    def add_row(self, after: int, embed: Embedder) -> dict[str, dict[str, float]]:
        """Score everything with the model as it is, after ``after`` tasks. Gives the row under the latest heads."""
        seen = self._seen(after)
        row: dict[str, dict[str, dict[str, float]]] = {h: {} for h in HEADS}
        for task, cfg in self.curriculum.tasks:
            parts = cfg.eval or self.recipe.eval
            latest = self._score(parts, task, seen, embed)
            row["latest"][task.name] = latest
            # The head stored after a task differs from the latest one only once a later task was learned.
            old = task.index < after
            stored = self._score(parts, task, seen, embed.with_head(task.index), projected=True) if old else {}
            row["stored"][task.name] = {**latest, **stored}
            self._keep_examples(after, task, embed)
        for watched, watch_cfg in zip(self.curriculum.watch, self.recipe.watch, strict=True):
            scores = self._score(watch_cfg.eval, watched, (), embed)
            row["latest"][watched.name] = row["stored"][watched.name] = scores
        self._append(after, row)
        return row["latest"]

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
        data = EvalData(task.train, task.valid, test, seen or test, task.pairs, self.class_names)
        scores: dict[str, float] = {}
        for part in parts:
            if projected and not part.module.PROJECTED:
                continue  # it reads features, which no head changes
            found = part.module.evaluate(part.config, embed, data)
            clash = set(found) & set(scores)
            if clash:
                raise UserError(f"'{task.name}': two evaluators both give {', '.join(sorted(clash)[:3])}")
            scores |= found
        return scores

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

    def _keep_examples(self, after: int, task: Task, embed: Embedder) -> None:
        """The best hits of a few queries, the same ones after every task."""
        test = self._held_out(task)
        for a, b in task.pairs:
            for query, gallery in ((a, b), (b, a)):
                having = [i for i in test if query in i.sources and gallery in i.sources]
                chosen = having[:: max(1, len(having) // max(1, self.recipe.examples))][: self.recipe.examples]
                if not chosen:
                    continue
                questions = [_first_caption(i) if query == "text" else i for i in chosen]
                table = embed(having, gallery)
                scores, at = top_k(embed(questions, query).vectors, table.vectors, SHOWN * 4)
                for item, found, where in zip(chosen, scores.tolist(), at.tolist(), strict=True):
                    key = f"{task.name}/{query}>{gallery}/{item.id}"
                    entry = self.examples.setdefault(key, _example(task, query, gallery, item))
                    entry["results"][str(after)] = _hits(item, table.ids, table.groups, found, where)

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
            "summary": {h: _finite(matrix.summary(full[h])) if len(self.rows) > 1 else {} for h in HEADS},
        }

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
        """``matrix.json`` and ``matrix.csv`` (a line a head, task, metric and row)."""
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


def validation_score(task: Task, embed: Embedder) -> float:
    """r on the validation items of a task: what early stopping and the plateau rule watch."""
    data = EvalData(task.train, task.valid, task.valid, task.valid, task.pairs)
    return matrix.scalar(retrieval.evaluate(retrieval.Config(), embed, data))


def write_text(path: Path, text: str) -> None:
    """A file that is either the old or the new one, whenever the process dies."""
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _first_caption(item: Item) -> Item:
    captions = item.sources["text"]
    text = type(captions)(captions.texts[:1])  # type: ignore[union-attr]
    return Item(f"{item.id}#0", {"text": text}, item.group, item.topic)


def _example(task: Task, query: Modality, gallery: Modality, item: Item) -> dict[str, Any]:
    captions = item.sources.get("text")
    caption = captions.texts[0] if captions is not None else None  # type: ignore[union-attr]
    entry = {"task": task.name, "direction": f"{query}>{gallery}", "query": item.id, "results": {}}
    return {**entry, "caption": caption if query == "text" else None}


def _hits(
    item: Item, ids: Sequence[str], groups: Sequence[str], scores: list[float], at: list[int]
) -> list[dict[str, Any]]:
    """The best items, each once (an item may have several captions)."""
    best: dict[str, dict[str, Any]] = {}
    for score, where in zip(scores, at, strict=True):
        best.setdefault(ids[where], {"id": ids[where], "score": round(score, 4), "hit": groups[where] == item.group})
    return list(best.values())[:SHOWN]


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in numbers.items()}
