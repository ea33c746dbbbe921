"""DualPrompt: the shared prefix, the prefix of each task, and the key that chooses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pool_parts import Prefixes, aim, cos, learn, plain, sees, small
from prompt_miniatures import SWIN, batch, dummies, model, task
from pydantic import ValidationError
from test_lpi_parts import array, draws
from test_prompt_methods import features, lesson, made

from polymnia.continual.method import AbstractMethod, embed_batch
from polymnia.methods import dualprompt
from polymnia.types import MODALITIES, Batch, Modality, UserError


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
