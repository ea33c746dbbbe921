"""Adapters between two spaces, against maps that are known."""

import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from torch.nn.functional import normalize

from polymnia.spaces.adapter import KINDS, Adapter, Chain, fit, orthogonal, ridge
from polymnia.types import UserError


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def turn(d: int, seed: int = 1) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)))[0]


def cosine_to(y: torch.Tensor):
    return lambda mapped: (mapped * y).sum(1).mean().item()


def test_a_rotation_of_the_space_is_found_exactly_and_chosen():
    x, spin = rows(300, 12), turn(12)
    adapter, scores = fit(x[:200], x[:200] @ spin, x[200:], cosine_to(x[200:] @ spin))
    assert adapter.kind == "orthogonal"
    torch.testing.assert_close(adapter(x), x @ spin, atol=1e-5, rtol=0)
    assert set(scores) == set(KINDS)


def test_the_rotation_is_scipys():
    x, y = rows(50, 6), rows(50, 6, seed=3)
    expected, _ = orthogonal_procrustes(x.double().numpy(), y.double().numpy())
    torch.testing.assert_close(orthogonal(x, y).double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_with_fewer_anchors_than_dimensions_the_rest_of_the_space_stays():
    x = torch.eye(8)[:3]  # anchors span three of eight dimensions
    y = x[:, [1, 0, 2, 3, 4, 5, 6, 7]]  # the first two are swapped
    found = orthogonal(x, y)
    torch.testing.assert_close(found, torch.eye(8)[[1, 0, 2, 3, 4, 5, 6, 7]], atol=1e-5, rtol=0)
    torch.testing.assert_close(found @ found.T, torch.eye(8), atol=1e-5, rtol=0)


def test_ridge_is_that_of_scikit_learn_pulled_to_the_identity():
    x, y = rows(40, 5), rows(40, 5, seed=2)
    change, bias = ridge(x, y, 2.0)
    wide = torch.cat([x, torch.ones(40, 1)], 1)
    known = Ridge(alpha=2.0 * 40 / 5, fit_intercept=False).fit(wide.numpy(), (y - x).numpy()).coef_.T
    torch.testing.assert_close(change, torch.from_numpy(known[:5]).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(bias, torch.from_numpy(known[5]).float(), atol=1e-5, rtol=0)


def test_a_strong_pull_leaves_vectors_as_they_are():
    x, y = rows(40, 5), rows(40, 5, seed=2)
    change, bias = ridge(x, y, 1e9)
    assert change.abs().max() < 1e-6 and bias.abs().max() < 1e-6


def test_where_nothing_moved_vectors_are_kept():
    x = rows(60, 10)
    adapter, _ = fit(x[:40], x[:40], x[40:], cosine_to(x[40:]))
    assert adapter.kind == "identity"


def test_a_change_in_few_directions_is_learned_by_a_low_rank():
    x = rows(400, 20)
    shift = torch.zeros(20, 20)
    shift[0, 1], shift[2, 3] = 3.0, -2.0
    y = normalize(x + x @ shift, dim=1)
    change, bias = ridge(x, x + x @ shift, 0.01)
    adapter, scores = fit(x[:300], y[:300], x[300:], cosine_to(y[300:]), kinds=("identity", "lowrank"))
    assert adapter.kind == "lowrank" and scores["lowrank"] > 0.97 > scores["identity"]
    assert torch.linalg.matrix_rank(change, atol=0.02) == 2 and bias.abs().max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_gives_unit_rows_and_is_deterministic(kind):
    x, y = rows(60, 20), rows(60, 20, seed=5)
    one, two = (fit(x[:40], y[:40], x[40:], cosine_to(y[40:]), kinds=(kind,))[0] for _ in range(2))
    assert one.kind == kind
    torch.testing.assert_close(one(x).norm(dim=1), torch.ones(60))
    torch.testing.assert_close(one(x), two(x), atol=0, rtol=0)


def test_the_perceptron_learns_what_no_linear_map_does():
    x = rows(600, 8)
    y = normalize(x * torch.where(x[:, :1] > 0, 1.0, -1.0), dim=1)  # half of the space is turned round
    _, scores = fit(x[:500], y[:500], x[500:], cosine_to(y[500:]))
    assert scores["mlp"] > max(scores["ridge"], scores["orthogonal"]) + 0.1


def test_a_chain_applies_its_links_in_order():
    a, b = turn(4, 1), turn(4, 2)
    chain = Chain((Adapter("orthogonal", {"weight": a}), Adapter("orthogonal", {"weight": b})))
    x = rows(3, 4)
    torch.testing.assert_close(chain(x), x @ a @ b)
    assert chain.kind == "orthogonal + orthogonal"


@pytest.mark.parametrize(("count", "kinds"), [(1, KINDS), (5, ("identity", "magic"))], ids=["one", "unknown"])
def test_what_cannot_be_fitted_is_refused(count, kinds):
    with pytest.raises(UserError, match="cannot fit"):
        fit(rows(count, 4), rows(count, 4), rows(3, 4), lambda mapped: 0.0, kinds)
