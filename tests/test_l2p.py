"""L2P: which prompts of the pool an input gets, and what the key term is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pool_parts import aim, cos, learn, plain, small
from prompt_miniatures import batch, dummies, model
from pydantic import ValidationError
from test_lpi_parts import array
from test_prompt_methods import Seen, features, linear, made, normed

from polymnia.config import find
from polymnia.continual.method import AbstractMethod, embed_batch
from polymnia.types import Modality


def pool_choice(method: AbstractMethod, m: Modality, query: np.ndarray) -> np.ndarray:
    return np.argsort(-cos(query, array(method.pools[m].keys)), axis=1)[:, : method.cfg.top_n]


@pytest.mark.parametrize("read", ["tower", "prompts"])
def test_the_prompts_with_the_nearest_keys_stand_in_front_of_the_first_block_and_go_on(read: str) -> None:
    of = model()
    method = small("l2p", of, read=read)
    learn(method, of, 1)
    tower, x = of.tower("image"), batch(of).inputs["image"]
    aim(method.pools["image"].keys, plain(of, "image", x))
    chosen = pool_choice(method, "image", plain(of, "image", x))
    assert len(np.unique(chosen, axis=0)) > 1  # rows choose differently
    seen = Seen(tower)
    got = features(method, of, "image", x)
    expected = array(method.pools["image"].prompts)[chosen].reshape(6, 4, 8)
    before, after = seen.before[-3:], seen.after[-3:]  # the query was asked for first
    assert np.allclose(before[0][:, :4], expected, atol=1e-12)
    for block in (1, 2):
        assert np.array_equal(before[block], after[block - 1])
    last = after[2]
    if read == "prompts":
        expected = linear(normed(last[:, :4].mean(1), tower.body.norm), tower.out)
    else:
        expected = linear(normed(last[:, 4:], tower.body.norm).mean(1), tower.out)
    assert np.allclose(array(got), expected, atol=1e-10)


def test_text_prompts_stand_behind_the_start_token() -> None:
    of = model()
    method = small("l2p", of)
    learn(method, of, 1)
    x = batch(of).inputs["text"]
    chosen = pool_choice(method, "text", plain(of, "text", x))
    seen = Seen(of.tower("text"))
    features(method, of, "text", x)
    bare, found = seen.before[0], seen.before[3]  # the query was asked for first
    assert np.allclose(found[:, 1:5], array(method.pools["text"].prompts)[chosen].reshape(6, 4, 16))
    assert np.allclose(np.delete(found, range(1, 5), 1), bare)


def test_the_key_term_is_the_mean_over_rows_of_the_distances_to_their_own_chosen_keys() -> None:
    of = model()
    method = small("l2p", of, weight=0.5)
    learn(method, of, 1)
    rows = batch(of)
    terms = method.loss(of, rows, embed_batch(method, of, rows))
    assert set(terms) == {"pull/image", "pull/text"}
    for m in ("image", "text"):
        query = plain(of, m, rows.inputs[m])
        chosen = pool_choice(method, m, query)
        similar = cos(query, array(method.pools[m].keys))
        expected = 0.5 * sum(1 - similar[i, k] for i in range(6) for k in chosen[i]) / 6
        assert float(terms[f"pull/{m}"].detach()) == pytest.approx(expected, rel=1e-9)
        assert method.facts[f"used/{m}"] == len(np.unique(chosen))
        (grad,) = torch.autograd.grad(terms[f"pull/{m}"], method.pools[m].keys)
        left_out = [k for k in range(5) if k not in chosen]
        assert not grad[left_out].any() and grad[np.unique(chosen)].abs().sum(1).min() > 0
        key = array(method.pools[m].keys)
        by_hand = np.zeros_like(key)  # d cos(q, k) / dk = (q / |q| - cos k / |k|) / |k|
        for i in range(6):
            for k in chosen[i]:
                size = np.linalg.norm(key[k])
                by_hand[k] -= (query[i] / np.linalg.norm(query[i]) - similar[i, k] * key[k] / size) / size * 0.5 / 6
        assert np.allclose(array(grad), by_hand, atol=1e-10)


def test_without_a_weight_there_is_no_key_term_but_the_number_of_prompts_in_use() -> None:
    of = model()
    method = small("l2p", of, weight=0)
    learn(method, of, 1)
    rows = batch(of)
    assert method.loss(of, rows, embed_batch(method, of, rows)) == {}
    assert set(method.facts) == {"used/image", "used/text"}


def test_a_vote_gives_all_rows_what_most_of_them_chose_and_so_rows_leak() -> None:
    of = model()
    method = small("l2p", of, vote=True)
    learn(method, of, 1)
    x = batch(of, rows=8).inputs["image"]
    aim(method.pools["image"].keys, plain(of, "image", x))
    choices = pool_choice(method, "image", plain(of, "image", x))
    votes = [int((choices == k).sum()) for k in range(5)]
    winners = sorted(range(5), key=lambda k: (-votes[k], k))[:2]
    seen = Seen(of.tower("image"))
    together = features(method, of, "image", x)
    expected = array(method.pools["image"].prompts)[winners].reshape(4, 8)
    assert all(np.allclose(row, expected) for row in seen.before[-3][:, :4])
    alone = torch.cat([features(method, of, "image", x[[i]]) for i in range(8)])
    assert not torch.allclose(together, alone, atol=1e-3)


def test_of_prompts_with_as_many_votes_the_lower_numbers_win() -> None:
    pool = small("l2p", model()).pools["image"]
    similar = torch.tensor([[0.1, 0.9, 0.0, 0.8, 0.2], [0.9, 0.1, 0.2, 0.0, 0.8]], dtype=torch.double)
    assert pool.choose(similar, vote=False).tolist() == [[1, 3], [0, 4]]
    assert pool.choose(similar, vote=True).tolist() == [[0, 1], [0, 1]]


def test_prompts_and_keys_are_drawn_uniformly_from_zero_to_a_hundredth() -> None:
    pool = made("l2p", dummies(), 1).pools["image"]
    for p in (pool.prompts, made("dualprompt", dummies(), 1).expert_keys.tasks[0]["image"].blocks[0]):
        assert 0 <= float(p.detach().min()) < 1e-4 and 0.0099 < float(p.detach().max()) < 0.01
        assert float(p.detach().mean()) == pytest.approx(0.005, rel=0.02)
    assert float(pool.keys.detach().min()) >= 0 and float(pool.keys.detach().max()) < 0.01


def test_more_prompts_for_an_input_than_the_pool_has_are_an_error() -> None:
    with pytest.raises(ValidationError, match="top_n 4 of a pool of 3; set top_n to 3 or less"):
        find("methods", "l2p").Config(pool=3)
