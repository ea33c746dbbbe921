"""What to do with the vectors of an older encoder: measured on held-out anchors, for each kind of query and task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from polymnia.index.compatibility import mean, measure
from polymnia.index.doubt import Doubt
from polymnia.runs.compatibility import Fitted, Upgrades
from polymnia.types import Modality

Action = Literal["keep", "upgrade", "re-embed"]
MARGIN = 2.0  # points by which a costlier or untidier way has to be better
ACTIONS: dict[str, Action] = {"kept": "keep", "upgraded": "upgrade", "self": "re-embed"}


@dataclass(frozen=True)
class Line:
    """One direction and task: the four measures of its test items, and what they recommend."""

    direction: str
    task: str
    kept: float
    stale: float
    upgraded: float
    self: float
    action: Action


@dataclass(frozen=True)
class Advice:
    """Of the vectors of one encoder and modality. ``action`` follows from ``chosen``: means over the directions and
    tasks of held-out anchors; ``lines`` and ``measured`` are of test items, which nothing was chosen by."""

    old: int
    new: int
    modality: Modality
    fitted: Fitted
    doubt: Doubt
    action: Action
    chosen: dict[str, float]
    measured: dict[str, float]
    lines: tuple[Line, ...]

    @property
    def loss(self) -> float:
        """Points that upgrading costs against the best other way."""
        return max(self.chosen["self"], self.chosen["kept"]) - self.chosen["upgraded"] if self.chosen else 0.0

    @property
    def why(self) -> str:
        """The reason in words."""
        c = self.chosen
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


def advise(
    upgrades: Upgrades,
    old: int,
    new: int,
    modality: Modality,
    queries: Sequence[Modality] = (),
    margin: float = MARGIN,
) -> Advice:
    """What the vectors of a modality, made after ``old`` tasks, need after ``new``.

    ``queries``: the modalities that people ask with (default: the vectors' own, and all that a task aligned with it).
    """
    anchors = upgrades.anchors
    fitted = upgrades.between(old, new, modality)
    asked = set(queries) or anchors.partners(modality, range(1, max(old, new) + 1))
    tasks = range(1, max(old, 1) + 1)  # what an index of that encoder holds

    def found(role: Literal["choose", "test"], task: int) -> dict[str, dict[str, float]]:
        sides = upgrades.sides(old, new, (role,), (task,))
        if modality not in sides:
            return {}
        return measure({m: s for m, s in sides.items() if m in asked}, modality, fitted.adapter, sides[modality])

    choosing = [scores for t in tasks for scores in found("choose", t).values()]
    lines = [
        Line(direction, anchors.tasks[t - 1], **scores, action=decide(scores, margin))
        for t in tasks
        for direction, scores in found("test", t).items()
    ]
    chosen = mean(choosing)
    measured = mean([vars(line) for line in lines])
    held = upgrades.sides(old, new, ("choose",), tasks).get(modality)
    empty = Doubt(*(anchors.rows[old][modality].vectors[:0], anchors.rows[old][modality].vectors[:0, 0]))
    doubt = empty if held is None else Doubt.of(held.old, fitted.adapter(held.old), held.new)
    action = decide(chosen, margin) if chosen else "upgrade"
    return Advice(old, new, modality, fitted, doubt, action, chosen, measured, tuple(lines))
