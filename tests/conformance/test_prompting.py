"""What every method must do that steers towers and leaves their weights: a new file is picked up by its name.

All of them on three tiny transformers and with a tower of the library of that name, some with every tower that takes
prompts, and some in other forms than their default.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from polymnia.config import find, names
from polymnia.continual.chain import Chain
from polymnia.continual.select import Progress
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower

from . import lessons
from .lessons import Towers, build, features, learn, learning, losses, mixed, pairs, task
from .miniature_towers import MINIATURES

METHODS = [n for n in names("methods") if find("methods", n).Method.keeps_towers]
TINY = (("tiny_audio", "transformer"), ("tiny_image", "vit"), ("tiny_text", "words"))
NO_BLOCKS = {("cached", "vectors"), ("efficientat", "quarter"), ("tiny_audio", "conv"), ("tiny_image", "conv")}
NO_BLOCKS |= {("panns", variant) for variant in MINIATURES["panns"]}
TOWERS = [(t, v) for t, variants in MINIATURES.items() for v in variants if (t, v) not in NO_BLOCKS]
EVERYWHERE = ("vpt", "maple")  # tokens of each tower's own, coupled tokens; tests/test_lora.py does it for lora
TRANSFORMERS = ("clip_image", "vit")
FORMS: dict[str, dict[str, Any]] = {
    "lora per task": {"use": "lora", "per_task": True},
    "sprompts gated": {"use": "sprompts", "deep": True, "gate": -1.0},
    "lpi gated": {"use": "lpi", "deep": "replace", "gate": -1.0},
    "dgl read": {"use": "dgl", "read": "prompts"},
    "coop back": {"use": "coop", "position": "back"},
    "l2p vote": {"use": "l2p", "vote": True},
    "dualprompt gated": {"use": "dualprompt", "gate": -1.0},
    "coda ortho": {"use": "coda", "ortho": 0.1, "gate": -1.0},
}
LEAKS = ({"use": "l2p", "vote": True},)  # forms in which a row is told by its neighbours what it gets
PARTS = {**{m: {"use": m} for m in METHODS}, **FORMS}
CASES = [
    *((part, None) for part in PARTS),
    *((m, TRANSFORMERS) for m in METHODS if m not in EVERYWHERE),
    *((m, t) for m in EVERYWHERE for t in TOWERS if t not in TINY),
]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


class Case(NamedTuple):
    """A method and its towers: three tiny ones, or one and a tiny partner."""

    part: dict[str, Any]
    towers: Towers


class Learned(NamedTuple):
    """A case after two tasks: the first of all pairs, the second of the first pair alone."""

    case: Case
    model: Model
    chain: Chain
    first: frozenset[str]  # what trained in the first task
    second: frozenset[str]


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201 (a function)
    """Miniatures, each built once."""
    known: dict[tuple[str, str], AbstractTower] = {}

    def get(name: str, variant: str) -> AbstractTower:
        if (name, variant) not in known:
            module = find("models.towers", name)
            settings = MINIATURES[name][variant](tmp_path_factory.mktemp(name))
            with torch.random.fork_rng():
                torch.manual_seed(0)
                known[name, variant] = module.Tower(module.Config(**settings)).eval()
        return known[name, variant]

    return get


@pytest.fixture(scope="module", params=CASES, ids=lambda c: "-".join([c[0], *(c[1] or ("three tiny",))]))
def case(request: pytest.FixtureRequest, tower) -> Case:  # noqa: ANN001
    part, chosen = PARTS[request.param[0]], request.param[1]
    if chosen is None:
        return Case(part, {t.modality: t for t in (tower(*which) for which in TINY)})
    one = tower(*chosen)
    other = tower(*(TINY[0] if one.modality == "text" else TINY[2]))
    return Case(part, {one.modality: one, other.modality: other})


@pytest.fixture(scope="module")
def learned(case: Case) -> Learned:
    model, chain = build([case.part], case.towers)
    trained = []
    for index, of in ((1, pairs(case.towers)), (2, pairs(case.towers)[:1])):
        learn(model, chain, case.towers, index, of)
        trained.append(frozenset(learning(model, chain)))
    return Learned(case, model, chain, *trained)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def state(*modules: torch.nn.Module) -> dict[str, Tensor]:
    return {f"{n}.{k}": v.detach().clone() for n, m in enumerate(modules) for k, v in m.state_dict().items()}


@pytest.mark.parametrize("which", sorted(NO_BLOCKS), ids="-".join)
def test_the_miniatures_that_are_left_out_here_take_no_prompts(which: tuple[str, str], tower) -> None:  # noqa: ANN001
    assert tower(*which).depth == 0


def test_before_the_first_task_features_are_the_plain_tower_s_bit_for_bit(case: Case) -> None:
    model, chain = build([case.part], case.towers)
    for m, t in case.towers.items():
        x, _ = mixed(case.towers, m)
        with torch.no_grad():
            assert torch.equal(features(model, chain, m, x), t(x))


def test_gradients_reach_all_that_trains_and_no_tower(case: Case) -> None:
    model, chain = build([case.part], case.towers)
    chain.begin_task(model, task(1, pairs(case.towers)))
    trained = learning(model, chain)
    assert any(n.startswith("method.") for n in trained)
    reached: set[str] = set()
    for seed in range(3):  # what starts from zero hides what stands before it
        model.train(), chain.train()
        terms = losses(model, chain, lessons.batch(case.towers, 1, seed))
        model.zero_grad(), chain.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        reached |= {n for n, p in trained.items() if p.grad is not None and p.grad.abs().sum() > 0}
        assert not any(p.requires_grad or p.grad is not None for p in model.towers.parameters())
        with torch.no_grad():
            for p in trained.values():
                p -= 0.05 * torch.zeros_like(p) if p.grad is None else 0.05 * p.grad
    assert not set(trained) - reached


def test_the_towers_are_as_they_came_after_learning(learned: Learned) -> None:
    for m, t in learned.case.towers.items():
        assert same(state(learned.model.towers[m]), state(t))


def test_what_was_learned_loads_strictly_into_another_one_and_serves_the_same(learned: Learned) -> None:
    towers = learned.case.towers
    model, chain = build([learned.case.part], towers, seed=5)
    x = {m: mixed(towers, m)[0] for m in towers}
    differs = [not torch.equal(features(model, chain, m, x[m]), features(*learned[1:3], m, x[m])) for m in towers]
    assert any(differs)
    model.load_state_dict(learned.model.state_dict(), strict=True)
    chain.load_state_dict(learned.chain.state_dict(), strict=True)
    for m in towers:
        assert torch.equal(features(model, chain, m, x[m]), features(*learned[1:3], m, x[m]))


def test_a_row_is_served_alike_alone_among_others_and_in_any_order(learned: Learned) -> None:
    towers = learned.case.towers
    if learned.case.part in LEAKS:
        assert "leak" in str(find("methods", learned.case.part["use"]).Config.__doc__)
        return
    for m in towers:
        x, _ = mixed(towers, m)
        together = features(*learned[1:3], m, x)
        assert together.isfinite().all() and torch.pdist(together).max() > 1e-3
        alone = torch.cat([features(*learned[1:3], m, x[i : i + 1]) for i in range(len(x))])
        assert torch.allclose(alone, together, **CLOSE)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        assert torch.allclose(features(*learned[1:3], m, x[order]), together[order], **CLOSE)


def test_nobody_looks_at_the_task_of_an_input_and_questions_asked_before_are_the_same(learned: Learned) -> None:
    towers = learned.case.towers
    for m, t in towers.items():
        x, tasks = mixed(towers, m)
        served = features(*learned[1:3], m, x)
        for told in (tasks, tasks.flip(0), torch.zeros_like(tasks)):
            assert torch.equal(features(*learned[1:3], m, x, task=told), served)
        with torch.no_grad():
            assert torch.allclose(features(*learned[1:3], m, x, query=t(x)), served, **CLOSE)


def test_evaluation_is_deterministic_and_leaves_no_trace(learned: Learned) -> None:
    before, rng = state(learned.model, learned.chain), torch.get_rng_state()
    for m in learned.case.towers:
        x, _ = mixed(learned.case.towers, m)
        assert torch.equal(features(*learned[1:3], m, x), features(*learned[1:3], m, x))
    assert same(state(learned.model, learned.chain), before) and torch.equal(torch.get_rng_state(), rng)


def test_a_task_that_has_only_begun_changes_nothing_for_inputs_that_are_not_known_to_be_of_it(
    learned: Learned,
) -> None:
    towers = learned.case.towers
    model, chain = copy.deepcopy(learned.model), copy.deepcopy(learned.chain)
    chain.begin_task(model, task(3, pairs(towers)))
    for m in towers:
        x, tasks = mixed(towers, m)
        for known in ({}, {"task": tasks.clamp(max=2)}):
            assert torch.equal(features(model, chain, m, x, **known), features(*learned[1:3], m, x))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_trained_for_one_task_alone_never_moves_again(learned: Learned, optimizer: str) -> None:
    model, chain = copy.deepcopy(learned.model), copy.deepcopy(learned.chain)
    before = {n: p.detach().clone() for n, p in both(model, chain).items()}
    learn(model, chain, learned.case.towers, 3, optimizer=optimizer)
    now, third = both(model, chain), set(learning(model, chain))
    for trained, later in ((learned.first, learned.second | third), (learned.second, third)):
        own = trained - later
        assert all(torch.equal(now[n], before[n]) for n in own)
    assert any(not torch.equal(now[n], before[n]) for n in third if n.startswith("method."))
    if any(isinstance(m, Progress) for m in chain.modules()):  # who chooses a task has something of its own for it
        assert learned.first - learned.second - third


def both(model: Model, chain: Chain) -> dict[str, Tensor]:
    return {f"{n}.{k}": p for n, m in (("model", model), ("method", chain)) for k, p in m.named_parameters()}


@pytest.mark.parametrize("partner", ["lwf", "modx", "er", "ewc", "der"])
@pytest.mark.parametrize("name", [*METHODS, "lora per task"])
def test_it_learns_in_a_chain_with_what_is_done_against_forgetting(name: str, partner: str, tower) -> None:  # noqa: ANN001
    towers = {t.modality: t for t in (tower(*which) for which in TINY)}
    settings = {"rows": 4} if partner in ("er", "der") else {}
    model, chain = build([PARTS[name], {"use": partner, **settings}], towers)
    for index in (1, 2):
        steps = learn(model, chain, towers, index)
        assert all(v.isfinite() for terms in steps for v in terms.values())
    own = {k for terms in steps for k in terms if k.startswith(partner)}
    assert bool(own) == (partner != "er")
    mixed_in = chain.mix(lessons.batch(towers, 3))
    assert (len(mixed_in) == lessons.ROWS + 4) == (partner in ("er", "der"))
    assert all(same(state(model.towers[m]), state(t)) for m, t in towers.items())
