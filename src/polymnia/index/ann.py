"""Approximate search: which of LanceDB's indexes, and how thoroughly it is searched, is measured on the collection.

Rows of the collection itself are the queries (and other queries, where they are given); the true ten nearest come from
comparing every row. Kinds are tried one after another, each with more and more probes until the recall is reached; the
fastest that reaches it is kept. Collections that no kind serves are searched exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from math import isqrt
from statistics import median
from time import perf_counter
from typing import Any

from polymnia.index import find
from polymnia.index.about import Settings, Tuned
from polymnia.index.truth import NEAREST, Probe, recall

NAME = "vectors"  # of the index in the table
KINDS = ("IVF_SQ", "IVF_FLAT", "IVF_RQ")
REFINE = {"IVF_SQ": 4, "IVF_FLAT": 0, "IVF_RQ": 30}  # candidates per hit that are compared by their true vectors
PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FASTER = 0.9  # of the time of what was tried before: worth a larger index
TIMED = 24  # queries, in all
Say = Callable[[str], None]


def tune(table: Any, probes: list[Probe], settings: Settings, say: Say = lambda _: None) -> Tuned:
    """Build what is fastest at the recall@10 that is wanted, and tell how it is searched. ``probes`` are at least one.

    Until what it gives is written down, nothing must search the index that it builds.
    """
    wanted, rows = settings.recall, table.count_rows()
    exact = _milliseconds(table, probes, None, settings)
    tried: list[Tuned] = []
    best: Tuned | None = None
    for name in ("encoder", "modality"):
        table.create_index(name, config=_config("BITMAP", 0), replace=True, name=name)
    for kind in KINDS:
        say(f"building {kind}")
        plan = Tuned(kind, max(1, isqrt(rows)), 1, REFINE[kind], 0.0, {}, 0.0, exact, rows)
        built = _built(table, probes, plan, settings)
        tried.append(built)
        if built.recall >= wanted and (best is None or built.milliseconds < FASTER * best.milliseconds):
            best = built
    if best is not None and best is not tried[-1]:  # the table has room for one: the last that was built
        say(f"building {best.kind}")
        best = _built(table, probes, best, settings)
        best = best if best.recall >= wanted else None
    told = tuple({name: asdict(t)[name] for name in ("kind", "probes", "recall", "milliseconds")} for t in tried)
    if best is None or best.milliseconds >= exact:
        table.drop_index(NAME)
        nearest = max(tried, key=lambda t: t.recall)
        return replace(nearest, kind="exact", milliseconds=exact, tried=told)
    return replace(best, tried=told)


def _built(table: Any, probes: list[Probe], tuned: Tuned, settings: Settings) -> Tuned:
    """An index of this kind, searched as little as gives the recall; or as much as there is."""
    table.create_index("vector", config=_config(tuned.kind, tuned.partitions), replace=True, name=NAME)
    for number in PROBES:
        tuned = replace(tuned, probes=min(number, tuned.partitions))
        recalls, sure = measured(table, probes, tuned, settings)
        tuned = replace(tuned, recalls=recalls, recall=min(recalls.values()))
        if sure >= settings.recall or tuned.probes == tuned.partitions:
            break
    return replace(tuned, milliseconds=_milliseconds(table, probes, tuned, settings))


def _config(kind: str, partitions: int) -> Any:
    from lancedb.index import Bitmap, IvfFlat, IvfRq, IvfSq

    if kind == "BITMAP":
        return Bitmap()
    kinds = {"IVF_FLAT": IvfFlat, "IVF_SQ": IvfSq, "IVF_RQ": IvfRq}
    return kinds[kind]("dot", num_partitions=partitions)


def measured(
    table: Any, probes: list[Probe], tuned: Tuned | None, settings: Settings
) -> tuple[dict[str, float], float]:
    """Recall@10 of each pair of modalities, "text>audio", of several encoders the least; and one to count on.

    That is the least recall less its standard error: the first setting that seems to do by luck would disappoint.
    """
    least: dict[str, float] = {}
    sure = 1.0
    for probe in probes:
        how = find.approximate(table, tuned, settings.exact_below, probe.sql)
        found = find.nearest(table, probe.queries, NEAREST + 1, probe.sql, how, per_item=False, columns=("key", "id"))
        own, error = recall(probe, found)
        least[probe.name], sure = min(own, least.get(probe.name, 1.0)), min(sure, own - error)
    return least, sure


def _milliseconds(table: Any, probes: list[Probe], tuned: Tuned | None, settings: Settings) -> float:
    """Of one query, the median."""
    took = []
    for probe in probes:
        for query in probe.queries[: max(1, (TIMED if tuned else TIMED // 4) // len(probes))]:
            start = perf_counter()
            how = find.approximate(table, tuned, settings.exact_below, probe.sql)
            find.nearest(table, query[None], NEAREST, probe.sql, how, per_item=False)
            took.append(perf_counter() - start)
    return round(1000 * median(took), 3)
