"""What to do with the vectors of an older encoder: measured on held-out anchors, for each kind of query and task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from polymnia.runs.compatibility import Fitted, Upgrades
from polymnia.spaces.compatibility import BACK, mean, measure, weighted
from polymnia.spaces.doubt import Doubt
from polymnia.types import Modality

Action = Literal["keep", "upgrade", "re-embed"]
RARE = 0.05  # share of an index below which a task has no say in the choice of an adapter
MARGIN = 2.0  # points by which a costlier or untidier way has to be better


@dataclass(frozen=True)
class Line:
    """One direction and task: the measures of its test items, and what they recommend. ``back``: of queries that are
    mapped to the old space, where that was asked for."""

    direction: str
    task: str
    kept: float
    stale: float
    upgraded: float
    self: float
    action: Action
    back: float | None = None


@dataclass(frozen=True)
class Advice:
    """Of the vectors of one encoder and modality. ``action`` follows from ``chosen``: means over directions and tasks
    of held-out anchors; ``lines`` and ``measured`` are of test items, which nothing was chosen by. ``weights``: which
    share of the index's rows lies nearest to each task, so much does it count. ``backwards``: kinds of the maps of
    queries, by what asks, where queries are mapped back in place of rows."""

    old: int
    new: int
    modality: Modality
    fitted: Fitted
    doubt: Doubt
    action: Action
    chosen: dict[str, float]
    measured: dict[str, float]
    lines: tuple[Line, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    backwards: Mapping[Modality, str] = field(default_factory=dict)

    @property
    def way(self) -> str:
        """The measure of what is offered: rows mapped to the new space, or queries mapped back."""
        return BACK if BACK in self.chosen else "upgraded"

    @property
    def loss(self) -> float:
        """Points that mapping costs against the best other way."""
        return max(self.chosen["self"], self.chosen["kept"]) - self.chosen[self.way] if self.chosen else 0.0

    @property
    def why(self) -> str:
        """The reason in words."""
        c = self.chosen
        if self.fitted.still:
            return "its tower did not move: these are the new encoder's vectors as they are"
        if not c:
            return "there are too few anchors to measure anything: vectors are mapped as they are"
        if self.action == "keep":
            return (
                f"the old space finds {c['kept']:.1f} of its items, mapped vectors {c['upgraded']:.1f} and new ones "
                f"{c['self']:.1f}: the new encoder is worse on them, so they stay in their own space"
            )
        if self.action == "upgrade":
            return (
                f"mapped vectors find {c['upgraded']:.1f}, new ones {c['self']:.1f}, untouched ones {c['stale']:.1f}"
            )
        return f"mapped vectors find only {c['upgraded']:.1f}, new ones {c['self']:.1f}: it pays to embed them again"


def decide(scores: dict[str, float], margin: float = MARGIN) -> Action:
    """Upgrade, unless keeping or embedding again is better by more than ``margin`` points; keep before re-embed."""
    if scores["upgraded"] >= max(scores["kept"], scores["self"]) - margin:
        return "upgrade"
    return "keep" if scores["kept"] >= scores["self"] - margin else "re-embed"


def advise(  # noqa: PLR0913
    upgrades: Upgrades,
    old: int,
    new: int,
    modality: Modality,
    queries: Sequence[Modality] = (),
    margin: float = MARGIN,
    weights: Mapping[int, float] | None = None,
    back: bool = False,
) -> Advice:
    """What the vectors of a modality, made after ``old`` tasks, need after ``new``.

    ``queries``: the modalities that people ask with (default: the vectors' own, and all that a task aligned with it).
    ``weights``: how much each task counts (default: all alike), such as what share of the vectors is like its items.
    ``back``: measure queries that are mapped to the old space, too.
    """
    anchors = upgrades.anchors
    tasks = range(1, max(old, new) + 1)  # an index holds what it holds, also of tasks that were learned later
    present = [t for t, share in (weights or {}).items() if share >= RARE]
    fitted = upgrades.between(old, new, modality, present)
    backwards = {m: upgrades.between(new, old, m) for m in anchors.rows[new]} if back else {}
    maps = {m: b.adapter for m, b in backwards.items()} if back else None

    def found(role: Literal["choose", "test"], task: int) -> dict[str, dict[str, float]]:
        asked = set(queries) or anchors.partners(modality, (task,))
        sides = upgrades.sides(old, new, (role,), (task,))
        if modality not in sides:
            return {}
        asking = {m: s for m, s in sides.items() if m in asked}
        return measure(asking, modality, fitted.adapter, sides[modality], maps)

    choosing = {t: mean(list(found("choose", t).values())) for t in tasks}
    lines = [
        Line(direction, anchors.tasks[t - 1], **scores, action=decide(scores, margin))
        for t in tasks
        for direction, scores in found("test", t).items()
    ]
    shares = {t: 1.0 if weights is None else weights.get(t, 0.0) for t, scores in choosing.items() if scores}
    chosen = weighted([(shares[t], choosing[t]) for t in shares])
    measured = mean([vars(line) for line in lines])
    held = upgrades.sides(old, new, ("choose",), tasks).get(modality)
    empty = Doubt(*(anchors.rows[old][modality].vectors[:0], anchors.rows[old][modality].vectors[:0, 0]))
    doubt = empty if held is None else Doubt.of(held.old, fitted.adapter(held.old), held.new)
    action = decide(chosen, margin) if chosen and not fitted.still else "upgrade"
    named = {anchors.tasks[t - 1]: share for t, share in (weights or {}).items()}
    kinds = {m: b.kind for m, b in backwards.items()}
    return Advice(old, new, modality, fitted, doubt, action, chosen, measured, tuple(lines), named, kinds)
