"""Projection heads against NumPy, and Wav2CLIP's cross-projection loss against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handmade import DIM, PAIR, LinearTower, batch, setup, unit
from torch import Tensor

from polymnia.continual.method import embed_batch
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.models.heads import HeadConfig, build_head, reset
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.types import Modality, UserError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def erf(x: np.ndarray) -> np.ndarray:
    from math import erf as one

    return np.vectorize(one)(x)


def test_claps_residual_head_is_a_norm_over_a_linear_map_and_a_gelu_branch() -> None:
    head = build_head(HeadConfig(kind="residual"), 6, 4, generator()).double()
    x = torch.randn(3, 6, dtype=torch.double, generator=generator(1))
    w1, w2 = head.first.weight.detach().numpy(), head.second.weight.detach().numpy()
    z = x.numpy() @ w1.T
    e = z + (0.5 * z * (1 + erf(z / np.sqrt(2)))) @ w2.T
    e = (e - e.mean(1, keepdims=True)) / np.sqrt(e.var(1, keepdims=True) + 1e-5)
    assert np.allclose(head(x).detach().numpy(), e)
    assert head.first.bias is None and head.second.bias is None


def test_claps_head_drops_its_branch_in_training_only() -> None:
    head = build_head(HeadConfig(kind="residual", dropout=0.5), 6, 64, generator())
    x = torch.ones(2, 6)
    assert not torch.allclose(head(x)[0], head(x)[1], atol=0.1)
    head.eval()
    assert torch.allclose(head(x)[0], head(x)[1], atol=1e-6)  # some kernels round the rows of a product differently


@pytest.mark.parametrize("kind", ["linear", "mlp", "residual", "cross"])
def test_a_fresh_head_is_a_function_of_its_generator_alone(kind: str) -> None:
    head = build_head(HeadConfig(kind=kind), 6, 4, generator(3))
    before = {k: v.clone() for k, v in head.state_dict().items()}
    for p in head.parameters():
        p.data.add_(1)
    torch.randn(7)
    reset(head, generator(3))
    assert all(torch.equal(before[k], v) for k, v in head.state_dict().items())


def crossing(loss: str = "cx", kind: str = "cross") -> Model:
    torch.manual_seed(0)
    towers: dict[Modality, AbstractTower] = {"audio": LinearTower("audio"), "text": LinearTower("text")}
    heads: dict[Modality, HeadConfig] = {"audio": HeadConfig(kind=kind, hidden=7), "text": HeadConfig(kind="linear")}
    return Model(towers, heads, DIM, frozenset({"audio"}), 2, cross=loss == "cx").double()


def ce(a: np.ndarray, b: np.ndarray, scale: float) -> float:
    logits = scale * unit(a) @ unit(b).T
    own = np.diag(logits)
    return float(np.mean([np.log(np.exp(m).sum(1)) - own for m in (logits, logits.T)]))


def numpy(t: Tensor) -> np.ndarray:
    return t.detach().numpy()


@pytest.mark.parametrize("pair", [PAIR, PAIR[::-1]])
def test_the_cross_projection_loss_transforms_one_side_at_a_time(pair: tuple[Modality, Modality]) -> None:
    m = crossing().eval()
    with torch.no_grad():
        m.cross_log_scale["text"].fill_(np.log(3.0))
    x = batch(1)
    out = embed_batch(m_method(m), m, x)
    (term,) = Objective(ObjectiveConfig(loss="cx"), (pair,))(m, x, out).values()

    def dense(layer: torch.nn.Module, v: np.ndarray) -> np.ndarray:
        return v @ numpy(layer.weight).T + numpy(layer.bias)

    def transform(layers: torch.nn.Module, v: np.ndarray) -> np.ndarray:
        return dense(layers[3], np.maximum(dense(layers[0], v), 0))

    a = dense(m.heads["audio"].embed, numpy(out.features["audio"]))
    v = dense(m.heads["text"][0], numpy(out.features["text"]))
    h_a, h_v = transform(m.heads["audio"].transform, a), transform(m.cross["text"], v)
    assert float(term.detach()) == pytest.approx((ce(h_a, v, 1 / 0.07) + ce(a, h_v, 3.0)) / 2)
    assert np.allclose(numpy(out.embeddings["audio"]), unit(h_a))  # what is used afterwards is transformed


def m_method(m: Model):  # noqa: ANN201
    from polymnia.continual.chain import Chain

    return Chain([], setup(m))


def test_the_cross_projection_trains_both_transforms() -> None:
    m, x = crossing(), batch(1)
    terms = Objective(ObjectiveConfig(loss="cx"), (PAIR,))(m, x, embed_batch(m_method(m), m, x))
    sum(terms.values()).backward()
    trained = [m.cross["text"][0].weight, m.heads["audio"].embed.weight, m.heads["audio"].transform[0].weight]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in [*trained, m.cross_log_scale["text"]])


def test_the_cross_projection_needs_a_head_that_has_a_transform() -> None:
    m, x = crossing(kind="mlp"), batch(1)
    with pytest.raises(UserError, match="heads.audio.kind: cross"):
        Objective(ObjectiveConfig(loss="cx"), (PAIR,))(m, x, embed_batch(m_method(m), m, x))


def test_the_plain_loss_carries_no_transforms() -> None:
    assert not [k for k in crossing(loss="clip").state_dict() if "cross" in k]
