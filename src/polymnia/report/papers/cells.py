"""One number of a table: the paper's, ours over seeds, and how much of the test set ours is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from polymnia.report.collect import Estimate, Run, estimate, number
from polymnia.report.papers.settings import Setting
from polymnia.report.published import Column, PaperRow

Head = Literal["row", "latest", "stored"]
COMPARABLE = 0.5  # of the official queries: with fewer, a difference would say more about the test set than about us


@dataclass(frozen=True)
class Cell:
    """``paper``: the printed values (of what a stand-in stands in for). ``n`` of ``official`` queries were there.

    ``clips``: items used and listed, "913 of 975". ``source``: the task or watched set that ours is read from.
    ``same_data``: not so for stand-ins.
    """

    paper: tuple[float, ...] = ()
    by_seed: Mapping[int, float] = field(default_factory=dict)
    n: int | None = None
    official: int | None = None
    clips: str = ""
    source: str = ""
    head: str = ""
    same_data: bool = True

    @property
    def ours(self) -> Estimate | None:
        return estimate(self.by_seed.values())

    @property
    def short(self) -> bool:
        """Whether less than half of the official test set was there."""
        return self.n is not None and self.official is not None and self.n < COMPARABLE * self.official

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, where both are of one data set."""
        ours = self.ours
        known = ours is not None and len(self.paper) == 1 and self.same_data and not self.short
        return ours.mean - self.paper[0] if known else None


@dataclass(frozen=True)
class Line:
    """A row of the paper with one setting of ours, or with none. ``notes``: how it differs from the paper."""

    row: str
    label: str
    setting: Setting | None
    cells: Mapping[str, Cell]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.row} ({self.label})" if self.label else self.row


def read_cell(column: Column, row: PaperRow, paper: tuple[float, ...], setting: Setting | None, head: Head) -> Cell:
    """The cell of a column that is read from runs (see ``average`` for one that is a mean of others)."""
    chosen = head if head != "row" else ("stored" if column.group in row.stored else "latest")
    empty = Cell(paper, official=column.n, head=chosen, same_data=not column.here)
    scored = scored_set(column, setting) if setting else None
    if setting is None or scored is None:
        return empty
    name = str(scored["name"])
    found = {r.seed: v for r in setting.runs if (v := last(r, chosen, name, column.metric)) is not None}
    if not found:
        return empty
    run = setting.runs[0]
    n = last(run, chosen, name, column.metric.rpartition("/")[0] + "/N")
    clips = run.counts().get(name, "")
    return replace(empty, by_seed=found, n=None if n is None else int(n), clips=clips, source=name)


def average(paper: tuple[float, ...], parts: Sequence[Cell]) -> Cell:
    """The mean of other cells, seed by seed; empty unless all of them are there."""
    seeds = [s for s in parts[0].by_seed if all(s in p.by_seed for p in parts)]
    means = {s: sum(p.by_seed[s] for p in parts) / len(parts) for s in seeds}
    return Cell(paper, means, head=parts[0].head, same_data=all(p.same_data and not p.short for p in parts))


def scored_set(column: Column, setting: Setting) -> dict[str, Any] | None:
    """The first task or watched set of the column's that is scored on its data and on nothing else."""
    entries = {str(e.get("name")): e for kind in ("tasks", "watch") for e in setting.recipe.get(kind) or []}
    wanted = (entries[name] for name in column.of if name in entries)
    return next((e for e in wanted if _scored_on(e, column.data)), None)


def _scored_on(entry: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    parts = entry.get("data") or []
    parts = [parts] if isinstance(parts, dict) else parts
    tested = [p for p in parts if not entry.get("test_on") or p.get("use") in entry["test_on"]]
    return len(tested) == 1 and _within(data, tested[0])


def _within(wanted: Any, found: Any) -> bool:
    """Whether everything that is wanted is there; a data set may have other keys as well."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_within(v, found.get(k)) for k, v in wanted.items())
    return wanted == found


def last(run: Run, head: str, name: str, metric: str) -> float | None:
    """A metric after the last task."""
    values = ((run.matrix.get("values") or {}).get(head) or {}).get(name) or {}
    column = values.get(metric) or []
    return number(column[-1]) if len(column) == len(run.after) and column else None
