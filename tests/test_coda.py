"""CODA-Prompt: weighted sums of components, and how new ones are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pool_parts import cos, learn, plain, sees, small
from prompt_miniatures import batch, dummies, model, task
from pydantic import ValidationError
from test_lpi_parts import array, draws, shaken
from test_prompt_methods import features, made

from polymnia.config import find
from polymnia.continual.method import AbstractMethod, embed_batch, generator
from polymnia.continual.pool import attention, orthogonal
from polymnia.types import MODALITIES, Modality, UserError


def weighted(method: AbstractMethod, m: Modality, at: int, tasks: list[int], query: np.ndarray) -> np.ndarray:
    """sum_i cos(q * A_i, K_i) P_i for each row, one component at a time."""
    out = np.zeros((len(query), method.cfg.length, method.banks[m][0][at].prompts.shape[2]))
    for t in tasks:
        c = method.banks[m][t - 1][at]
        for p, k, a in zip(array(c.prompts), array(c.keys), array(c.attention), strict=True):
            for row, q in enumerate(query):
                out[row] += (q * a) @ k / np.sqrt(((q * a) ** 2).sum() * (k**2).sum()) * p
    return out


def test_each_block_sees_the_weighted_sum_of_its_components_half_as_keys_half_as_values() -> None:
    of = model(layers=4)
    method = small("coda", of, blocks=[0, 2, 3])
    learn(method, of, 2)
    for m in ("image", "text"):
        x = batch(of).inputs[m]
        query = plain(of, m, x)
        found = sees(method, of, m, x, None)
        assert found[1] is None
        for at, block in enumerate((0, 2, 3)):
            expected = weighted(method, m, at, [1, 2], query)
            assert np.allclose(found[block][0], expected[:, :2], atol=1e-10)
            assert np.allclose(found[block][1], expected[:, 2:], atol=1e-10)


def test_components_of_a_task_that_is_being_learned_serve_training_and_rows_known_to_be_of_it() -> None:
    of = model()
    method = small("coda", of)
    learn(method, of, 1, begin_next=True)
    x = batch(of).inputs["image"]
    query = plain(of, "image", x)
    old, all_of_them = (weighted(method, "image", 0, tasks, query)[:, :2] for tasks in ([1], [1, 2]))
    known = [2, 1, 0, 2, 1, 2]
    expected = np.where((np.array(known) == 2)[:, None, None], all_of_them, old)
    assert np.allclose(sees(method, of, "image", x, known)[0][0], expected)
    assert np.allclose(sees(method, of, "image", x, None)[0][0], old)
    method.train()
    assert np.allclose(sees(method, of, "image", x, known)[0][0], all_of_them)


def test_components_of_tasks_that_lacked_the_modality_and_of_later_ones_have_no_say() -> None:
    of = model(*MODALITIES)
    method = small("coda", of)
    for index, pair in ((1, ("audio", "image")), (2, ("audio", "text"))):
        method.begin_task(of, task(index, pair))
        method.end_task(of, task(index, pair), [])
    x = batch(of).inputs["image"]
    before = features(method, of, "image", x)
    assert np.allclose(
        sees(method, of, "image", x, None)[0][0], weighted(method, "image", 0, [1], plain(of, "image", x))[:, :2]
    )
    for later in (method.banks["image"][1], method.banks["image"][2]):
        shaken(later)
    assert torch.equal(features(method, of, "image", x), before)


def test_only_components_of_the_current_task_train() -> None:
    of = model()
    method = small("coda", of, gate=-1.0)
    learn(method, of, 1, begin_next=True)
    trains = {".".join(n.split(".")[:3]) for n, p in method.named_parameters() if p.requires_grad}
    assert {n for n in trains if n.startswith("banks")} == {"banks.image.1", "banks.text.1"}
    assert all(p.requires_grad for p in method.gates.parameters())


def test_weights_without_a_tensor_of_all_products_are_those_of_the_formula() -> None:
    q, k, a = draws(4, 6, seed=1), draws(5, 6, seed=2), draws(5, 6, seed=3)
    expected = [[cos((x * y)[None], z[None])[0, 0] for y, z in zip(array(a), array(k), strict=True)] for x in array(q)]
    assert np.allclose(array(attention(q, k, a)), expected, atol=1e-12)
    assert np.allclose(array(attention(3 * q, k, a)), expected, atol=1e-12)
    assert not attention(torch.zeros(1, 6).double(), k, a).any()


def test_new_components_are_of_unit_norm_and_orthogonal_to_trained_ones_and_each_other() -> None:
    of = model()
    method = small("coda", of)
    learn(method, of, 1)  # shaken: no longer orthogonal, nor of unit norm
    method.begin_task(of, task(2))
    for m in ("image", "text"):
        for at in range(3):
            for name in ("prompts", "keys", "attention"):
                old, new = (array(getattr(method.banks[m][t][at], name)).reshape(2, -1) for t in (0, 1))
                assert np.allclose(new @ new.T, np.eye(2), atol=1e-9)
                assert np.allclose(new @ old.T, 0, atol=1e-9)
                assert abs(old[0] @ old[1]) > 1e-3


def test_where_directions_run_out_a_new_round_begins() -> None:
    rows = array(orthogonal(draws(1, 3), 4, generator(0)))
    old = array(draws(1, 3))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)
    assert np.allclose(rows[:2] @ np.concatenate([old, rows[:2]]).T, [[0, 1, 0], [0, 0, 1]], atol=1e-12)
    assert np.allclose(rows[2:] @ rows[2:].T, np.eye(2), atol=1e-12)
    assert np.abs(rows[2] @ rows[:2].T).max() > 0.01
    full = array(orthogonal(draws(5, 3), 3, generator(0)))
    assert np.allclose(full @ full.T, np.eye(3), atol=1e-12)
    twice = torch.cat([draws(1, 3), 2 * draws(1, 3)])  # the span of one
    assert np.allclose(array(orthogonal(twice, 2, generator(1))) @ old.T, 0, atol=1e-12)


def test_components_are_a_function_of_the_seed_the_task_the_block_and_the_tower() -> None:
    of = model()
    methods = [small("coda", of) for _ in range(2)]
    for method in methods:
        torch.manual_seed(len(str(method)))  # no matter
        method.begin_task(of, task(1))
    one, other = (m.banks["image"][0] for m in methods)
    assert torch.equal(one[0].keys, other[0].keys)
    assert not torch.equal(one[0].keys, one[1].keys) and not torch.equal(one[0].keys, one[0].attention)
    methods[1].seed = 1
    methods[1].begin_task(of, task(1))
    assert not torch.equal(one[0].keys, other[0].keys)


def test_the_penalty_is_the_mean_squared_distance_of_all_products_from_the_identity() -> None:
    of = model()
    method = small("coda", of, ortho=0.5)
    learn(method, of, 1, begin_next=True)
    method.train()
    rows = batch(of)
    terms = method.loss(of, rows, embed_batch(method, of, rows))
    assert set(terms) == {"ortho/image", "ortho/text"}
    for m in ("image", "text"):
        expected = 0.0
        for at in range(3):
            for name in ("prompts", "keys", "attention"):
                x = np.concatenate([array(getattr(method.banks[m][t][at], name)).reshape(2, -1) for t in (0, 1)])
                expected += 0.5 * ((x @ x.T - np.eye(4)) ** 2).mean()
        assert float(terms[f"ortho/{m}"].detach()) == pytest.approx(expected, rel=1e-9)
    assert small("coda", of).loss(of, rows, embed_batch(method, of, rows)) == {}


def test_the_usual_blocks_of_coda_are_the_first_five_as_far_as_a_tower_goes() -> None:
    method = made("coda", dummies(text=(512,) * 3), 1)
    assert method.blocks == {"image": (0, 1, 2, 3, 4), "text": (0, 1, 2)}
    with pytest.raises(UserError, match="blocks: block 3, but towers.text has 3 blocks, 0 to 2"):
        made("coda", dummies(text=(512,) * 3), 1, blocks=[3])
    with pytest.raises(ValidationError, match="length 5: half of it are keys"):
        find("methods", "coda").Config(length=5)
