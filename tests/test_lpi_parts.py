"""What LPI is made of, from its formulas: factors, maps between towers, contrasts of layers and tasks, distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polymnia.continual.interaction import InteractionConfig, Interactions, interact, partners
from polymnia.continual.lowrank import Bank, distances
from polymnia.continual.select import SelectConfig, Selector
from polymnia.continual.taskdistance import TaskSimilarity, task_map, words
from polymnia.models.model import Model
from polymnia.models.towers import cached, tiny_text
from polymnia.ops.alignment import layer_contrast
from polymnia.ops.taskcontrast import released_task_contrast, similar, task_contrast
from polymnia.types import UserError

CLIP = {"image": 768, "text": 512}
SIMILAR = {  # of the release's names, by its embedding: cosines above 0.4
    "appliance": "accessory kitchen furniture vehicle",
    "sports": "food",
    "outdoor": "indoor kitchen",
    "indoor": "kitchen",
    "kitchen": "furniture food",
    "furniture": "food",
    "vehicle": "animal person",
    "food": "animal",
    "animal": "person",
}
ORDER = (
    *("appliance", "sports", "outdoor", "electronic", "accessory", "indoor"),
    *("kitchen", "furniture", "vehicle", "food", "animal", "person"),
)


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def shaken(module: nn.Module, seed: int = 1) -> None:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype))


def softplus(x: np.ndarray | float) -> np.ndarray:
    return np.log1p(np.exp(x))


def released_pairs() -> np.ndarray:
    """The release's binary matrix of its twelve tasks, ones on the diagonal."""
    y = np.eye(12, dtype=bool)
    for one, others in SIMILAR.items():
        for other in others.split():
            y[ORDER.index(one), ORDER.index(other)] = y[ORDER.index(other), ORDER.index(one)] = True
    return y


# Factors


@pytest.mark.parametrize("share", [True, False])
def test_a_prompt_is_the_mean_over_ranks_of_products_of_three_factors(share: bool) -> None:
    bank = Bank(2, {"image": 7, "text": 5}, depth=3, length=4, rank=2, share=share)
    task = bank.tasks[1]
    for m in ("image", "text"):
        a, b, c = (array(p) for p in (task.layers["common" if share else m], task.tokens[m], task.channels[m]))
        expected = sum(np.multiply.outer(np.multiply.outer(a[:, k], b[:, k]), c[:, k]) for k in range(2)) / 2
        assert np.allclose(array(bank(m, [2])[0]), expected, atol=1e-6)


def test_a_common_layer_factor_gives_both_towers_one_column_space() -> None:
    torch.manual_seed(0)
    ranks = {}
    for share in (True, False):
        bank = Bank(1, {"image": 24, "text": 12}, depth=9, length=16, rank=4, share=share).double()
        both = torch.cat([bank(m, [1])[0].flatten(1) for m in bank.modalities], dim=1)
        ranks[share] = int(torch.linalg.matrix_rank(both))
        assert {int(torch.linalg.matrix_rank(layer)) for layer in bank("image", [1])[0]} == {4}
    assert ranks == {True: 4, False: 8}


def test_entries_are_drawn_as_the_paper_draws_them() -> None:
    torch.manual_seed(0)
    bank = Bank(12, CLIP, depth=9, length=16)
    factors = torch.cat([p.flatten() for p in bank.parameters()])
    assert factors.std().item() == pytest.approx(0.5, rel=0.02) and abs(factors.mean().item()) < 0.02
    entries = bank("image", range(1, 13))
    assert entries.std().item() == pytest.approx(0.5**3 / math.sqrt(4), rel=0.1)  # 0.0625
    dense = Bank(2, CLIP, depth=9, length=16, rank=None)
    assert dense("text", [1, 2]).shape == (2, 9, 16, 512)
    assert dense("text", [1, 2]).std().item() == pytest.approx(0.02, rel=0.02)


def test_only_the_prompts_of_the_current_task_train() -> None:
    bank = Bank(3, CLIP, depth=2, length=4)
    assert not any(p.requires_grad for p in bank.parameters())
    for task in (1, 2):
        bank.begin(task)
        trains = {name.split(".")[1] for name, p in bank.named_parameters() if p.requires_grad}
        assert trains == {str(task - 1)}


def test_a_rank_above_the_width_is_an_error_that_names_the_key() -> None:
    with pytest.raises(UserError, match="rank 9 is above the 8 numbers of a token of towers.text"):
        Bank(1, {"image": 16, "text": 8}, depth=2, length=4, rank=9)
    Bank(1, {"image": 16, "text": 8}, depth=2, length=4, rank=8)  # above the depth is fine: the paper goes to 16


def test_distances_between_prompts_are_one_minus_cosine() -> None:
    bank = Bank(3, {"image": 6, "text": 4}, depth=2, length=3, rank=2)
    with torch.no_grad():  # task 2: the same direction as task 1, task 3 the opposite one
        for n, factor in ((1, 5.0), (2, -2.0)):
            bank.tasks[n].load_state_dict(bank.tasks[0].state_dict())
            bank.tasks[n].layers["common"].mul_(factor)
    expected = np.array([[0, 0, 2], [0, 0, 2], [2, 2, 0]])
    found = distances(bank)
    assert set(found) == {"image", "text"}
    assert all(np.allclose(array(d), expected, atol=1e-6) for d in found.values())


# Interaction


def matrix(of: nn.Module) -> np.ndarray:
    """M[l, i, j] with the bias as its last input row."""
    a, b, c = array(of.a), array(of.b), array(of.c)
    return np.einsum("lk,ik,jk->lij", a, b, c) / a.shape[1]


def normed(x: np.ndarray, norm: nn.LayerNorm) -> np.ndarray:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * array(norm.weight) + array(norm.bias)


def heard(x: np.ndarray, m: np.ndarray) -> np.ndarray:
    return x @ m[:-1] + m[-1]


def test_both_sides_of_an_interaction_are_computed_from_the_old_states() -> None:
    cfg = InteractionConfig(rank=3, mix=0.3, first=0)
    whole = Interactions(cfg, 1, {"image": 6, "text": 4}, {"image": 3, "text": 3}).double()
    shaken(whole)
    maps, norms = whole.tasks[0].maps, whole.tasks[0].norms
    v, h = draws(2, 5, 6), draws(2, 5, 4, seed=1)
    new_v, new_h = interact(
        v, h, lambda x: maps["image"](x, 2), lambda x: maps["text"](x, 2), norms["image"], norms["text"], 0.3
    )
    to_v, to_h = matrix(maps["image"])[2], matrix(maps["text"])[2]
    assert to_v.shape == (5, 6) and to_h.shape == (7, 4)
    assert np.allclose(array(new_v), normed(0.7 * array(v) + 0.3 * heard(array(h), to_v), norms["image"]))
    assert np.allclose(array(new_h), normed(0.7 * array(h) + 0.3 * heard(array(v), to_h), norms["text"]))


@pytest.mark.parametrize("rank", [3, None])
def test_slots_hear_the_prompt_of_their_own_layer_and_task(rank: int | None) -> None:
    cfg = InteractionConfig(rank=rank, first=1, depth=4, blocks=6)
    whole = Interactions(cfg, 3, {"image": 6, "text": 4}, {"image": 5, "text": 4}).double()
    shaken(whole)
    prompts, slots = draws(2, 3, 5, 4), draws(3, 5, 6, seed=1)  # of tasks 1 and 3, three layers deep
    mix = whole("image", prompts, [1, 3], torch.tensor([1, 0, 1]))
    for row, (task, own) in enumerate(((3, 1), (1, 0), (3, 1))):
        maps, norm = whole.tasks[task - 1].maps["image"], whole.tasks[task - 1].norms["image"]
        m = matrix(maps) if rank else array(maps.weight)
        for block, layer in ((1, 1), (2, 2), (3, 2)):  # behind the partner's last prompt that prompt stands
            blend = 0.9 * array(slots[row]) + 0.1 * heard(array(prompts[own, layer]), m[block])
            assert np.allclose(array(mix(block, slots)[row]), normed(blend, norm))
    assert all(mix(block, slots) is slots for block in (0, 4, 5))


def test_slots_of_a_tower_that_has_widened_are_unfolded_for_the_interaction() -> None:
    whole = Interactions(InteractionConfig(), 1, {"image": 6, "text": 8}, {"image": 4, "text": 4}).double()
    shaken(whole)
    prompts, slots = draws(1, 4, 4, 8), draws(2, 4, 6, seed=1)
    mix = whole("image", prompts, [1], torch.tensor([0, 0]))
    wide = mix(2, slots.reshape(2, 2, 12))
    assert wide.shape == (2, 2, 12) and torch.equal(wide.reshape(2, 4, 6), mix(2, slots))


def test_maps_are_drawn_kaiming_uniform_and_norms_begin_as_plain_ones() -> None:
    torch.manual_seed(0)
    whole = Interactions(InteractionConfig(), 1, CLIP, {"image": 12, "text": 12})
    entries = torch.cat([p.flatten() for n, p in whole.named_parameters() if "maps" in n])
    assert entries.abs().max() <= 0.5 and entries.std().item() == pytest.approx(0.5 / math.sqrt(3), rel=0.03)
    assert all((n.weight == 1).all() and (n.bias == 0).all() for n in whole.tasks[0].norms.values())


def test_all_look_at_the_first_tower_and_the_first_at_the_text() -> None:
    assert partners(("image", "text")) == {"image": "text", "text": "image"}
    assert partners(("audio", "image")) == {"audio": "image", "image": "audio"}
    assert partners(("audio", "image", "text")) == {"audio": "text", "image": "audio", "text": "audio"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 9}, "interaction.rank 9 is above the 8 numbers of a token of towers.text"),
        ({"depth": 4}, "interaction.depth 4: towers.image has 3 blocks"),
        ({"first": 3}, "interaction.first 3: no block from there on is below 3"),
        ({"blocks": 2}, "interaction.blocks 2 is below the 3 blocks"),
    ],
)
def test_an_interaction_that_cannot_be_is_an_error_that_names_the_key(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Interactions(InteractionConfig(**settings), 1, {"image": 16, "text": 8}, {"image": 3, "text": 6})


# Contrast of layers


def cross_entropy(g: np.ndarray) -> float:
    rows = g - g.max(1, keepdims=True)
    return float(-(rows - np.log(np.exp(rows).sum(1, keepdims=True))).diagonal().mean())


@pytest.mark.parametrize("form", ["raw", "cosine"])
def test_layers_of_two_towers_are_contrasted_by_their_means_over_channels(form: str) -> None:
    one, other = draws(3, 5, 7), draws(3, 5, 4, seed=1)
    v, t = array(one).mean(2), array(other).mean(2)
    if form == "cosine":
        v, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, t))
        g = v @ t.T / 0.2
    else:
        g = v @ t.T / 0.2**2
    expected = (cross_entropy(g) + cross_entropy(g.T)) / 2
    assert float(layer_contrast(one, other, form, 0.2)) == pytest.approx(expected, rel=1e-9)
    assert float(layer_contrast(one[:1], other[:1], form)) == 0


def test_at_the_start_the_raw_form_is_near_log_nine_and_the_cosine_form_far_above_the_objective() -> None:
    values: dict[str, list[float]] = {"raw": [], "cosine": []}
    for seed in range(25):
        torch.manual_seed(seed)
        bank = Bank(1, CLIP, depth=9, length=16)
        for form, found in values.items():
            found.append(0.1 * float(layer_contrast(bank("image", [1])[0], bank("text", [1])[0], form)))
    assert np.median(values["raw"]) == pytest.approx(0.2199, abs=0.004)
    assert np.median(values["cosine"]) == pytest.approx(2.83, rel=0.25)


def test_a_contrast_of_layers_refuses_towers_of_other_depth_or_length() -> None:
    with pytest.raises(UserError, match="equally many layers"):
        layer_contrast(draws(3, 5, 7), draws(2, 5, 7))
    with pytest.raises(UserError, match="temperature"):
        layer_contrast(draws(3, 5, 7), draws(3, 5, 7), temperature=0.0)


# Contrast of tasks


def two_means(loss: np.ndarray, positive: np.ndarray, counted: np.ndarray) -> float:
    rows = []
    for i in range(len(loss)):
        groups = [[loss[i, j] for j in range(len(loss)) if counted[i, j] and positive[i, j] == p] for p in (1, 0)]
        rows.append(sum(sum(g) / len(g) for g in groups if g))
    return sum(rows) / len(rows)


def cosines(x: Tensor) -> np.ndarray:
    rows = array(x)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def test_similar_tasks_are_drawn_together_and_others_apart() -> None:
    x = draws(4, 6)
    y = np.array([[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]], dtype=bool)  # nothing is like task 2
    z = cosines(x) / 0.3
    expected = two_means(np.where(y, softplus(-z), softplus(z)), y, ~np.eye(4, dtype=bool))
    assert float(task_contrast(x, torch.tensor(y), 0.3)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("all_alike", [True, False])
def test_a_row_without_similar_tasks_or_without_others_goes_without_that_mean(all_alike: bool) -> None:
    x = draws(3, 6)
    y = torch.full((3, 3), all_alike)
    z = cosines(x)[~np.eye(3, dtype=bool)] / 0.1
    expected = softplus(-z if all_alike else z).mean()
    assert float(task_contrast(x, y)) == pytest.approx(expected, rel=1e-9)
    assert math.isfinite(float(released_task_contrast(x, y)))


def test_soft_targets_are_the_similarities_themselves() -> None:
    x, y = draws(3, 6), torch.tensor([[1, 0.3, -0.2], [0.3, 1, 0.9], [-0.2, 0.9, 1]], dtype=torch.double)
    z, t = cosines(x) / 0.1, array(y).clip(0, 1)
    loss = t * softplus(-z) + (1 - t) * softplus(z)
    assert float(task_contrast(x, y)) == pytest.approx(loss[~np.eye(3, dtype=bool)].mean(), rel=1e-9)


@pytest.mark.parametrize("form", [task_contrast, released_task_contrast])
def test_the_gradient_of_the_task_contrast_reaches_the_current_task_alone_and_pulls_the_right_way(form) -> None:
    x = torch.tensor([[1, 0, 0], [0, 1, 0], [0.1, 0.1, 1]], dtype=torch.double, requires_grad=True)
    y = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)  # the last task is like task 0, not like 1
    (grad,) = torch.autograd.grad(form(x, y, 0.5), x)
    assert (grad[:2] == 0).all() and grad[2].abs().sum() > 0
    before, after = cosines(x), cosines(x - 0.01 * grad)
    assert after[2, 0] > before[2, 0] and after[2, 1] < before[2, 1]


@pytest.mark.parametrize("scale", [0.0, 1.0, -1.0])
def test_the_released_form_stays_within_its_bounds_whatever_the_prompts_are(scale: float) -> None:
    y = torch.tensor(released_pairs())
    direction = draws(1, 50) * scale
    x = draws(12, 50, seed=1) + 1e3 * direction * (y[11].double()[:, None] * 2 - 1)
    assert 0.1006 <= 0.1 * float(released_task_contrast(x, y)) <= 0.2006
    best = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.double)
    alike = torch.ones(2, 2, dtype=torch.double)
    none = torch.eye(2, dtype=torch.bool)
    assert 0.1 * float(released_task_contrast(best, none)) == pytest.approx(0.1 * (softplus(-1) + math.log(2)))
    assert 0.1 * float(released_task_contrast(alike, none)) == pytest.approx(0.1 * (softplus(-1) + softplus(1)))


def test_the_released_form_of_unrelated_prompts_by_hand() -> None:
    y = released_pairs()
    rows = []
    for i in range(12):  # z is 1 for the task itself and 1/2 for all others
        alike = y[i].sum() - 1
        rows.append((softplus(-1) + alike * softplus(-0.5)) / (1 + alike) + softplus(0.5))
    found = released_task_contrast(torch.eye(12, dtype=torch.double), torch.tensor(y))
    assert float(found) == pytest.approx(np.mean(rows), rel=1e-9)


def test_the_released_form_at_a_mild_temperature_by_hand() -> None:
    x, y = draws(4, 6), torch.eye(4, dtype=torch.bool)
    y[0, 3] = y[3, 0] = True
    z = 1 / (1 + np.exp(-cosines(x) / 0.5))
    z[np.eye(4, dtype=bool)] = 1  # a task is infinitely near to itself
    expected = two_means(np.where(y, softplus(-z), softplus(z)), y.numpy(), np.ones((4, 4), dtype=bool))
    assert float(released_task_contrast(x, y, 0.5)) == pytest.approx(expected, rel=1e-9)


def test_the_released_form_begins_where_its_logs_begin() -> None:
    y = torch.tensor(released_pairs())
    assert int(y.sum() - 12) == 2 * 15
    values: dict[int, list[float]] = {2: [], 12: []}
    for seed in range(4):
        torch.manual_seed(seed)
        bank = Bank(12, CLIP, depth=9, length=16)
        for tasks, found in values.items():
            sides = [bank(m, range(1, tasks + 1)).flatten(1) for m in CLIP]
            found.append(0.1 * sum(float(released_task_contrast(x, y[:tasks, :tasks])) for x in sides) / 2)
    assert np.mean(values[2]) == pytest.approx(0.130, abs=0.004)
    assert np.mean(values[12]) == pytest.approx(0.1395, abs=0.0035)  # 0.1390 where the cosines are 0


def test_pairs_above_the_quantile_of_all_pairs_are_similar() -> None:
    s = torch.tensor([[1, 0.1, 0.5, 0.2], [0.1, 1, 0.3, 0.7], [0.5, 0.3, 1, 0.4], [0.2, 0.7, 0.4, 1]])
    assert similar(s, quantile=0.75).int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    assert similar(s, threshold=0.35).int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]]
    assert similar(s[:2, :2]).int().tolist() == [[1, 0], [0, 1]]
    assert similar(s[:1, :1]).tolist() == [[True]]


def test_a_contrast_of_one_task_is_an_error() -> None:
    with pytest.raises(UserError, match="two tasks or more"):
        task_contrast(draws(1, 6), torch.ones(1, 1, dtype=torch.bool))


# Distances


def reader(**settings: object) -> Model:
    torch.manual_seed(0)
    tower = tiny_text.Tower(tiny_text.Config(width=16, layers=1, buckets=64, out_dim=8, **settings))
    return Model({"text": tower}, {}, 8, frozenset({"text"}))


def test_tasks_are_as_similar_as_their_names_in_the_text_tower() -> None:
    model, names = reader(), ("wild_animals", "rain-and wind", "machines")
    found = TaskSimilarity(names)
    assert not found.known and not found.matrix.any()
    found.learn(model)
    tower = model.tower("text")
    with torch.no_grad():
        rows = torch.cat([tower(tower.prepare([t])) for t in ("wild animals", "rain and wind", "machines")])
    assert np.allclose(array(found.matrix), cosines(rows), atol=1e-6) and found.known
    assert words("__a-_b  c_") == "a b c"


def test_similarities_may_be_given_instead() -> None:
    given = ((1.0, 0.25), (0.25, 1.0))
    found = TaskSimilarity(("a", "b"), given)
    absent = Model({"text": cached.Tower(cached.Config(dim=4))}, {}, 4, frozenset())
    found.learn(absent)  # nothing is asked
    assert array(found.matrix).tolist() == [[1, 0.25], [0.25, 1]]
    with pytest.raises(UserError, match="towers.text.frozen: false"):
        TaskSimilarity(("a", "b")).learn(absent)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (((1.0, 0.5),), "2 rows of 2"),
        (((1.0, 0.5), (0.4, 1.0)), "symmetric"),
        (((0.9, 0.5), (0.5, 1.0)), "ones on its diagonal"),
        (((1.0, 1.5), (1.5, 1.0)), "between -1 and 1"),
    ],
)
def test_similarities_that_are_none_are_an_error(given: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TaskSimilarity(("a", "b"), given)


def test_the_map_of_tasks_shows_names_prompts_and_data_of_what_was_learned() -> None:
    tree = nn.ModuleDict({"similarity": TaskSimilarity("abc", ((1.0, 0.5, 0.2), (0.5, 1.0, 0.0), (0.2, 0.0, 1.0)))})
    tree["bank"] = Bank(3, {"image": 6, "text": 4}, depth=2, length=3, rank=2)
    for m in ("image", "text"):
        tree[m] = Selector(SelectConfig(centres=2), m, 3, 2, seed=0)
    tree["image"].learn(1, torch.tensor([[1.0, 0], [1, 0], [1, 0]]))
    tree["image"].learn(2, torch.tensor([[0, 3.0], [0, 3], [3, 0]]))  # its centres' mean is between the axes
    found = {name: array(square) for name, square in task_map(tree).items()}
    assert set(found) == {"semantic", "prompts/image", "prompts/text", "data/image", "data/text"}
    assert np.allclose(found["semantic"], [[0, 0.5, 0.8], [0.5, 0, 1], [0.8, 1, 0]])
    between = 1 - math.sqrt(0.5)
    assert np.allclose(found["data/image"][:2, :2], [[0, between], [between, 0]], atol=1e-6)
    whole = array(distances(tree["bank"])["image"])
    assert np.array_equal(found["prompts/image"][:2, :2], whole[:2, :2])
    for name in ("data/image", "prompts/image"):
        assert np.isnan(found[name][2]).all() and np.isnan(found[name][:, 2]).all()
    assert np.isnan(found["data/text"]).all()
    assert task_map(nn.Linear(2, 2)) == {}


def test_a_task_that_lacked_a_modality_is_never_chosen_in_it() -> None:
    router = Selector(SelectConfig(centres=2, oracle=True), "text", 3, 2, seed=0)
    router.learn(1, torch.tensor([[1.0, 0], [1, 0.1], [1, 0.2]]))
    router.learn(3, torch.tensor([[0.0, 1], [0.1, 1], [0.2, 1]]))
    queries = torch.tensor([[1.0, 0], [0, 1], [-1, -1], [0.01, 0.01]])  # the centres of task 2 would be at the origin
    assert set(router.choose(queries).tolist()) == {1, 3}
    assert router.choose(queries, torch.tensor([3, 2, 1, 0])).tolist()[:3] == [3, 3, 1]
