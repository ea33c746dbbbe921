"""Every metric behind the scores, and what is only watched: as tables of means over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import fmean

from polymnia.eval import matrix
from polymnia.report import counts, words
from polymnia.report.collect import Estimate, Method, Run, estimate, number

SIZES = ("N", "M", "classes")  # how many queries, and among how many they are ranked
Column = list[Estimate | None]  # a value a row of the matrix


@dataclass(frozen=True)
class MetricRow:
    """A metric of a task after each row of the matrix, in words, with how many queries and candidates it is of."""

    task: str
    name: str
    values: Column
    queries: float | None
    gallery: float | None


@dataclass(frozen=True)
class Watched:
    """A set that is never trained on: a method a line, its score after each task, and the change over all of them.

    ``of``: how many of its items were there, where some are missing.
    """

    name: str
    metric: str
    queries: float | None
    stages: list[str]
    lines: list[tuple[str, Column, float | None]]
    of: str = ""


def all_metrics(run: Run, head: str) -> Iterator[tuple[str, str, list[float | None]]]:
    """Task, metric, and its value after each row of the matrix."""
    for task, found in ((run.matrix.get("values") or {}).get(head) or {}).items():
        for metric, values in (found or {}).items():
            yield str(task), str(metric), [number(v) for v in values or []]


def means(method: Method, head: str) -> dict[str, dict[str, Column]]:
    """Task -> metric -> its mean over seeds after each row of the matrix."""
    found: dict[str, dict[str, list[list[float | None]]]] = {}
    for run in method.counted:
        for task, metric, values in all_metrics(run, head):
            found.setdefault(task, {}).setdefault(metric, []).append(values)
    return {
        task: {metric: [estimate(v) for v in zip_longest(*columns)] for metric, columns in metrics.items()}
        for task, metrics in found.items()
    }


def metric_rows(method: Method, head: str, *, topics: bool = False) -> list[MetricRow]:
    """All metrics but sizes, which stand beside those that they belong to; with ``topics`` those of single topics."""
    return [
        MetricRow(task, in_words(metric), values, *sizes(metrics, metric))
        for task, metrics in means(method, head).items()
        for metric, values in metrics.items()
        if metric.rpartition("/")[2] not in SIZES and metric.startswith("topic:") == topics
    ]


def in_words(metric: str) -> str:
    topic, _, rest = metric.removeprefix("topic:").partition("/")
    return f"{topic}: {words.metric(rest)}" if metric.startswith("topic:") else words.metric(metric)


def routing(run: Run, head: str) -> dict[str, float]:
    """How often an input is sent to its own task after the last task, in percent: a mean over tasks for each modality.

    {} where no task is chosen.
    """
    found: dict[str, list[float]] = {}
    for task, metric, values in all_metrics(run, head):
        at_last = dict(zip(run.after, values, strict=False)).get(run.learned)
        if metric.startswith(words.ROUTING) and task in run.tasks and at_last is not None:
            found.setdefault(metric, []).append(at_last)
    return {metric: fmean(values) for metric, values in found.items()}


def sizes(metrics: dict[str, Column], metric: str) -> tuple[float | None, float | None]:
    """Queries and candidates of a metric, at the last row that has them."""
    place = metric.rpartition("/")[0]
    own = place.removeprefix("union/")
    if place.startswith("topic:"):
        return None, last(metrics.get(f"{place.partition('/')[2]}/M"))
    return last(metrics.get(f"{own}/N")), last(metrics.get(f"{place}/M") or metrics.get(f"{place}/classes"))


def last(column: Column | None) -> float | None:
    known = [v.mean for v in column or [] if v]
    return known[-1] if known else None


def watched(methods: Sequence[Method], head: str) -> list[Watched]:
    """A table a watched set and recipe."""
    several = len({m.recipe for m in methods}) > 1
    groups: dict[tuple[str, str, tuple[str, ...]], list[Method]] = {}
    for method in methods:
        for name in method.counted[0].watched:
            groups.setdefault((name, method.recipe, tuple(method.tasks)), []).append(method)
    out = []
    for (name, recipe, tasks), own in groups.items():
        columns = {m.label: main_column(means(m, head).get(name, {})) for m in own}
        measured = {label: found for label, found in columns.items() if found is not None}
        if measured:
            key, queries, _ = next(iter(measured.values()))
            after = sorted({i for m in own for i in m.counted[0].after})
            lines = [line(m, measured[m.label][2], after) for m in own if m.label in measured]
            stages = [f"after {tasks[i - 1]}" if i else "before" for i in after]
            title = name + (f" ({recipe})" if several else "")
            out.append(Watched(title, key, queries, stages, lines, counts.lacking(own).get(name, "")))
    return out


def line(method: Method, column: Column, after: Sequence[int]) -> tuple[str, Column, float | None]:
    """A method's values after each of ``after``, None where it has no row (a joint run between first and last)."""
    by_row = dict(zip(method.counted[0].after, column, strict=False))
    values = [by_row.get(i) for i in after]
    known = [v.mean for v in values if v]
    return method.label, values, known[-1] - known[0] if len(known) > 1 else None


def main_column(metrics: dict[str, Column]) -> tuple[str, float | None, Column] | None:
    """What stands for a watched set: the mean of R@1, R@5 and R@10 where it is retrieval, else its first metric."""
    primary = [k for k in metrics if matrix.PRIMARY.fullmatch(k)]
    if primary:
        rows = zip_longest(*(metrics[k] for k in primary))
        column = [estimate([sum(v.mean for v in row) / len(row)] if all(row) else []) for row in rows]
        return "mean of R@1, R@5, R@10", sizes(metrics, primary[0])[0], column
    first = next((k for k in metrics if k.rpartition("/")[2] not in (*SIZES, "std")), None)
    return None if first is None else (words.metric(first), sizes(metrics, first)[0], metrics[first])
