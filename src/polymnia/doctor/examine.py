"""The examination: this machine, and what a recipe needs of it. Nothing is written to a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from polymnia.doctor import data as recipe_data
from polymnia.doctor.estimate import estimate
from polymnia.doctor.finding import Diagnosis, Finding, size
from polymnia.doctor.machine import frameworks, machine, memory, optional, packages
from polymnia.recipe import Recipe, plan
from polymnia.types import UserError


def examine(
    recipe: str | Path | Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> Diagnosis:
    """What is installed; with a recipe, also whether its data and weights are there, and what it will take.

    Raises UserError for a recipe that cannot be read; what is missing on the machine is a finding, not an error.
    """
    planned = plan(recipe, overrides or {}) if recipe is not None else []
    places = {"out": planned[0].out, "cache": planned[0].cache} if planned else {"here": Path()}
    device = planned[0].device if planned else "cpu"
    findings = [*machine(places), *frameworks(device), *packages(), *optional()]
    if not planned:
        return Diagnosis(findings)
    findings.append(Finding("recipe", planned[0].name, _names(planned)))
    counts: list[dict[str, Any]] = []
    checked = None
    for one in _distinct(planned):  # variants may change data or towers; most do not
        found = recipe_data.check(one)
        findings += [f for f in found.findings if f not in findings]
        counts += [c for c in found.counts if c not in counts]
        checked = checked or found
    assert checked is not None
    if checked.curriculum is None or any(f.ok is False for f in findings if f.area in ("torch", "towers", "data")):
        return Diagnosis(findings, counts)
    before = torch.get_num_threads()
    torch.set_num_threads(planned[0].threads)
    try:
        costs = estimate(planned, checked)
    except UserError as error:  # parts that do not fit together
        return Diagnosis([*findings, Finding("recipe", "model", str(error), False)], counts)
    finally:
        torch.set_num_threads(before)
    return Diagnosis([*findings, *_room(costs)], counts, costs)


def _names(planned: Sequence[Recipe]) -> str:
    variants = ", ".join(dict.fromkeys(r.variant for r in planned if r.variant)) or "no variants"
    return f"{len(planned)} run(s): {variants}; seeds {', '.join(map(str, dict.fromkeys(r.seed for r in planned)))}"


def _distinct(planned: Sequence[Recipe]) -> list[Recipe]:
    """One run of each kind, as far as data and towers go."""
    kinds: dict[str, Recipe] = {}
    for recipe in planned:
        parts = [recipe.data, recipe.towers, recipe.stages, recipe.tasks, recipe.watch]
        kinds.setdefault(repr(parts), recipe)
    return list(kinds.values())


def _room(costs: Mapping[str, Any]) -> list[Finding]:
    wanted, available = costs["memory_of_all_jobs"], memory()[1]
    value = f"about {size(wanted)} needed, {size(available)} available"
    return [Finding("recipe", "memory", value, wanted <= available)]
