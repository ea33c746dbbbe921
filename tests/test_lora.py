"""LoRA: what an update changes, which layers get one, and what updates of other tasks see of each other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance.miniature_towers import MINIATURES
from conformance.test_towers import rows
from tiny import tiny
from torch import Tensor, nn

import polymnia
from polymnia.config import find
from polymnia.continual.lowrank_weights import linear_layers
from polymnia.continual.method import Setup
from polymnia.methods.lora import TARGETS, Config, Method
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.runs.life import Session
from polymnia.types import Batch, Known, Modality, Task, UserError, VectorSpec

IN, HIDDEN, OUT, RANK = 5, 6, 3, 2
TRANSFORMERS = ("ast", "clap_audio", "clap_text", "clip_image", "clip_text", "sentence")
PROMPTED = {
    **{f"towers__{m}__layers": 2 for m in ("audio", "image", "text")},
    "towers__image__frozen": False,
    "towers__text__frozen": False,
    "towers__image__arch": "vit",
    "towers__image__width": 16,
}


class Small(AbstractTower):
    """V tanh(W x + b), with W in a layer that is called ``query``."""

    def __init__(self, modality: Modality):
        super().__init__()
        self.modality, self.spec, self.out_dim = modality, VectorSpec(IN), OUT
        self.query, self.out = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, OUT, bias=False)

    def forward(self, x: Tensor, prompt: Any = None) -> Tensor:
        self.no_prompt(prompt)
        return self.out(self.query(x).tanh())


def model(*modalities: Modality, learn: tuple[Modality, ...] = ()) -> Model:
    torch.manual_seed(0)
    chosen = modalities or ("audio", "text")
    of = Model({m: Small(m) for m in chosen}, {}, OUT, frozenset(learn or chosen), 3)
    return of.double().eval()


def made(of: Model, tasks: int = 3, **settings: Any) -> Method:
    torch.manual_seed(1)
    cfg = Config(**{"rank": RANK, "alpha": 6.0, **settings})
    return Method(cfg, Setup(of, lambda *_: {}, tasks, 0)).to(next(of.parameters()).dtype).eval()


def task(index: int, pair: tuple[Modality, Modality] = ("audio", "text")) -> Task:
    return Task(f"task {index}", index, (), (), (), (pair,))


def x(count: int = 8, seed: int = 0, far: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, IN, generator=g, dtype=torch.double) + far * torch.eye(IN, dtype=torch.double)[seed % IN]


def batch(index: int, count: int = 8) -> Batch:
    """Rows of a task that lie far from those of others."""
    every = torch.arange(count)
    inputs = {m: x(count, index, 20.0) for m in ("audio", "text")}
    return Batch(inputs, dict.fromkeys(inputs, every), every, torch.full((count,), index))


def trained(method: Method, number: int, seed: int = 5) -> None:
    """Both factors of a set of updates as learning might have left them."""
    g = torch.Generator().manual_seed(seed + number)
    with torch.no_grad():
        for p in method.updates[number].parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype))


def expected(method: Method, of: Model, number: int | None, inputs: Tensor, m: Modality = "audio") -> np.ndarray:
    """V tanh((W + 6/2 B A) x + b) in numpy; ``number`` None: without the update."""
    w = {k: v.detach().numpy() for k, v in of.towers[m].state_dict().items()}
    weight = w["query.weight"]
    if number is not None:
        state = {k: v.numpy() for k, v in method.state_dict().items()}
        a, b = (state[f"updates.{number}.{m}.{side}.query"] for side in "ab")
        assert a.shape == (RANK, IN) and b.shape == (HIDDEN, RANK)
        weight = weight + 3.0 * np.einsum("or,ri->oi", b, a)
    return np.tanh(inputs.numpy() @ weight.T + w["query.bias"]) @ w["out.weight"].T


def served(method: Method, of: Model, inputs: Tensor, m: Modality = "audio", **known: Any) -> np.ndarray:
    with torch.no_grad():
        return method.features(of, m, inputs, Known(**known)).numpy()


def miniature(name: str, folder: Path) -> AbstractTower:
    module = find("models.towers", name)
    variant = next(iter(MINIATURES[name]))
    torch.manual_seed(0)
    return module.Tower(module.Config(**MINIATURES[name][variant](folder))).eval()


# What an update does


def test_an_update_adds_the_scaled_product_of_its_factors_to_the_weight() -> None:
    of = model()
    method = made(of)
    method.begin_task(of, task(1))
    trained(method, 0)
    assert served(method, of, x()) == pytest.approx(expected(method, of, 0, x()), rel=1e-12)
    assert abs(expected(method, of, 0, x()) - expected(method, of, None, x())).max() > 0.1


def test_at_first_b_is_zero_and_a_uniform_within_one_over_the_root_of_the_width() -> None:
    of = Model({"audio": Small("audio")}, {}, OUT, frozenset({"audio"}))
    of.towers["audio"].query = nn.Linear(400, HIDDEN)
    update = made(of).updates[0]["audio"]
    a, b = (t.detach().numpy() for t in update.pair("query"))
    assert not b.any() and abs(a).max() <= 1 / 20
    assert a.std() == pytest.approx(1 / 20 / 3**0.5, rel=0.05)  # of a uniform distribution


@pytest.mark.parametrize("name", ["tiny_audio", "tiny_text", "audio_tokens", *TRANSFORMERS])
def test_new_updates_change_no_bit_and_others_are_those_of_a_tower_with_changed_weights(
    name: str, tmp_path: Path
) -> None:
    tower = miniature(name, tmp_path)
    m = tower.modality
    of = Model({m: tower}, {}, tower.out_dim, frozenset({m}), 3).eval()
    inputs, method = rows(tower, 4), made(of)
    method.begin_task(of, task(1))
    with torch.no_grad():
        plain = tower(inputs)
        assert torch.equal(method.features(of, m, inputs, Known()), plain)
        trained(method, 0)
        merged = copy.deepcopy(tower)
        for path in method.updates[0][m].names:
            a, b = method.updates[0][m].pair(path)
            merged.get_submodule(path).weight += 3.0 * torch.einsum("or,ri->oi", b, a)
        ours = method.features(of, m, inputs, Known())
        assert torch.allclose(ours, merged(inputs), atol=1e-5, rtol=1e-4)
        assert (ours - plain).abs().max() > 1e-3
        assert torch.equal(tower(inputs), plain)  # nothing is left behind in it


def test_gradients_are_those_of_the_factors_and_none_reaches_the_tower() -> None:
    of = model()
    method = made(of)
    method.begin_task(of, task(1))
    trained(method, 0)
    method.train(), of.train()
    weight = (of.towers["audio"].query.weight.detach() + 0).requires_grad_()
    a, b = method.updates[0]["audio"].pair("query")
    changed = weight + 3.0 * (b @ a).detach()
    hidden = torch.tanh(x() @ changed.T + of.towers["audio"].query.bias)
    (hidden @ of.towers["audio"].out.weight.T).square().sum().backward()
    method.features(of, "audio", x(), Known(task=torch.ones(8, dtype=torch.long))).square().sum().backward()
    slope = weight.grad.numpy()  # dL/dA = s B' dL/dW, dL/dB = s dL/dW A'
    assert a.grad.numpy() == pytest.approx(3.0 * b.detach().numpy().T @ slope, rel=1e-9)
    assert b.grad.numpy() == pytest.approx(3.0 * slope @ a.detach().numpy().T, rel=1e-9)
    assert all(p.grad is None and not p.requires_grad for p in of.towers.parameters())


def test_a_small_update_is_not_rounded_away_in_half_precision() -> None:
    of = model().float()
    method = made(of)
    trained(method, 0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours = method.features(of, "audio", x().float(), Known())
        tower = copy.deepcopy(of.towers["audio"])
        with torch.autocast("cpu", enabled=False):
            a, b = method.updates[0]["audio"].pair("query")
            tower.query.weight += 3.0 * (b @ a)
        assert torch.equal(ours, tower(x().float()))


# Which layers


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("ast", {"q_proj", "v_proj"}),
        ("clip_image", {"q_proj", "v_proj"}),
        ("clip_text", {"q_proj", "v_proj"}),
        ("clap_audio", {"query", "value"}),
        ("clap_text", {"query", "value"}),
        ("sentence", {"query", "value"}),
        ("tiny_image", None),
    ],
)
def test_queries_and_values_of_every_tower_with_attention_are_found(
    name: str, ends: set[str] | None, tmp_path: Path
) -> None:
    tower = miniature(name, tmp_path)
    if ends is None:  # its first variant is a convolution
        with pytest.raises(UserError, match="no linear layer of such a name.*it has: out.*modalities"):
            linear_layers(tower, TARGETS)
        return
    found = linear_layers(tower, TARGETS)
    assert {path.rpartition(".")[2] for path in found} == ends
    assert len(found) == len(ends) * sum(path.endswith(min(ends)) for path, _ in tower.named_modules())


def test_targets_are_whole_names_at_the_end_of_a_path(tmp_path: Path) -> None:
    tower = miniature("tiny_audio", tmp_path)
    assert list(linear_layers(tower, ("out",))) == [*(f"body.blocks.{n}.out" for n in range(3)), "out"]
    assert list(linear_layers(tower, ("blocks.1.out",))) == ["body.blocks.1.out"]
    with pytest.raises(UserError, match="targets ut, body: towers.audio.*it has: 0, 2, out, qkv, stem"):
        linear_layers(tower, ("ut", "body"))


def test_the_frozen_front_of_a_tower_gets_no_updates_and_its_rest_the_same_ones(tmp_path: Path) -> None:
    whole = miniature("audio_tokens", tmp_path)
    assert any(path.startswith("front.") and path.endswith(".qkv") for path, _ in whole.named_modules())
    names = [f"body.blocks.{n}.qkv" for n in range(3)]
    assert list(linear_layers(whole, TARGETS)) == list(linear_layers(whole.split()[1], TARGETS)) == names


def test_a_set_has_rank_times_both_sides_numbers_a_layer() -> None:
    for tasks, per_task in ((1, False), (3, True)):
        method = made(model(), per_task=per_task)
        assert sum(p.numel() for p in method.parameters()) == tasks * 2 * RANK * (IN + HIDDEN)


# Tasks


def test_one_set_goes_on_from_task_to_task_and_needs_no_router() -> None:
    of = model()
    method = made(of)
    assert not method.asks and not list(method.buffers())
    for index in (1, 2):
        method.begin_task(of, task(index))
        assert all(p.requires_grad for p in method.parameters())
        method.end_task(of, task(index), [batch(index)])


def learned(of: Model, upto: int = 2, **settings: Any) -> Method:
    """A method whose sets of the first tasks are random, and whose routers know them."""
    method = made(of, per_task=True, select={"centres": 2}, **settings)
    for index in range(1, upto + 1):
        method.begin_task(of, task(index))
        trained(method, index - 1)
        method.end_task(of, task(index), [batch(index)])
    return method


def test_each_row_gets_the_updates_of_its_own_task_in_training_and_of_the_nearest_later() -> None:
    of = model()
    method = learned(of)
    mixed = torch.cat([batch(1).inputs["audio"], batch(2).inputs["audio"]])[torch.randperm(16)]
    of_task = torch.tensor([1 + int(row[2] > row[1]) for row in mixed])  # a task's rows are far along their own axis
    own = np.stack([expected(method, of, int(t) - 1, mixed)[i] for i, t in enumerate(of_task)])
    assert served(method, of, mixed) == pytest.approx(own, rel=1e-9)
    told = 3 - of_task  # a lie, which nobody asks for in evaluation, and everybody believes in training
    assert served(method, of, mixed, task=told) == pytest.approx(own, rel=1e-9)
    method.train()
    other = np.stack([expected(method, of, int(t) - 1, mixed)[i] for i, t in enumerate(told)])
    assert served(method, of, mixed, task=told) == pytest.approx(other, rel=1e-9)


def test_before_the_first_task_the_tower_is_as_it_came_whatever_is_in_the_sets() -> None:
    of = model()
    method = made(of, per_task=True)
    for number in range(3):
        trained(method, number)
    assert served(method, of, x()) == pytest.approx(expected(method, of, None, x()), rel=1e-12)
    with torch.no_grad():
        assert torch.equal(method.features(of, "audio", x(), Known()), of.towers["audio"](x()))


def test_only_the_set_of_the_task_trains_and_validation_of_the_task_is_served_by_it() -> None:
    of = model()
    method = learned(of, 1)
    method.begin_task(of, task(2))
    trained(method, 1)
    for number, updates in enumerate(method.updates):
        assert {p.requires_grad for p in updates.parameters()} == {number == 1}
    known = {"task": torch.full((8,), 2)}
    assert served(method, of, x(), **known) == pytest.approx(expected(method, of, 1, x()), rel=1e-12)
    assert served(method, of, x()) == pytest.approx(expected(method, of, 0, x()), rel=1e-12)


def test_a_task_without_a_modality_leaves_no_centres_there_and_is_never_chosen_for_it() -> None:
    of = model("audio", "image", "text")
    method = made(of, per_task=True, select={"centres": 2})
    method.begin_task(of, task(1, ("image", "text")))
    every = torch.arange(8)
    rows_of = Batch(
        {"image": x(), "text": x()}, {"image": every, "text": every}, every, torch.ones(8, dtype=torch.long)
    )
    method.end_task(of, task(1), [rows_of])
    assert [m for m in method.routers if method.routers[m].left[0]] == ["image", "text"]
    trained(method, 0)
    assert served(method, of, x()) == pytest.approx(expected(method, of, None, x()), rel=1e-12)


def test_the_rows_of_a_joint_run_are_all_served_by_its_only_set() -> None:
    of = model()
    method = made(of, per_task=True)
    method.begin_task(of, task(1))
    for number in range(3):
        trained(method, number)
    known = {"task": torch.tensor([1, 2, 3, 1, 2, 3, 1, 2])}
    for training in (True, False):
        method.train(training)
        assert served(method, of, x(), **known) == pytest.approx(expected(method, of, 0, x()), rel=1e-12)


# Refusals


def test_a_task_that_would_train_nothing_is_refused() -> None:
    method = made(model(), modalities=("audio",), heads=False, scale=False)
    with pytest.raises(UserError, match="trains nothing"):
        method.begin_task(model("image", "text"), task(1, ("image", "text")))


def test_a_rank_above_a_side_of_a_weight_is_refused() -> None:
    made(model(), rank=5)
    with pytest.raises(UserError, match=r"rank 6 is above the 5 of query \(6 x 5\)"):
        made(model(), rank=6)


def test_a_tower_that_is_frozen_or_absent_is_refused() -> None:
    with pytest.raises(UserError, match="towers.text is frozen"):
        made(model(learn=("audio",)), modalities=("text",))
    with pytest.raises(UserError, match="no image tower"):
        made(model(), modalities=("image",))
    assert made(model(learn=("audio",))).modalities == ("audio",)


# A run


@pytest.mark.parametrize("per_task", [False, True])
def test_a_run_begins_with_the_plain_towers_and_its_encoders_hold_no_tower(
    per_task: bool, shared: Path, tmp_path: Path
) -> None:
    part = {"use": "lora", "per_task": per_task, "modalities": ["audio", "text"]}
    changes = {"examples": 0, "train__lr": 0.05, **PROMPTED}
    run = Session(tiny(shared, tmp_path, method=[part], **changes)).go()
    frozen = Session(tiny(shared, tmp_path, method=["frozen"], **changes)).go()
    assert run.matrix["rows"] == [0, 1, 2, 3]
    sounds = [np.random.default_rng(n).normal(0, 0.1, 8000).astype(np.float32) for n in range(3)]
    vectors = [polymnia.load(run.folder, after).encode_audio(sounds, 16000) for after in range(4)]
    assert np.array_equal(vectors[0], polymnia.load(frozen.folder, 0).encode_audio(sounds, 16000))
    assert all(abs(vectors[n] - vectors[n - 1]).max() > 1e-4 for n in (1, 2, 3))
    last = polymnia.load(run.folder)
    assert last.method.prompter.cfg.per_task == per_task and ("routing/audio" in json_scores(run)) == per_task


def json_scores(run: Any) -> str:
    return (run.folder / "matrix.json").read_text()
