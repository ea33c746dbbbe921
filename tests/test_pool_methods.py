"""L2P, DualPrompt, CODA-Prompt: which prompts an input gets, what its attention sees, what a task leaves as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from test_lpi import PROMPTED, SWIN, Dummy, batch, dummies, model, setup, task
from test_lpi_parts import array, draws, shaken
from test_prompt_methods import Seen, features, kept, lesson, linear, made, normed
from tiny import tiny
from torch import Tensor, nn

from polymnia.config import find
from polymnia.continual.method import AbstractMethod, embed_batch, generator
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.continual.pool import attention, orthogonal
from polymnia.continual.snapshot import Snapshot
from polymnia.methods import dualprompt
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.models.towers import tiny_audio
from polymnia.runs.life import Session
from polymnia.types import MODALITIES, Batch, Known, Modality, UserError

EVERY = ("l2p", "dualprompt", "coda")
SMALL: dict[str, dict[str, Any]] = {
    "l2p": {"length": 2, "pool": 5, "top_n": 2},
    "dualprompt": {"length": 3, "length_general": 2},
    "coda": {"length": 4, "per_task": 2},
}
PAIRS = (("audio", "image"), ("audio", "text"), ("image", "text"))


def small(use: str, of: Model, tasks: int = 3, **settings: Any) -> AbstractMethod:
    return made(use, of, tasks, **{**SMALL[use], **settings})


def learn(method: AbstractMethod, of: Model, upto: int, begin_next: bool = False) -> None:
    """Tasks of all pairs, whose weights end up somewhere; the last one may be left in the middle."""
    for index in range(1, upto + 1 + begin_next):
        method.begin_task(of, task(index, *PAIRS))
        moved = [p for p in method.parameters() if p.requires_grad]
        shaken(nn.ParameterList(moved), index)
        if index <= upto:
            method.end_task(of, task(index, *PAIRS), [])


def cos(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of every row of a with every row of b, by the definition."""
    return np.array([[x @ y / np.sqrt((x @ x) * (y @ y)) for y in b] for x in a])


def plain(of: Model, m: Modality, x: Tensor) -> np.ndarray:
    """Queries: un-prompted features, kept in single precision."""
    return of.features(m, x).detach().float().double().numpy()


class Prefixes:
    """Keys and values that each block of a tower sees besides its own."""

    def __init__(self, tower: AbstractTower):
        self.seen: list[tuple[np.ndarray, np.ndarray] | None] = []
        for block in (tower if hasattr(tower, "blocks") else tower.body).blocks:
            block.register_forward_pre_hook(self._note)

    def _note(self, _: nn.Module, args: tuple) -> None:
        self.seen.append(None if args[2] is None else (array(args[2][0]), array(args[2][1])))


# What all of them have in common


@pytest.mark.parametrize("use", EVERY)
def test_a_tower_is_plain_until_a_task_of_its_modality_is_learned_or_being_learned(use: str) -> None:
    of = model(*MODALITIES)
    method, inputs = small(use, of), batch(of).inputs
    for m, x in inputs.items():
        assert torch.equal(features(method, of, m, x, [1] * 6), of.features(m, x))
    method.begin_task(of, task(1, ("audio", "image")))
    shaken(method)
    moved = {
        m for m, x in inputs.items() if not torch.allclose(features(method, of, m, x, [1] * 6), of.features(m, x))
    }
    assert moved == {"audio", "image"}


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("use", EVERY)
def test_all_that_trains_hears_from_the_loss_for_any_pair_and_no_tower_does(
    use: str, pair: tuple[Modality, Modality]
) -> None:
    of = model(*pair)
    method = small(use, of, heads=False, scale=False, **({"pool": 2} if use == "l2p" else {}))
    learn(method, of, 1)
    method.begin_task(of, task(2, pair))
    method.train()
    rows = _only(batch(model(*MODALITIES), index=2), pair)
    out = embed_batch(method, of, rows)
    terms = {**Objective(ObjectiveConfig(), (pair,))(of, rows, out), **method.loss(of, rows, out)}
    torch.stack(list(terms.values())).sum().backward()
    trains = {n for n, p in method.named_parameters() if p.requires_grad}
    assert trains and trains == {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert not any(p.requires_grad or p.grad is not None for p in of.parameters())


def _only(whole: Batch, chosen: tuple[Modality, ...]) -> Batch:
    inputs = {m: whole.inputs[m] for m in chosen}
    return Batch(inputs, {m: whole.rows[m] for m in chosen}, whole.group, whole.task)


@pytest.mark.parametrize("use", EVERY)
def test_the_state_alone_says_how_an_encoder_serves_and_no_row_depends_on_another(use: str) -> None:
    of = model(*MODALITIES)
    method, other = small(use, of), small(use, of)
    learn(method, of, 2)
    other.load_state_dict(method.state_dict(), strict=True)
    for m, x in batch(of).inputs.items():
        got = features(method, of, m, x)
        assert torch.equal(features(other, of, m, x), got)
        assert torch.allclose(torch.cat([features(method, of, m, x[[i]]) for i in range(6)]), got, atol=1e-10)
        assert torch.equal(features(method, of, m, x, [1, 2, 3, 1, 2, 0]), got)  # what it is told changes nothing


@pytest.mark.parametrize("use", EVERY)
def test_a_query_that_is_known_is_not_asked_for_again_and_counts_by_its_direction(use: str) -> None:
    of = model(*MODALITIES)
    method, (m, x) = small(use, of), ("image", batch(of).inputs["image"])
    learn(method, of, 2)
    query = torch.tensor(plain(of, m, x)).float()
    runs: list[int] = []
    of.tower(m).register_forward_hook(lambda *_: runs.append(1))
    first = method.features(of, m, x, Known(query=query))
    assert len(runs) == 1 and method.asks
    assert torch.allclose(method.features(of, m, x, Known(query=7 * query)), first, atol=1e-6)
    assert not torch.allclose(method.features(of, m, x, Known(query=-query)), first, atol=1e-3)


@pytest.mark.parametrize("use", EVERY)
def test_a_gate_that_is_shut_hides_all_prompts(use: str) -> None:
    of = model(*MODALITIES)
    method = small(use, of, gate=-1.0)
    learn(method, of, 3)
    gates = [p for n, p in method.named_parameters() if "gates" in n]
    with torch.no_grad():
        for p in gates:
            p.fill_(-200.0)
    for m, x in batch(of).inputs.items():
        assert torch.allclose(features(method, of, m, x), of.features(m, x), atol=1e-10)


@pytest.mark.parametrize("use", EVERY)
def test_a_teacher_serves_as_the_last_task_left_it_while_the_next_one_is_learned(use: str) -> None:
    of = model(*MODALITIES)
    method = small(use, of)
    learn(method, of, 2)
    x = batch(of).inputs["image"]
    before = features(method, of, "image", x)
    method.begin_task(of, task(3, *PAIRS))
    teacher = Snapshot(replace(setup(of), prompts=method))
    teacher.take(of)
    shaken(nn.ParameterList(p for p in method.parameters() if p.requires_grad))
    assert torch.equal(teacher.features("image", x, Known(torch.full((6,), 3))), before)


@pytest.mark.parametrize(
    ("use", "whole", "a_task"),
    [
        ("l2p", 10 * 5 * 768 + 10 * 768, 10 * 5 * 768 + 10 * 768),
        # 5 keys and 5 values at 2 blocks; of each task 20 and 20 at 3 blocks, and a key
        ("dualprompt", 15_360 + 4 * (92_160 + 768), 15_360 + 92_160 + 768),
        ("coda", 4 * 384_000, 384_000),  # 100 components of the paper's size have 3.84 M
    ],
)
def test_it_has_as_many_parameters_as_the_formulas_say(use: str, whole: int, a_task: int) -> None:
    towers: dict[Modality, AbstractTower] = {m: Dummy(m, (768,) * 12) for m in ("audio", "text")}
    for tower in towers.values():
        tower.out_dim = 768
    of = Model(towers, {}, 768, frozenset(towers), 4)
    method = made(use, of, 4, heads=False, scale=False)
    assert sum(p.numel() for p in method.parameters()) == 2 * whole
    method.begin_task(of, task(1, ("audio", "text")))
    assert sum(p.numel() for part in (of, method) for p in part.parameters() if p.requires_grad) == 2 * a_task


@pytest.mark.parametrize("use", EVERY)
def test_a_task_that_trains_nothing_and_a_tower_that_takes_no_prompts_are_errors(use: str) -> None:
    of = model(*MODALITIES)
    method = small(use, of, heads=False, scale=False, modalities=["text"])
    with pytest.raises(UserError, match="trains nothing: only text is prompted"):
        method.begin_task(of, task(1, ("audio", "image")))
    conv = {"audio": tiny_audio.Tower(tiny_audio.Config(arch="conv", out_dim=4)), "text": Dummy("text", (16, 16))}
    with pytest.raises(UserError, match="towers.audio .* takes no prompts"):
        small(use, Model(conv, {}, 4, frozenset(conv), 3))


# L2P


def aim(keys: nn.Parameter | nn.ParameterList, query: np.ndarray) -> None:
    """Put keys near some of the queries, off their mean, so that rows choose differently."""
    g, off = torch.Generator().manual_seed(0), torch.tensor(query - query.mean(0))
    with torch.no_grad():
        for n, key in enumerate(keys):
            key.copy_(off[n % len(off)] + 0.01 * torch.randn(key.shape, generator=g, dtype=key.dtype))


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


# DualPrompt


@pytest.mark.parametrize(
    ("depth", "general", "expert"),
    [
        (1, (0,), (0,)),
        (2, (0,), (1,)),
        (3, (0,), (1, 2)),
        (4, (0,), (1, 2, 3)),
        (5, (0, 1), (2, 3, 4)),
        (12, (0, 1), (2, 3, 4)),
    ],
)
def test_the_usual_blocks_fit_the_depth_of_each_tower(depth: int, general: tuple, expert: tuple) -> None:
    method = made("dualprompt", dummies(text=(512,) * depth), 1)
    assert (method.general["text"], method.expert["text"]) == (general, expert)
    assert (method.general["image"], method.expert["image"]) == ((0, 1), (2, 3, 4))


@pytest.mark.parametrize("key", ["general", "expert"])
def test_blocks_that_a_tower_does_not_have_are_an_error_that_names_key_and_tower(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: block 5, but towers.text has 5 blocks, 0 to 4"):
        made("dualprompt", dummies(text=(512,) * 5), 1, **{key: [0, 5]})
    with pytest.raises(ValidationError, match="each block once"):
        dualprompt.Config(**{key: [1, 1]})


def shared(method: AbstractMethod, m: Modality, at: int) -> list[np.ndarray]:
    return [array(part[m].blocks[at]) for part in (method.general_keys, method.general_values)]


def own(method: AbstractMethod, m: Modality, at: int, tasks: list[int]) -> list[np.ndarray]:
    parts = method.expert_keys, method.expert_values
    return [np.stack([array(part.tasks[t - 1][m].blocks[at]) for t in tasks]) for part in parts]


def sees(method: AbstractMethod, of: Model, m: Modality, x: Tensor, rows: list[int] | None) -> list:
    seen = Prefixes(of.tower(m))
    features(method, of, m, x, rows)
    return seen.seen[-of.tower(m).depth :]


def test_in_training_rows_see_the_shared_prefix_first_and_behind_it_that_of_their_own_task() -> None:
    of = model(layers=4)
    method = small("dualprompt", of, general=[0, 2], expert=[1, 2])
    learn(method, of, 2, begin_next=True)
    method.train()
    tasks = [3, 1, 3, 2, 3, 1]
    for m in ("image", "text"):
        found = sees(method, of, m, batch(of).inputs[m], tasks)
        for n in range(2):  # keys, values
            assert np.allclose(found[0][n], shared(method, m, 0)[n][None])
            assert np.allclose(found[1][n], own(method, m, 0, tasks)[n])
            assert np.allclose(found[2][n][:, :2], shared(method, m, 1)[n][None])  # a block with both
            assert np.allclose(found[2][n][:, 2:], own(method, m, 1, tasks)[n])
        assert found[3] is None


@pytest.mark.parametrize("gate", [None, -0.5])
def test_in_evaluation_the_key_with_the_largest_cosine_says_whose_prefix_a_row_sees(gate: float | None) -> None:
    of = model()
    method = small("dualprompt", of, gate=gate)
    learn(method, of, 3)
    for m in ("image", "text"):
        x = torch.cat([lesson(of, index).inputs[m] for index in (1, 2, 3)])
        aim(method.routers[m].keys, plain(of, m, x)[::8])
        keys = np.stack([array(k) for k in method.routers[m].keys])
        chosen = (np.argmax(cos(plain(of, m, x), keys), axis=1) + 1).tolist()
        assert len(set(chosen)) > 1
        seen = Prefixes(of.tower(m))
        got = features(method, of, m, x)
        alone = [features(method, of, m, x[[i]]) for i in range(len(x))]
        assert torch.allclose(torch.cat(alone), got, atol=1e-10)
        if gate is None:
            for n in range(2):
                assert np.allclose(seen.seen[4][n], own(method, m, 0, chosen)[n])


def test_a_task_without_a_modality_leaves_no_key_there_and_is_never_chosen() -> None:
    of = model(*MODALITIES)
    method = small("dualprompt", of)
    for index, pair in ((1, ("audio", "image")), (2, ("audio", "text")), (3, ("image", "text"))):
        method.begin_task(of, task(index, pair))
        trained = {
            n.split(".")[1] for n, p in method.named_parameters() if n.startswith("routers") and p.requires_grad
        }
        assert trained == set(pair)
        method.end_task(of, task(index, pair), [])
    assert {m: r.left.tolist() for m, r in method.routers.items()} == {
        "audio": [True, True, False],
        "image": [True, False, True],
        "text": [False, True, True],
    }
    router = method.routers["text"]
    with torch.no_grad():
        router.keys[0].copy_(torch.ones(5))
    assert 1 not in router.choose(torch.ones(4, 5) + 0.1 * draws(4, 5)).tolist()


def test_an_oracle_serves_rows_by_their_true_task() -> None:
    of = model()
    method = small("dualprompt", of, oracle=True)
    learn(method, of, 3)
    tasks = [1, 2, 3, 3, 2, 1]
    found = sees(method, of, "image", batch(of).inputs["image"], tasks)
    assert np.allclose(found[1][0], own(method, "image", 0, tasks)[0])


def test_the_key_term_pulls_the_key_of_the_current_task_to_its_own_rows() -> None:
    of = model()
    method = small("dualprompt", of, weight=0.5)
    learn(method, of, 1, begin_next=True)
    method.train()
    whole = batch(of)
    rows = Batch(whole.inputs, whole.rows, whole.group, torch.tensor([2, 1, 2, 2, 1, 2]))
    terms = method.loss(of, rows, embed_batch(method, of, rows))
    assert set(terms) == {"pull/image", "pull/text"}
    for m in ("image", "text"):
        keys = np.stack([array(k) for k in method.routers[m].keys])
        similar = cos(plain(of, m, rows.inputs[m])[[0, 2, 3, 5]], keys)
        assert float(terms[f"pull/{m}"].detach()) == pytest.approx(0.5 * np.mean(1 - similar[:, 1]), rel=1e-9)
        assert method.facts[f"found/{m}"] == pytest.approx(np.mean(similar[:, 1] > similar[:, 0]))
    sum(terms.values()).backward()
    moved = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"routers.image.keys.1", "routers.text.keys.1"}
    only_old = Batch(whole.inputs, whole.rows, whole.group, torch.ones(6, dtype=torch.long))
    assert method.loss(of, only_old, embed_batch(method, of, only_old)) == {}


def test_in_a_joint_run_the_rows_of_all_tasks_are_of_its_only_one() -> None:
    of = model()
    method = small("dualprompt", of, weight=1)
    learn(method, of, 0, begin_next=True)
    method.train()
    whole, tasks = batch(of), [1, 2, 3, 3, 2, 1]
    found = sees(method, of, "image", whole.inputs["image"], tasks)
    assert np.allclose(found[1][1], own(method, "image", 0, [1])[1])
    rows = Batch(whole.inputs, whole.rows, whole.group, torch.tensor(tasks))
    similar = cos(plain(of, "text", rows.inputs["text"]), array(method.routers["text"].keys[0])[None])
    pull = method.loss(of, rows, embed_batch(method, of, rows))["pull/text"]
    assert float(pull.detach()) == pytest.approx(np.mean(1 - similar), rel=1e-9)


def test_prefixes_have_the_width_of_their_block_in_a_tower_that_widens() -> None:
    method = made("dualprompt", dummies(SWIN, (768,) * 12), 1)
    assert [tuple(t.shape) for t in method.general_keys["image"].blocks] == [(5, 96), (5, 96)]
    assert [tuple(t.shape) for t in method.expert_values.tasks[0]["image"].blocks] == [(20, 192), (20, 192), (20, 384)]
    components = made("coda", dummies(SWIN, (768,) * 12), 1).banks["image"][0]
    assert [tuple(c.prompts.shape) for c in components] == [(10, 8, w) for w in SWIN[:5]]


# CODA


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


# Runs

KEY = ("routers.{m}.keys.{t}",)


@pytest.mark.parametrize("use", ["dualprompt", "coda"])
def test_what_a_finished_task_left_stays_to_the_bit_under_weight_decay_rehearsal_and_a_gate(
    use: str, shared: Path, tmp_path: Path
) -> None:
    method = [{"use": use, "gate": -1.0}, {"use": "er", "rows": 4}]
    run = Session(tiny(shared, tmp_path, method=method, examples=0, train__weight_decay=0.5, **PROMPTED)).go()
    states = [kept(run.folder, after) for after in range(4)]
    parts = {
        "coda": ("banks.{m}.{t}.",),
        "dualprompt": ("expert_keys.tasks.{t}.{m}.", "expert_values.tasks.{t}.{m}.", "expert_gates.{t}.{m}.", *KEY),
    }[use]
    has = {"audio": (0, 1, 2), "image": (0, 2), "text": (1,)}
    for m in MODALITIES:
        for t in range(3):
            names = tuple("method." + part.format(m=m, t=t) for part in parts)
            own = [k for k in states[0] if k.startswith(names)]
            assert len(own) >= 4
            moved = [[k for k in own if not torch.equal(a[k], b[k])] for a, b in zip(states, states[1:], strict=False)]
            assert [bool(keys) for keys in moved] == [t == at and t in has[m] for at in range(3)]
            assert not moved[t] or moved[t] == own


@pytest.mark.parametrize(
    "method",
    [
        [{"use": "l2p", "vote": True, "read": "prompts", "weight": 0}],
        [{"use": "l2p", "gate": -2.0, "heads": False}, {"use": "er", "rows": 4}],
        [{"use": "l2p", "modalities": ["audio"], "top_n": 1}, "lwf"],
        [{"use": "dualprompt", "general": [], "expert": [0], "weight": 0}, "lwf"],
        [{"use": "dualprompt", "general": [0, 1], "expert": [0, 1], "heads": False, "scale": False}],
        [{"use": "coda", "ortho": 0.1, "per_task": 3, "blocks": [1]}, {"use": "er", "rows": 4}],
        ["lwf", {"use": "coda", "heads": False, "scale": False}],
        *([["joint", use] for use in EVERY]),
    ],
    ids=str,
)
def test_other_settings_and_chains_learn_a_sequence(method: list, shared: Path, tmp_path: Path) -> None:
    run = Session(tiny(shared, tmp_path, method=method, examples=0, **PROMPTED)).go()
    assert run.matrix["rows"] == ([0, 3] if "joint" in method else [0, 1, 2, 3])
    first, last = kept(run.folder, 0), kept(run.folder, 3)
    assert any(k.startswith("method.") and not torch.equal(v, first[k]) for k, v in last.items())


@pytest.mark.parametrize("use", EVERY)
def test_the_first_row_of_a_run_is_the_plain_model(use: str, shared: Path, tmp_path: Path) -> None:
    row = [
        Session(tiny(shared, tmp_path / name, method=[name], examples=0, **PROMPTED)).go().matrix["score"]["latest"][0]
        for name in (use, "finetune")
    ]
    assert row[0] == row[1]


def test_prompts_of_a_joint_run_are_those_of_one_task(shared: Path, tmp_path: Path) -> None:
    run = Session(tiny(shared, tmp_path, method=["joint", "dualprompt"], examples=0, **PROMPTED)).go()
    first, last = kept(run.folder, 0), kept(run.folder, 3)
    moved = {
        k.split(".")[3] for k in last if k.startswith("method.expert_keys") and not torch.equal(last[k], first[k])
    }
    assert moved == {"0"}


def test_a_choice_by_keys_is_scored_as_routing_and_is_a_share_of_the_task_s_items(
    shared: Path, tmp_path: Path
) -> None:
    run = Session(tiny(shared, tmp_path, method=["dualprompt"], examples=0, **PROMPTED)).go()
    values = run.matrix["values"]["latest"]
    first = values[run.matrix["tasks"][0]]
    assert first["routing/audio"][0] is None  # nothing was learned yet
    assert first["routing/audio"][1] == 100  # there is one task to choose
    assert all(0 <= score <= 100 for score in first["routing/audio"][2:])
