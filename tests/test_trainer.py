"""The loop: rates, steps, stopping, clipping, balance, and what it says when a loss is no number."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from handmade import LR, Fixed, Goal, batch, model, part, setup, trainer
from torch import Tensor, nn

from polymnia.continual.chain import Chain
from polymnia.continual.method import embed_batch
from polymnia.models.model import Model
from polymnia.train.settings import TrainConfig
from polymnia.train.trainer import LossError, Trainer, clip_gradients, validation_loss
from polymnia.types import Batch, Outputs, Terms, UserError


def weights(of: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in of.model.parameters()]).clone()


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({"kind": "constant", "warmup": 4}, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1, 1]),
        ({"kind": "step", "every": 2, "gamma": 0.5}, [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5]),  # three steps an epoch
        ({"kind": "step", "every": 1, "gamma": 0.1, "warmup": 2}, [1 / 2, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]),
        ({"kind": "cosine"}, [(1 + math.cos(math.pi * k / 9)) / 2 for k in range(9)]),
        ({"kind": "cosine", "warmup": 3}, [1 / 3, 2 / 3, 1, *((1 + math.cos(math.pi * k / 6)) / 2 for k in range(6))]),
    ],
)
def test_the_learning_rate_follows_the_schedule(schedule: dict[str, Any], factors: list[float]) -> None:
    rates = [s.lr for s in trainer({"steps": 9, "schedule": schedule}).steps()]
    assert rates == pytest.approx([LR * f for f in factors])


def test_a_plateau_lowers_the_rate_when_torchs_own_rule_does() -> None:
    metrics = [0.1, 0.5, 0.4, 0.5, 0.5, 0.2, 0.3, 0.1, 0.1, 0.6, 0.1, 0.1]
    schedule = {"kind": "plateau", "patience": 2, "gamma": 0.1, "least": 0.0005}
    rates = [s.lr for s in trainer({"epochs": 12, "schedule": schedule}, metrics=metrics).steps()]
    oracle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], LR)
    rule = torch.optim.lr_scheduler.ReduceLROnPlateau(oracle, "max", 0.1, 2, threshold=0.0, min_lr=0.0005)
    wanted = []
    for metric in metrics:
        wanted.append(oracle.param_groups[0]["lr"])
        oracle.step()
        rule.step(metric)
    assert rates[::3] == pytest.approx(wanted) and len(set(wanted)) == 3


def test_early_stopping_restores_the_best_state() -> None:
    run = trainer({"epochs": 9, "stop": {"patience": 2}}, metrics=[0.1, 0.7, 0.6, 0.7, 0.9])
    seen = [weights(run) for _ in run.steps()]
    assert len(seen) == 4 * 3  # epoch 2 was the best, 3 and 4 were no better
    assert torch.equal(weights(run), seen[2 * 3 - 1])
    assert not torch.equal(weights(run), seen[-1])


def test_without_a_validation_set_nothing_stops_early() -> None:
    assert len(list(trainer({"epochs": 2, "stop": {"patience": 1}}).steps())) == 6


@pytest.mark.parametrize("at", range(1, 13))
def test_a_run_that_is_cut_after_any_step_ends_bit_identically(at: int) -> None:
    schedule = {"kind": "plateau", "patience": 1, "gamma": 0.5}
    cfg = {"epochs": 4, "stop": {"patience": 2}, "schedule": schedule}
    metrics = [0.1, 0.7, 0.6, 0.7]
    parts = [part("cassle", balance={"skip": 1, "batches": 3}), part("lwf")]
    whole = trainer(cfg, parts, metrics, of=model(dropout=0.5))
    rates = [s.lr for s in whole.steps()]

    first = trainer(cfg, parts, metrics, of=model(dropout=0.5))
    steps = first.steps()
    cut = [next(steps).lr for _ in range(at)]
    saved = {"model": first.model.state_dict(), "method": first.method.state_dict(), "trainer": first.state_dict()}
    saved = torch.load(_through_a_file(saved), weights_only=True)
    second = trainer(cfg, parts, metrics[at // 3 :] or [0.0], of=model(dropout=0.5, seed=9))
    second.model.load_state_dict(saved["model"]), second.method.load_state_dict(saved["method"])
    second.load_state_dict(saved["trainer"])
    assert cut + [s.lr for s in second.steps()] == rates
    assert torch.equal(weights(second), weights(whole))
    assert all(torch.equal(v, whole.method.state_dict()[k]) for k, v in second.method.state_dict().items())


def _through_a_file(state: dict[str, Any]) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def line(weight: float) -> Goal:
    """An objective that is linear in one weight: its gradient is ``weight`` there and zero elsewhere."""

    def goal(m: Model, of: Batch, out: Outputs) -> Terms:
        return {"line": weight * m.towers["audio"].linear.bias[0] + 0 * sum(e.sum() for e in out.embeddings.values())}

    return goal


def test_sgd_with_momentum_and_decay_moves_as_calculated_by_hand() -> None:
    run = trainer({"steps": 3, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1}, goal=line(2.0))
    w, v = float(run.model.towers["audio"].linear.bias.detach()[0]), 0.0
    for _ in run.steps():
        v = 0.9 * v + (2.0 + 0.1 * w)
        w -= LR * v
        assert float(run.model.towers["audio"].linear.bias.detach()[0]) == pytest.approx(w, rel=1e-12)


@pytest.mark.parametrize(("optimizer", "decoupled"), [("adam", False), ("adamw", True)])
def test_adam_moves_as_calculated_by_hand(optimizer: str, decoupled: bool) -> None:
    betas, decay, eps = (0.8, 0.99), 0.1, 1e-8
    run = trainer({"steps": 4, "optimizer": optimizer, "betas": betas, "weight_decay": decay}, goal=line(2.0))
    w, m, v = float(run.model.towers["audio"].linear.bias.detach()[0]), 0.0, 0.0
    for t, _ in enumerate(run.steps(), start=1):
        g = 2.0 + (0 if decoupled else decay * w)
        w -= LR * decay * w if decoupled else 0
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        w -= LR * (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
        assert float(run.model.towers["audio"].linear.bias.detach()[0]) == pytest.approx(w, rel=1e-9)


def test_amsgrad_and_momentum_reach_the_optimizer() -> None:
    assert trainer({"steps": 1, "amsgrad": True}).optimizer.defaults["amsgrad"]
    assert trainer({"steps": 1, "optimizer": "sgd", "momentum": 0.5}).optimizer.defaults["momentum"] == 0.5


@pytest.mark.parametrize(("clip", "moved"), [(0.5, 0.5), (3.0, 2.0)])
def test_a_gradient_is_cut_to_the_norm_that_is_asked_for(clip: float, moved: float) -> None:
    run = trainer({"steps": 1, "optimizer": "sgd", "momentum": 0.0, "clip": clip}, goal=line(2.0))
    before = weights(run)
    list(run.steps())
    assert float((weights(run) - before).norm()) == pytest.approx(LR * moved, rel=1e-5)


def test_parameters_with_zero_gradient_change_no_bit_of_the_clipped_ones() -> None:
    g = torch.Generator().manual_seed(0)
    for trial in range(100):
        grads = [torch.randn(5, generator=g) for _ in range(3 + trial)]
        plain, more = ([nn.Parameter(torch.zeros(5)) for _ in range(len(grads) + n)] for n in (0, 3))
        for chosen in (plain, more):
            for p, grad in zip(chosen, [*grads, *[torch.zeros(5)] * 3], strict=False):
                p.grad = grad.clone()
            clip_gradients(chosen, 1.0)
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain, more, strict=False))
        norm = np.sqrt(sum((p.grad.double() ** 2).sum().item() for p in plain))
        assert norm == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("freeze", [True, False])
def test_freeze_bn_leaves_running_statistics_alone_and_trains_the_rest(freeze: bool) -> None:
    run = trainer({"steps": 3, "freeze_bn": freeze}, of=model(norm=True))
    tower = run.model.towers["audio"]
    mean, weight = tower.norm.running_mean.clone(), tower.linear.weight.detach().clone()
    list(run.steps())
    assert torch.equal(tower.norm.running_mean, mean) is freeze
    assert not torch.equal(tower.linear.weight, weight)


def test_bf16_trains_nearly_as_float32_and_keeps_float32_weights() -> None:
    runs = [trainer({"steps": 3, "bf16": b}, of=model().float()) for b in (False, True)]
    for run in runs:
        run.method.float()
        run.loader = Fixed([_single(b) for b in run.loader.batches])
    exact, rough = ([s.loss for s in run.steps()] for run in runs)
    assert exact != rough and rough == pytest.approx(exact, rel=0.05)
    assert {p.dtype for p in runs[1].model.parameters()} == {torch.float32}


def _single(of: Batch) -> Batch:
    return Batch({m: x.float() for m, x in of.inputs.items()}, of.rows, of.group, of.task)


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_terms() -> None:
    run = trainer({"steps": 9}, [part("lwf", weight=0.5)])
    run.loader.batches[2].inputs["audio"][0, 0] = math.nan
    steps = run.steps()
    kept = [next(steps) for _ in range(2)] and weights(run)
    with pytest.raises(LossError) as caught:
        next(steps)
    assert isinstance(caught.value, UserError)
    for word in ("step 3 of 9", "contrast/audio-text = nan", "lwf/audio = nan", "train.lr"):
        assert word in str(caught.value)
    assert torch.equal(weights(run), kept)  # that step changed nothing


def test_no_steps_train_nothing_and_a_model_without_parameters_is_refused() -> None:
    assert list(trainer({"steps": 0}).steps()) == []
    still = model(learn=())
    for p in still.parameters():
        p.requires_grad_(False)
    method = Chain([], setup(still))
    with pytest.raises(UserError, match="nothing trains"):
        Trainer(still, method, line(1.0), Fixed([batch(1)]), TrainConfig(steps=1), (0, 1))


def test_the_validation_loss_is_the_mean_over_rows_with_everything_as_in_evaluation() -> None:
    m = model(dropout=0.5)
    chain = Chain([], setup(m))
    m.train(), chain.train()
    parts = [batch(1, rows=6), batch(2, rows=2), batch(3, rows=1)]  # a single row has nothing to be contrasted with
    goal = setup(m).objective
    found = validation_loss(m, chain, goal, parts)
    assert m.training and chain.training
    m.eval()
    six, two = (float(sum(goal(m, p, embed_batch(chain, m, p)).values()).detach()) for p in parts[:2])
    assert found == pytest.approx((6 * six + 2 * two) / 8)
    assert validation_loss(m, chain, goal, parts[2:]) == math.inf
    # three rows of which one alone has both sides: nothing to contrast either, and no reason to end a run
    lone = Batch({k: x[:3] for k, x in parts[0].inputs.items()}, {}, parts[0].group[:3], parts[0].task[:3])
    lone = replace(lone, inputs={"audio": lone.inputs["audio"], "text": lone.inputs["text"][:1]})
    lone = replace(lone, rows={"audio": torch.arange(3), "text": torch.tensor([1])})
    assert validation_loss(m, chain, goal, [*parts, lone]) == pytest.approx(found)
