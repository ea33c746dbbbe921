"""``polymnia run RECIPE --dry-run``: everything that the command would do is resolved, checked and told; nothing is
written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from polymnia.doctor.aside import untouched
from polymnia.doctor.data import Data
from polymnia.doctor.estimate import Costs, measure, summary
from polymnia.doctor.examine import check_all, enough, misfit, names, threads
from polymnia.doctor.finding import Finding, healthy
from polymnia.doctor.outline import outline
from polymnia.recipe import Recipe, plan
from polymnia.runs import assemble
from polymnia.types import UserError


@dataclass(frozen=True)
class Rehearsal:
    """What a study would do. ``runs``: every run with its folder and how far it is; ``plans``: a run of each variant;
    ``datasets``: items by set and split; ``estimate``: of what is not finished yet, None where something is missing.
    """

    name: str
    title: str
    findings: list[Finding]
    runs: list[dict[str, Any]]
    datasets: list[dict[str, Any]] = field(default_factory=list)
    leaks: list[dict[str, Any]] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    plans: list[dict[str, Any]] = field(default_factory=list)
    estimate: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether the study can be run."""
        return healthy(self.findings)

    @property
    def wrong(self) -> str:
        """What the recipe asks for and cannot be, as a run would say it; empty if nothing."""
        return "; ".join(f.value for f in self.findings if f.wrong)

    def plain(self) -> dict[str, Any]:
        """The same as data for JSON."""
        return {"ok": self.ok, **asdict(self)}


def rehearse(recipe: str | Path | Mapping[str, Any], overrides: Mapping[str, Any]) -> Rehearsal:
    """Go through a study without doing it.

    Raises UserError for a recipe that cannot be read. What is missing, and what does not fit together, is a finding.
    """
    with untouched() as aside:
        planned = plan(recipe, overrides)
        first = planned[0]
        findings = [Finding("recipe", first.name, names(planned)), _device(first.device)]
        moved = [aside(r) for r in planned]
        data = check_all(moved)
        for found in data.values():
            findings += [f for f in found.findings if f not in findings]
        runs = [_run(r, data[r.variant], findings) for r in planned]
        costs = None
        if all(f.ok is not False for f in findings):
            try:
                with threads(first.threads):
                    costs = measure(moved, data)
            except UserError as error:
                findings.append(misfit(error))
        return _told(planned, moved, findings, runs, data, costs)


def _told(
    planned: Sequence[Recipe],
    moved: Sequence[Recipe],
    findings: list[Finding],
    runs: list[dict[str, Any]],
    data: Mapping[str, Data],
    costs: Costs | None,
) -> Rehearsal:
    known = {id(d.curriculum): d.curriculum for d in data.values() if d.curriculum is not None}.values()
    kinds = {r.variant: r for r in moved}
    plans = [
        outline(r, data[v], costs.runs[v] if costs else None, costs.stages[v] if costs else [])
        for v, r in kinds.items()
    ]
    told = None
    if costs is not None:
        left = [r for r, run in zip(moved, runs, strict=True) if run["state"] != "finished"]
        told = summary(moved, data, costs)
        told["left"] = summary(left, data, costs)["seconds"]["all_on_this_many_jobs"] if left else 0.0
        findings += enough(told, planned[0].device)
    return Rehearsal(
        planned[0].name,
        planned[0].title,
        findings,
        runs,
        _distinct(asdict(c) for k in known for c in k.counts),
        _distinct(leak.plain() for k in known for leak in k.leaks),
        _distinct(name for k in known for name in k.without),
        plans,
        told,
    )


def _distinct(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _device(name: str) -> Finding:
    try:
        assemble.find_device(name)
    except UserError as error:
        return Finding("recipe", "device", str(error), False, wrong=True)
    return Finding("recipe", "device", name)


def _run(recipe: Recipe, data: Data, findings: list[Finding]) -> dict[str, Any]:
    """A run, its folder, and how far it is; a finding if its folder was finished on other data."""
    path, state = recipe.folder / "meta.json", "new"
    if recipe.folder.exists():
        meta = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"finished": None}
        state = "finished" if meta["finished"] else "begun"
        if meta["finished"] and data.fingerprint and meta.get("fingerprint", data.fingerprint) != data.fingerprint:
            findings.append(Finding("recipe", "folder", assemble.other_data(recipe.folder), False, wrong=True))
    return {"variant": recipe.variant, "seed": recipe.seed, "folder": str(recipe.folder), "state": state}
