"""How compatible a run's encoders are: would an index of one serve the next, as it is or through an adapter?

At the end of a run ``compatibility.json`` holds, for the test items of every task but the last, as if each had been
put into an index right after its task was learned: what new queries find among these old vectors (stale), among
mapped ones (upgraded), and among vectors made anew (self). Adapters are fitted on anchors of all tasks (see
``polymnia.runs.anchors``) and stored in ``adapters/``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polymnia.data.disk import write_text
from polymnia.runs.adapters import FOLDER, Learned, learned, save
from polymnia.runs.anchors import Anchors, Role, read
from polymnia.spaces.adapter import CLOSED_FORM, Adapter, Chain, fit
from polymnia.spaces.compatibility import Side, judge, mean, measure, won_back
from polymnia.types import MODALITIES, Modality, UserError

FILE = "compatibility.json"
MEANS = {"summary": "aligned", "own": "own"}
STILL = 1e-5  # vectors that differ by less are the same
LEAST = 8  # anchors below which nothing is fitted


@dataclass(frozen=True)
class Fitted:
    """An adapter of one modality. ``score`` is its judge's; ``scores`` those of each family that was tried (none where
    there are too few anchors). ``still``: both encoders give the same vectors, there is nothing to map."""

    adapter: Adapter | Chain
    score: float
    scores: Mapping[str, float]
    still: bool = False

    @property
    def kind(self) -> str:
        return self.adapter.kind


class Upgrades:
    """The adapters between the encoders of a run, fitted when they are asked for, each once.

    ``learned``: maps that the run's method trained on its way, which compete with those that are fitted.
    """

    def __init__(self, anchors: Anchors, kinds: tuple[str, ...] = CLOSED_FORM, learned: Learned | None = None):
        self.anchors, self.kinds, self.learned = anchors, kinds, learned or {}
        self._links: dict[tuple[int, int, Modality, tuple[int, ...]], Fitted] = {}

    @classmethod
    def of(cls, run: Path, kinds: tuple[str, ...] = CLOSED_FORM) -> Upgrades:
        """Those of a run's folder. Raises UserError where it keeps no anchors."""
        return cls(read(run), kinds, learned(run))

    def between(self, old: int, new: int, modality: Modality, tasks: Sequence[int] = ()) -> Fitted:
        """The adapter from the encoder after ``old`` tasks to that after ``new``: refitted in one step, or the chain
        of all steps between, whichever is better on held-out anchors.

        ``tasks``: of which (default: those that the older encoder had learned, as an index of it holds them)."""
        self.anchors.need(old, new)
        on = tuple(tasks) or tuple(range(1, max(min(old, new), 1) + 1))
        direct = self._direct(old, new, modality, on)
        steps = [k for k in sorted(self.anchors.rows) if min(old, new) <= k <= max(old, new)]
        if len(steps) < 3 or not direct.scores:
            return direct
        ordered = steps if old < new else steps[::-1]
        links = [self._direct(a, b, modality, on).adapter for a, b in zip(ordered, ordered[1:], strict=False)]
        chain = Chain(tuple(a for a in links if isinstance(a, Adapter) and a.kind != "identity"))
        held = self._held(old, new, modality, on)
        score = judge(held, modality)(chain(held[modality].old))
        scores = {**direct.scores, "chain": score}
        return Fitted(chain, score, scores) if score > direct.score else Fitted(direct.adapter, direct.score, scores)

    def _direct(self, old: int, new: int, modality: Modality, on: tuple[int, ...]) -> Fitted:
        key = (old, new, modality, on)
        if key not in self._links:
            self._links[key] = self._fit(old, new, modality, on)
        return self._links[key]

    def _fit(self, old: int, new: int, modality: Modality, on: tuple[int, ...]) -> Fitted:
        learned = range(1, max(old, new) + 1)
        x, y = (self.anchors.select(k, modality, ("fit",), learned)[0] for k in (old, new))
        held = self._held(old, new, modality, on)
        still = 0 < len(x) == len(y) and bool(torch.allclose(x, y, atol=STILL))
        if still or len(x) < LEAST or len(held.get(modality, ())) < LEAST:
            return Fitted(Adapter("identity"), 0.0, {}, still)
        of = judge(held, modality)
        adapter, scores = fit(x, y, held[modality].old, of, self.kinds)
        known = self.learned.get((old, new, modality))
        if known is not None:
            scores[known.kind] = of(known(held[modality].old))
            adapter = known if scores[known.kind] > scores[adapter.kind] else adapter
        return Fitted(adapter, scores[adapter.kind], scores)

    def _held(self, old: int, new: int, modality: Modality, on: Sequence[int]) -> dict[Modality, Side]:
        """What an adapter is chosen on: held-out anchors, asked as was taught."""
        held = self.sides(old, new, ("choose",), on)
        partners = self.anchors.partners(modality, range(1, max(old, new) + 1))
        return {m: side for m, side in held.items() if m in partners}

    def sides(self, old: int, new: int, roles: Sequence[Role], tasks: Sequence[int]) -> dict[Modality, Side]:
        """Anchors of some roles and tasks, as both encoders embed them."""
        out: dict[Modality, Side] = {}
        for m in MODALITIES:
            x, ids, groups = self.anchors.select(old, m, roles, tasks)
            y, _, _ = self.anchors.select(new, m, roles, tasks)
            if len(ids) and len(x) == len(y):
                out[m] = Side(x, y, ids, groups)
        return out


def compare(upgrades: Upgrades) -> dict[str, Any]:
    """What ``compatibility.json`` holds: measures of galleries that moved, and their means.

    ``summary`` is over the directions that a task aligns, ``own`` within a modality.
    """
    anchors = upgrades.anchors
    after = sorted(anchors.rows)
    last = after[-1]
    found: list[dict[str, Any]] = []
    for old in (k for k in after if 0 < k < last):
        sides = upgrades.sides(old, last, ("test",), (old,))
        for m in (m for m, s in sides.items() if not torch.allclose(s.old, s.new, atol=STILL)):
            fitted = upgrades.between(old, last, m)
            partners = anchors.partners(m, (old,))
            for direction, scores in measure(sides, m, fitted.adapter).items():
                query = direction.split(">")[0]
                kind = "own" if query == m else "aligned" if query in partners else "other"
                said = {"task": anchors.tasks[old - 1], "old": old, "new": last, "direction": direction}
                found.append({**said, "kind": kind, "adapter": fitted.kind, **scores})
    means = {k: _summed([f for f in found if f["kind"] == kind]) for k, kind in MEANS.items()}
    return {"measures": found, **means}


def write(folder: Path) -> None:
    """``compatibility.json`` and the adapters to the newest encoder; nothing for a run without two encoders."""
    try:
        upgrades = Upgrades.of(folder)
    except UserError:
        return  # no anchors were asked for
    steps = [k for k in sorted(upgrades.anchors.rows) if k > 0]
    if len(steps) < 2 or steps != list(range(1, steps[-1] + 1)):
        return
    write_text(folder / FILE, json.dumps(compare(upgrades), indent=1))
    for old in steps[:-1]:
        for m in MODALITIES:
            if m in upgrades.anchors.rows[old]:
                fitted = upgrades.between(old, steps[-1], m)
                save(folder / FOLDER / f"{m}-{old}-to-{steps[-1]}.safetensors", fitted.adapter, fitted.scores)


def _summed(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    scores = mean(found)
    back = won_back(scores) if scores else float("nan")
    return scores | ({"won_back": 100 * back} if back == back else {})
