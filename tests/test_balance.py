"""How hard each term pulls: the ratio in the log, and scales set from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from handmade import part, shake, trainer
from torch import Tensor

from polymnia.continual.method import embed_batch
from polymnia.train.trainer import Step, Trainer


def tower_norm(of: Trainer, term: Tensor) -> float:
    grads = torch.autograd.grad(
        term, list(of.model.towers["audio"].parameters()), allow_unused=True, retain_graph=True
    )
    return math.sqrt(sum(float((g**2).sum()) for g in grads if g is not None))


def lessons(parts: Sequence[Any], **cfg: Any) -> Trainer:
    """A trainer in task 2 of a model that has moved since its teacher was taken."""
    run = trainer({"steps": 12, **cfg}, parts, at=2)
    shake(run.model, 3)
    return run


def ratio_by_hand(run: Trainer, key: str) -> float:
    """Gradient norm of a term over that of the objective at the weights as they are, on the next batch."""
    run.model.train(), run.method.train()
    x = run.loader.batch(run.done)
    out = embed_batch(run.method, run.model, x)
    goal = run.method.share * sum(run.objective(run.model, x, out).values())
    return tower_norm(run, run.method.loss(run.model, x, out)[key]) / tower_norm(run, goal)


def test_the_logged_ratio_is_that_of_the_gradient_norms() -> None:
    run = lessons([part("lwf", weight=0.4), part("ewc")], measure=4)
    seen: dict[int, tuple[float, Step]] = {}
    steps = run.steps()
    for number in range(1, 9):
        seen[number] = (ratio_by_hand(run, "lwf/audio"), next(steps))
    assert [n for n, (_, s) in seen.items() if s.ratio] == [4, 8]
    for by_hand, step in (seen[4], seen[8]):
        assert step.ratio == {"lwf": pytest.approx(by_hand, rel=1e-6)}
        assert set(step.terms) == {"contrast/audio-text", "lwf/audio"}
        assert step.loss == pytest.approx(sum(step.terms.values()))


def test_balance_scales_a_term_until_it_pulls_as_hard_as_was_asked() -> None:
    balance = {"target": 0.5, "skip": 1, "batches": 3}
    run = lessons([part("lwf", weight=0.4, balance=balance)], measure=1, lr=1e-4)
    by_hand: list[float] = []
    measured: list[float] = []
    steps = run.steps()
    for _ in range(6):
        by_hand.append(ratio_by_hand(run, "lwf/audio"))
        measured.append(next(steps).ratio["lwf"])
    scale = 0.5 / sorted(by_hand[1:4])[1]  # the median of steps 1, 2, 3
    assert run.balancer.scale == {"lwf": pytest.approx(scale, rel=1e-6)}
    assert measured == pytest.approx([*by_hand[:3], *(scale * r for r in by_hand[3:])], rel=1e-6)
    assert measured[4] == pytest.approx(0.5, rel=0.3) and measured[0] != pytest.approx(0.5, rel=0.3)


def test_a_balanced_term_never_grows_beyond_the_largest_scale() -> None:
    run = lessons([part("lwf", balance={"target": 1e9, "skip": 0, "batches": 1, "largest": 7.0})])
    list(run.steps())
    assert run.balancer.scale == {"lwf": 7.0}
