"""The examination: this machine, and what a recipe needs of it. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from polymnia.doctor.aside import untouched
from polymnia.doctor.data import Checker, Data
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
    with untouched() as aside:
        planned = [aside(r) for r in plan(recipe, overrides or {})] if recipe is not None else []
        places = {"out": planned[0].out, "cache": planned[0].cache} if planned else {"here": Path()}
        device = planned[0].device if planned else "cpu"
        findings = [*machine(places), *frameworks(device), *packages(), *optional()]
        if not planned:
            return Diagnosis(findings)
        findings.append(Finding("recipe", planned[0].name, names(planned)))
        data = check_all(planned)
        counts: list[dict[str, Any]] = []
        for found in data.values():
            findings += [f for f in found.findings if f not in findings]
            counts += [c for c in found.counts if c not in counts]
        if any(f.ok is False for f in findings if f.area in ("torch", "towers", "data")):
            return Diagnosis(findings, counts)
        try:
            with threads(planned[0].threads):
                costs = estimate(planned, data)
        except UserError as error:
            return Diagnosis([*findings, misfit(error)], counts)
        return Diagnosis([*findings, *enough(costs, device)], counts, costs)


def check_all(planned: Sequence[Recipe]) -> dict[str, Data]:
    """What was found out about the data and weights of each variant; what variants share is looked at once."""
    checker = Checker()
    data: dict[str, Data] = {}
    for recipe in planned:
        if recipe.variant not in data:
            data[recipe.variant] = checker.check(recipe)
    return data


def names(planned: Sequence[Recipe]) -> str:
    variants = ", ".join(dict.fromkeys(r.variant for r in planned if r.variant)) or "no variants"
    return f"{len(planned)} run(s): {variants}; seeds {', '.join(map(str, dict.fromkeys(r.seed for r in planned)))}"


def misfit(error: UserError) -> Finding:
    """Parts of a recipe that do not fit together."""
    return Finding("recipe", "model", str(error), False, wrong=True)


def enough(costs: Mapping[str, Any], device: str) -> list[Finding]:
    """Whether what a recipe needs is free: on a GPU, everything but the process."""
    wanted, available = costs["memory_of_all_jobs"], memory()[1]
    found = [Finding("recipe", "memory", _compared(wanted, available), wanted <= available)]
    if (on := torch.device(device)).type == "cuda":
        parts = {k: v for k, v in costs["memory"].items() if k != "process"}
        wanted, free = sum(parts.values()) * costs["jobs"], torch.cuda.mem_get_info(on)[0]
        found.append(Finding("recipe", f"memory of {device}", _compared(wanted, free), wanted <= free))
    return found


def _compared(wanted: int, available: int) -> str:
    return f"about {size(wanted)} needed, {size(available)} available"


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads for torch, as a run takes them, and chance left as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)
