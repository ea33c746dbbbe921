"""The terms of LwF, CaSSLe, Mod-X and EWC, recomputed with numpy from a model's weights; and where gradient goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from handmade import DIM, Fixed, batch, features, head, kl, model, numbers, part, setup, shake, softmax, task, unit
from torch import Tensor

from polymnia.continual.method import AbstractMethod, embed_batch
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.types import Batch, Terms

X = batch(1)


def made(use: str, of: Model, **settings: Any) -> AbstractMethod:
    chosen = part(use, **settings)
    return chosen.module.Method(chosen.config, setup(of)).double()


def later(use: str, at: int, **settings: Any) -> tuple[Model, AbstractMethod, dict, dict]:
    """A model in the middle of task ``at``: model, method, the weights when the task began, and those now."""
    m = model()
    method = made(use, m, **settings)
    for index in range(1, at + 1):
        shake(m, index)
        then = numbers(m)
        method.begin_task(m, task(index))
    shake(m, 99)
    shake(method.predictors if use == "cassle" else torch.nn.Module(), 98)
    m.train(), method.train()
    return m, method, then, numbers(m)


def terms(method: AbstractMethod, m: Model, of: Batch = X) -> Terms:
    return method.loss(m, of, embed_batch(method, m, of))


def values(of: Terms) -> dict[str, float]:
    return {name: float(term.detach()) for name, term in of.items()}


def reached(term: Tensor, m: Model, method: AbstractMethod) -> set[str]:
    """The top-level parts of model and method that the term has a gradient for."""
    every = {**{f"model.{k}": p for k, p in m.named_parameters()}, **dict(method.named_parameters())}
    asked = {k: p for k, p in every.items() if p.requires_grad}
    grads = torch.autograd.grad(term, list(asked.values()), allow_unused=True, retain_graph=True)
    names = {k for k, g in zip(asked, grads, strict=True) if g is not None and g.abs().sum() > 0}
    return {".".join(k.split(".")[: 3 if k.startswith("model.") else 1]) for k in names}


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, 1 / 8),
        ({"temperature": 2.0}, 1 / 8),
        ({"temperature": 2.0, "t2_scale": True}, 4 / 8),
        ({"reduction": "sum"}, 1),
        ({"reduction": "mean", "normalize": True}, 1 / 8 / 6),
    ],
)
def test_lwf_in_the_first_task_holds_the_raw_features(settings: dict[str, Any], factor: float) -> None:
    m, method, then, now = later("lwf", 1, weight=0.3, **settings)
    u, v = features(now, X.inputs["audio"]), features(then, X.inputs["audio"])
    if settings.get("normalize"):
        u, v = unit(u), unit(v)
    t = settings.get("temperature", 1.0)
    expected = 0.3 * factor * kl(softmax(v / t), softmax(u / t)).sum()
    assert values(terms(method, m)) == {"audio": pytest.approx(expected, rel=1e-9)}


def test_lwf_in_later_tasks_goes_through_the_old_head_on_both_sides() -> None:
    m, method, then, now = later("lwf", 2, weight=0.3)
    x = X.inputs["audio"]
    u, v = head(then, features(now, x)), head(then, features(then, x))
    assert values(terms(method, m))["audio"] == pytest.approx(0.3 * kl(softmax(v), softmax(u)).mean(), rel=1e-9)


def test_lwf_through_the_towers_own_classifier() -> None:
    m, method, then, now = later("lwf", 1, weight=1.0, g0="classifier")
    w, b = then["towers.audio.classes.weight"], then["towers.audio.classes.bias"]
    u, v = (features(s, X.inputs["audio"]) @ w.T + b for s in (now, then))
    assert values(terms(method, m))["audio"] == pytest.approx(kl(softmax(v), softmax(u)).mean(), rel=1e-9)


def test_the_gradient_of_lwf_is_softmax_of_student_minus_softmax_of_teacher() -> None:
    m, method, then, now = later("lwf", 1, weight=0.3)
    x = X.inputs["audio"]
    d_u = 0.3 / 8 * (softmax(features(now, x)) - softmax(features(then, x)))
    (got,) = torch.autograd.grad(terms(method, m)["audio"], m.towers["audio"].linear.weight)
    assert np.allclose(got.numpy(), d_u.T @ x.numpy(), rtol=1e-9)


@pytest.mark.parametrize("at", [1, 2])
def test_the_gradient_of_lwf_reaches_the_encoder_alone(at: int) -> None:
    m, method, _, _ = later("lwf", at)
    assert reached(terms(method, m)["audio"], m, method) == {"model.towers.audio"}


@pytest.mark.parametrize("at", [1, 2])
def test_cassle_predicts_the_raw_features_first_and_the_old_embedding_later(at: int) -> None:
    m, method, then, now = later("cassle", at, weight=0.3)
    x = X.inputs["audio"]
    predictor = (method.first_predictors if at == 1 else method.predictors)["audio"]
    p = numbers(predictor)
    student = head(now, features(now, x)) @ p["weight"].T + p["bias"]
    teacher = features(then, x) if at == 1 else head(then, features(then, x))
    expected = 0.3 * kl(softmax(teacher), softmax(student)).mean()
    assert values(terms(method, m))["audio"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("at", "predictor"), [(1, "first_predictors"), (2, "predictors")])
def test_the_gradient_of_cassle_reaches_encoder_head_and_predictor(at: int, predictor: str) -> None:
    m, method, _, _ = later("cassle", at)
    assert reached(terms(method, m)["audio"], m, method) == {"model.towers.audio", "model.heads.audio", predictor}


def test_cassle_draws_a_new_predictor_for_every_task() -> None:
    m = model()
    method = made("cassle", m)
    drawn = []
    for index in (2, 3, 2):
        method.begin_task(m, task(index))
        drawn.append(method.predictors["audio"].weight.detach().clone())
        shake(method.predictors, 5)
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])  # a function of seed and task, so that a resumed run draws the same


def rows_of(tensors: dict[str, Tensor], x: np.ndarray) -> np.ndarray:
    """What a backward map makes of rows, by its description."""
    t = {k: v.detach().numpy() for k, v in tensors.items()}
    hidden = np.maximum(x @ t["inner"] + t["inner_bias"], 0) if "inner" in t else x
    return hidden @ t["weight"] + t["bias"]


@pytest.mark.parametrize("predictor", ["linear", "mlp"])
def test_cassle_leaves_its_predictor_as_a_map_of_unit_rows_to_the_old_space(predictor: str) -> None:
    m, method, _, now = later("cassle", 2, predictor=predictor, hidden=5)
    terms(method, m)
    raw = head(now, features(now, X.inputs["audio"]))
    method.eval()
    long = unit(raw) * np.linalg.norm(raw, axis=1).mean()  # as long as rows are on average
    with torch.no_grad():
        predicted = method.predictors["audio"](torch.from_numpy(long)).numpy()
    found = rows_of(method.backward_maps["audio"], unit(raw))
    centred = predicted - predicted.mean(1, keepdims=True)  # softmax sees no more than this
    assert found == pytest.approx(centred, rel=1e-6, abs=1e-9)


def test_cassle_leaves_no_map_of_a_task_that_led_to_no_embedding() -> None:
    m, method, _, _ = later("cassle", 1)
    terms(method, m)
    assert method.backward_maps == {}
    m, method, _, _ = later("cassle", 2)
    assert method.backward_maps == {}  # no batch of the task was seen
    m, method, _, _ = later("cassle", 2, first=3)
    terms(method, m)
    assert method.backward_maps == {}


def cosines(then: dict, now: dict, case: int) -> tuple[np.ndarray, np.ndarray]:
    """O and M of the paper: in case 1 the old head on the old features, in case 2 (no old head) the current one."""
    x = X.inputs["audio"]
    supervision = unit(head(now, features(now, X.inputs["text"], "text"), "text"))
    old = unit(head(then if case == 1 else now, features(then, x)))
    return old @ supervision.T, unit(head(now, features(now, x))) @ supervision.T


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize(("at", "case"), [(2, 1), (1, 2)])
def test_modx_keeps_the_rows_that_the_old_model_had_right(at: int, case: int, align: bool) -> None:
    m, method, then, now = later("modx", at, weight=0.3, tau=0.5, kd_scale=2.0, align=align)
    o, n = cosines(then, now, case)
    expected, kept = 0.0, []
    for old, new in ((o, n), (o.T, n.T)):
        right = old.argmax(1) == np.arange(8)
        kept.append(right.mean())
        expected += 0.5 * (kl(softmax(old / 0.5), softmax(new / 0.5)) * (right if align else 1)).sum()
    assert 0 < np.mean(kept) < 1
    assert values(terms(method, m))["audio-text"] == pytest.approx(0.3 * 2.0 * expected, rel=1e-9)
    assert method.facts == {"kept/audio-text": pytest.approx(np.mean(kept))}


def test_modx_at_the_learned_temperature_softens_by_it() -> None:
    m, method, then, now = later("modx", 2, weight=1.0, tau="logit_scale", align=False)
    o, n = cosines(then, now, 1)
    scale = np.exp(now["log_scale.audio-text"])  # CLIP's: 1 / 0.07, not yet trained
    expected = 0.5 * sum(kl(softmax(scale * a), softmax(scale * b)).sum() for a, b in ((o, n), (o.T, n.T)))
    assert values(terms(method, m))["audio-text"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("at", [1, 2])
def test_the_gradient_of_modx_reaches_both_sides_of_the_current_matrix_and_no_old_one(at: int) -> None:
    m, method, _, _ = later("modx", at, align=False)
    found = reached(terms(method, m)["audio-text"], m, method)
    assert found == {"model.towers.audio", "model.heads.audio", "model.heads.text"}


@pytest.mark.parametrize("use", ["lwf", "cassle", "modx"])
def test_the_objective_keeps_the_share_that_distillation_leaves(use: str) -> None:
    m = model()
    method = made(use, m, weight=0.4, first=2)
    method.begin_task(m, task(1))
    assert method.share == 1 and terms(method, m) == {}
    method.begin_task(m, task(2))
    assert method.share == pytest.approx(0.6) and set(terms(method, m)) <= {"audio", "audio-text"} != set()


@pytest.mark.parametrize("use", ["lwf", "cassle", "modx"])
def test_a_teacher_never_trains_and_stays_as_it_was(use: str) -> None:
    m, method, then, _ = later(use, 2)
    assert not any(layer.training for layer in method.teacher.modules())
    assert not any(p.requires_grad for p in method.teacher.parameters())
    held = numbers(method.teacher)
    assert all(np.array_equal(v, then[k]) for k, v in held.items())
    sum(terms(method, m).values()).backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert list(method.teacher.towers) == ["audio"]  # what never trains is not copied


def contrast(w: Tensor, m: Model, of: Batch) -> Tensor:
    """The symmetric cross-entropy as a function of the audio tower's weight, from the formula."""
    tower = m.towers["audio"].linear
    a = m.heads["audio"](of.inputs["audio"] @ w.T + tower.bias)
    b = m.heads["text"](m.towers["text"](of.inputs["text"]))
    logits = m.log_scale["audio-text"].exp() * (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
    rows, columns = logits.logsumexp(1), logits.logsumexp(0)
    return ((rows - logits.diagonal()).mean() + (columns - logits.diagonal()).mean()) / 2


def test_ewc_holds_each_weight_by_its_clipped_mean_squared_gradient() -> None:
    m = model()
    method = made("ewc", m, weight=10.0, decay=0.5, clip=0.02, batches=2)
    method.begin_task(m, task(1))
    assert terms(method, m) == {}
    fisher, pool = np.zeros((6, 5)), [batch(n) for n in (2, 3, 4)]
    for index in (1, 2):
        shake(m, index)
        weight = m.towers["audio"].linear.weight.detach()
        grads = []
        for of in pool[:2]:  # `batches` of them at most
            w = weight.clone().requires_grad_()
            grads.append(torch.autograd.grad(contrast(w, m, of), w)[0].numpy())
        new = np.mean([g**2 for g in grads], axis=0)
        assert (new > 0.02).any() and (new < 0.02).any()
        fisher = 0.5 * fisher + np.minimum(new, 0.02)
        method.end_task(m, task(index), Fixed(pool))
        anchor = weight.numpy().copy()
        method.begin_task(m, task(index + 1))
    with torch.no_grad():
        m.towers["audio"].linear.weight.add_(0.1 * torch.randn(6, 5, dtype=torch.double))
    away = m.towers["audio"].linear.weight.detach().numpy() - anchor
    (penalty,) = terms(method, m).values()
    assert float(penalty.detach()) == pytest.approx(0.5 * 10.0 * (fisher * away**2).sum(), rel=1e-6)
    (grad,) = torch.autograd.grad(penalty, m.towers["audio"].linear.weight)
    assert np.allclose(grad.numpy(), 10.0 * fisher * away, rtol=1e-6)


def test_ewc_leaves_what_it_remembers_without_gradient() -> None:
    m = model()
    method = made("ewc", m)
    method.end_task(m, task(1), Fixed([batch(2)]))
    assert not any(p.requires_grad or p.grad_fn for p in method.parameters())
    assert reached(terms(method, m)[""], m, method) == set()  # no weight has moved yet


def test_mod_x_has_a_target_without_dropout_in_its_first_task_and_leaves_the_head_training() -> None:
    m = model()
    head = HeadConfig(kind="mlp", hidden=7, dropout=0.5)
    m = Model(dict(m.towers), {"audio": head, "text": head}, DIM, frozenset({"audio"}), 3).double()
    method = made("modx", m)
    method.begin_task(m, task(1))
    m.train(), method.train()
    out = embed_batch(method, m, X)
    first, second = (method._old(m, "audio", X, out) for _ in range(2))
    assert torch.equal(first, second) and m.heads["audio"].training
    again = embed_batch(method, m, X)
    assert not torch.equal(out.embeddings["audio"], again.embeddings["audio"])  # the student has dropout
