"""What a recipe will take, from a few real steps of its own model on made-up batches.

Memory of one run is the sum of

- ``weights``: every tower (frozen ones stay in memory too), the heads, and their copies of finished tasks
- ``teacher`` and ``method``: what the method holds, such as a rehearsal memory (of full size from the start)
- ``gradients`` and ``optimizer``: of what trains, as they are after a step
- ``activations``: the distinct tensors that one forward pass keeps for the backward pass, and its batch
- ``best_state``: where early stopping keeps the best weights
- ``process``: Python, torch and its libraries: what this process held at most, without the parts above

Decoded media are mapped from the cache's files: they fill memory that is free, and are given back when it gets short.

Time is the median step of each kind of task times its number of steps (all of them: early stopping may end sooner),
the forward passes of validation and evaluation, and once those of the frozen towers over all items, as if nothing were
cached and nothing else ran on this machine. Left out: decoding (once for all runs), the fitting of probes, clustering,
examples, the report. Where a batch is too large to be measured in a moment, its cost is extrapolated: ``measured``.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymnia.data.store import STORED_SECONDS
from polymnia.data.video import averaged
from polymnia.doctor import embedding, learning
from polymnia.doctor.data import Data
from polymnia.doctor.embedding import Caching
from polymnia.doctor.learning import Learned, Learner
from polymnia.doctor.machine import cores
from polymnia.doctor.timing import Cost
from polymnia.recipe import Recipe
from polymnia.types import AudioFile, AudioSpec, ImageFile, ImageSpec, Item, Modality, VideoFile


@dataclass
class RunCost:
    """One run: its lessons, seconds of its parts, bytes, and what the numbers were measured with."""

    learned: list[Learned]
    seconds: dict[str, float]
    parameters: dict[str, int]
    memory: dict[str, int]
    held: int
    measured: dict[str, Cost]

    @property
    def total(self) -> float:
        return float(sum(self.seconds.values()))


@dataclass
class Costs:
    """The runs of each variant (its seeds cost the same), and what they share."""

    runs: dict[str, RunCost]
    stages: dict[str, list[Learned]]
    caching: dict[str, dict[Modality, Caching]]
    process: int


def measure(planned: Sequence[Recipe], data: Mapping[str, Data]) -> Costs:
    """Measure a run of each variant; ``data`` by variant, all whole."""
    towers = {id(t): t for d in data.values() for t in d.towers.values()}
    before = _resident() - sum(learning.size_of(t) for t in towers.values())
    found = Costs({}, {}, {}, 0)
    shared: dict[int, tuple[list[Learned], dict[Modality, Caching]]] = {}
    for recipe in planned:
        if recipe.variant not in found.runs:
            own = data[recipe.variant]
            if id(own) not in shared:
                shared[id(own)] = (learning.learn_stages(recipe, own), embedding.caching(recipe, own))
            found.stages[recipe.variant], found.caching[recipe.variant] = shared[id(own)]
            found.runs[recipe.variant] = _run(recipe, own)
    held = max((r.held for r in found.runs.values()), default=0)
    # The first optimizer imports a good deal of torch, and a step needs room that it gives back.
    found.process = max(before, _peak() - held, 0)
    return found


def _run(recipe: Recipe, data: Data) -> RunCost:
    learner = learning.learn(recipe, data)
    frozen = [t for m, t in data.towers.items() if m not in learner.model.learn]
    forwards = embedding.forwards(learner)
    seconds = {
        "training": sum((one.seconds for one in learner.learned), 0.0),
        "validation": embedding.validation(learner, forwards, data.looks),
        "evaluation": embedding.evaluation(recipe, data, learner, forwards),
    }
    memory = learning.memory(learner, frozen)
    held = sum(memory.values()) - memory["activations"] - memory["best_state"] + learner.heaviest.held
    parameters = learning.parameters(learner, frozen)
    learner.model.zero_grad()  # its towers serve the next variant
    return RunCost(learner.learned, seconds, parameters, memory, held, _measured(learner, forwards))


def _measured(learner: Learner, forwards: Mapping[Modality, Cost]) -> dict[str, Cost]:
    steps = {f"a step of {one.lesson.task.name}": c for one in learner.learned for c in one.costs}
    return steps | {f"features of {m}": c for m, c in forwards.items()}


def estimate(planned: Sequence[Recipe], data: Mapping[str, Data]) -> dict[str, Any]:
    """The cost of all runs together, as plain data."""
    return summary(planned, data, measure(planned, data))


def summary(planned: Sequence[Recipe], data: Mapping[str, Data], costs: Costs) -> dict[str, Any]:
    """The cost of some of the runs that were measured."""
    first = planned[0]
    runs = [costs.runs[r.variant] for r in planned]
    most = max(runs, key=lambda c: sum(c.memory.values()))
    jobs = min(first.jobs, len(planned))
    stages = sum(one.seconds for one in costs.stages[first.variant])
    shared = stages * len({r.seed for r in planned}) + _cached(planned, costs)
    one = sum(most.memory.values()) + costs.process
    total = shared + sum(c.total for c in runs)
    return {
        "runs": len(planned),
        "jobs": jobs,
        "steps": sum(learned.lesson.steps for c in runs for learned in c.learned),
        "parameters": most.parameters,
        "memory": {**most.memory, "process": costs.process},
        "memory_of_one_run": one,
        "memory_of_all_jobs": one * jobs,
        "disk_for_media": max(_media(d) for d in data.values()),
        "disk_for_features": max(sum(c.disk for c in found.values()) for found in costs.caching.values()),
        "caching": {m: _caching(c) for m, c in costs.caching[first.variant].items()},
        "measured": _notes(costs),
        "seconds": {
            "stages": stages,
            "caching": _cached(planned, costs),
            "variants": {r.variant or r.name: costs.runs[r.variant].total for r in planned},
            "parts": {r.variant or r.name: costs.runs[r.variant].seconds for r in planned},
            "all": total,
            "all_on_this_many_jobs": total / min(jobs, max(1, cores() // first.threads)),
        },
    }


def _cached(planned: Sequence[Recipe], costs: Costs) -> float:
    """Seconds of frozen towers over all items: once for all runs, but again for each seed that a stage has trained."""
    seeds, seconds = len({r.seed for r in planned}), 0.0
    staged = {m for stage in planned[0].stages for m in stage.learn}
    for m in {m for found in costs.caching.values() for m in found}:
        longest = max(found[m].seconds for found in costs.caching.values() if m in found)
        seconds += longest * (seeds if m in staged else 1)
    return seconds


def _caching(c: Caching) -> dict[str, Any]:
    return {"items": c.items, "rows": round(c.rows), "seconds": c.seconds, "disk": c.disk}


def _notes(costs: Costs) -> list[dict[str, Any]]:
    """What the numbers were measured with."""
    every: dict[str, Cost] = {}
    for variant, run in costs.runs.items():
        every |= {f"{variant}: {what}" if variant else what: c for what, c in run.measured.items()}
    for found in costs.caching.values():
        every |= {f"features of {m}": c.cost for m, c in found.items()}
    for stages in costs.stages.values():
        every |= {f"a step of stage {one.lesson.task.name}": c for one in stages for c in one.costs}
    return [
        {"what": w, "rows": c.rows, "measured": list(c.measured), "extrapolated": c.extrapolated, "seconds": c.seconds}
        for w, c in every.items()
    ]


def _media(data: Data) -> int:
    """Bytes of the decoded media: int16 samples, uint8 pixels. Long recordings and averaged videos are not kept."""
    assert data.curriculum is not None
    items: Sequence[Item] = data.curriculum.items
    total = 0
    for m, spec in ((m, t.spec) for m, t in data.towers.items()):
        if isinstance(spec, AudioSpec):
            sounds = {s for i in items if isinstance(s := i.sources.get(m), AudioFile)}
            seconds = [data.looks.seconds(s) for s in sounds]
            total += round(sum(s for s in seconds if s <= STORED_SECONDS) * spec.sample_rate * 2)
        elif isinstance(spec, ImageSpec):
            sources = {s for i in items if isinstance(s := i.sources.get(m), (ImageFile, VideoFile))}
            total += sum(not averaged(s, spec) for s in sources) * spec.channels * spec.size**2
    return total


def _peak() -> int:
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident() -> int:
    """The bytes that this process holds now, where the system tells; else the most that it has held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return _peak()
