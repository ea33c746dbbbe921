"""What the logs of a method's runs say: losses, what each term pulls, and what a method counts."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from polymnia.report.collect import Method, Run, number

INERT = 0.05  # a term whose gradient is a smaller share of the objective's hardly steers the training


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


def by_term(logged: Sequence[tuple[int, dict[str, Any]]], key: str) -> dict[str, list[tuple[float, float]]]:
    """Term -> (step, value) of the lines that have one; ``key`` is "terms" or "ratio"."""
    out: dict[str, list[tuple[float, float]]] = {}
    for at, line in logged:
        for term, value in (line.get(key) or {}).items():
            if (known := number(value)) is not None:
                out.setdefault(str(term), []).append((float(at), known))
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


def fact_means(method: Method) -> dict[str, dict[str, float]]:
    """What a method counts at every step, such as the share of rows that it keeps: fact -> task -> mean."""
    readings: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in method.runs:
        for line in run.log:
            for fact, value in (line.get("facts") or {}).items():
                if (known := number(value)) is not None:
                    readings[str(fact)][str(line.get("task", ""))].append(known)
    return {fact: {task: statistics.fmean(v) for task, v in tasks.items()} for fact, tasks in readings.items()}
