"""What every file in ``polymnia/methods`` must be and do; a new file is picked up by its name."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from tiny import TASKS, tiny
from torch import Tensor

import polymnia
from polymnia.config import find, names
from polymnia.continual.method import AbstractMethod, MethodConfig
from polymnia.models.model import Model
from polymnia.runs.life import Run, Session
from polymnia.train import checkpoint
from polymnia.types import Task

METHODS = names("methods")
STEPS = 4
HOOKS = ("begin_task", "mix", "features", "loss", "after_backward", "end_task")
WITHOUT_WEIGHT = (  # a term of weight 0 is no term: not one bit may differ from plain fine-tuning
    {"use": "lwf", "weight": 0},
    {"use": "cassle", "weight": 0},
    {"use": "cassle", "weight": 0, "predictor": "mlp", "hidden": 8},
    {"use": "modx", "weight": 0},
    {"use": "ewc", "weight": 0},
)


class Learned(NamedTuple):
    """A method after three tasks, and the towers as they were before."""

    session: Session
    run: Run
    before: dict[str, dict[str, Tensor]]


Learn = Callable[..., Learned]


@pytest.fixture(scope="module")
def learn(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Learn:
    """Learns three tasks; the same settings are learned once."""
    known: dict[str, Learned] = {}

    def go(**changes: Any) -> Learned:
        key = json.dumps(changes, sort_keys=True)
        if key not in known:
            recipe = tiny(shared, tmp_path_factory.mktemp("runs"), train__steps=STEPS, examples=0, **changes)
            session = Session(recipe)
            before = {m: _copy(t.state_dict()) for m, t in session.towers.items()}
            known[key] = Learned(session, session.go(), before)
        return known[key]

    return go


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def module(name: str) -> ModuleType:
    return find("methods", name)


def towers_for(name: str) -> dict[str, Any]:
    """Changes to the tiny recipe under which a method has what it prompts: transformers that may be prompted."""
    if not find("methods", name).Method.keeps_towers:
        return {}
    deep = {f"towers__{m}__layers": 2 for m in ("audio", "image", "text")}
    image = {"towers__image__arch": "vit", "towers__image__width": 16}
    return {"towers__image__frozen": False, "towers__text__frozen": False, **deep, **image}


@pytest.fixture
def learned(name: str, learn: Learn) -> Learned:
    return learn(method=[name], **towers_for(name))


def _copy(state: dict[str, Any]) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in state.items()}


def _state(session: Session) -> dict[str, Tensor]:
    both = {"model": session.model, "method": session.method}
    return {f"{n}.{k}": v for n, m in both.items() for k, v in m.state_dict().items()}


def _kept(run: Run) -> dict[str, Tensor]:
    """What the last checkpoint holds of model and method."""
    state = checkpoint.load(checkpoint.found(run.folder / "checkpoints")[-1][1], run.recipe.hash)
    return {f"{part}.{k}": v for part in ("model", "method") for k, v in state[part].items()}


def _differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    return [k for k in {**a, **b} if k not in a or k not in b or not torch.equal(a[k], b[k])]


def test_a_method_says_what_it_is(module: ModuleType) -> None:
    assert module.__doc__ and len(module.__doc__.split()) > 10, f"{module.__name__}: idea, equation, paper"
    assert module.Config.__doc__ and module.Method.__doc__


def test_a_method_has_a_frozen_config_whose_defaults_build(module: ModuleType) -> None:
    assert issubclass(module.Config, MethodConfig) and module.Config is not MethodConfig
    cfg = module.Config()
    with pytest.raises(ValidationError):
        cfg.balance = None
    with pytest.raises(ValidationError, match="unknown key"):
        module.Config(no_such_key=1)
    assert module.Config(**cfg.model_dump(mode="json")) == cfg


def test_a_method_has_the_six_hooks_and_no_seventh(module: ModuleType) -> None:
    assert issubclass(module.Method, AbstractMethod)
    public = {n for n, v in vars(module.Method).items() if not n.startswith("_") and callable(v)}
    assert public <= set(HOOKS), f"nobody would call {public - set(HOOKS)}"


def test_it_learns_three_tasks_and_fills_the_matrix(module: ModuleType, learned: Learned) -> None:
    matrix = learned.run.matrix
    after = [0, 1, 2, 3] if module.Method.sequential else [0, 3]
    assert matrix["rows"] == after
    assert matrix["tasks"] == [domain for domain, _ in TASKS]
    for head in ("latest", "stored"):
        scores = np.array(matrix["score"][head], dtype=float)
        assert scores.shape == (len(after), 3)
        assert ((scores >= 0) & (scores <= 100)).all()
    assert all(v is not None and math.isfinite(v) for v in learned.run.summary().values()) or len(after) == 2


def test_it_logs_a_finite_loss_for_every_step_of_every_task(module: ModuleType, learned: Learned) -> None:
    lines = [json.loads(line) for line in (learned.run.folder / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 3 * STEPS
    for step in steps:
        terms = step["terms"]
        assert math.isfinite(step["loss"]) and all(math.isfinite(v) for v in terms.values())
        assert step["loss"] == pytest.approx(sum(terms.values()), rel=1e-5)
        assert any(n.startswith("contrast/") for n in terms)
    if module.Method.sequential:
        assert [s["step"] for s in steps] == list(range(1, STEPS + 1)) * 3


def test_its_state_keeps_its_shape_and_loads_strictly(learned: Learned) -> None:
    fresh = Session(learned.session.recipe)
    shapes = {k: (v.shape, v.dtype) for k, v in _state(learned.session).items()}
    assert shapes == {k: (v.shape, v.dtype) for k, v in _state(fresh).items()}
    fresh.method.load_state_dict(learned.session.method.state_dict(), strict=True)
    fresh.model.load_state_dict(learned.session.model.state_dict(), strict=True)
    assert _differing(_state(fresh), _state(learned.session)) == []


def test_frozen_towers_are_bit_identical_afterwards(name: str, learned: Learned) -> None:
    keeps = find("methods", name).Method.keeps_towers
    still = ["image", "text"] + (["audio"] if keeps or name == "frozen" else [])
    for modality in still:
        assert _differing(learned.session.towers[modality].state_dict(), learned.before[modality]) == []
    fresh = Session(learned.session.recipe)
    assert _differing(_state(fresh), _state(learned.session))  # but something was learned


def test_it_encodes_unit_vectors_without_being_told_the_task(learned: Learned) -> None:
    encoder = polymnia.load(learned.run.folder)
    sounds = [np.random.default_rng(n).normal(0, 0.1, 8000 + 500 * n).astype(np.float32) for n in range(4)]
    pictures = [learned.session.source.picture(i).transpose(1, 2, 0) for i in learned.session.curriculum.items[:3]]
    vectors = {
        "audio": encoder.encode_audio(sounds, 16000),
        "text": encoder.encode_text(["a dog barks", "rain"]),
        "image": encoder.encode_image([Image.fromarray(p) for p in pictures]),
    }
    assert {m: v.shape for m, v in vectors.items()} == {"audio": (4, 16), "text": (2, 16), "image": (3, 16)}
    for rows in vectors.values():
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    backwards = encoder.encode_audio(sounds[::-1], 16000)[::-1]
    assert np.allclose(backwards, vectors["audio"], atol=1e-5)  # a row depends on no other row


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("last_step", "evaluations"),
    [(STEPS + 1, 9), (STEPS + 4, 9), (99, 2)],
    ids=["behind a task", "in a task", "evaluating"],
)
def test_a_run_that_died_goes_on_to_the_bit_identical_result(
    last_step: int, evaluations: int, learned: Learned, tmp_path: Path
) -> None:
    recipe = learned.session.recipe.model_copy(update={"out": tmp_path, "checkpoint_every": 3})
    seen = 0

    def die(what: str, done: int, total: int) -> None:
        nonlocal seen
        seen += what == "evaluating"
        if done == last_step or seen == evaluations:
            raise Killed

    with pytest.raises(Killed):
        Session(recipe, die).go()
    again = Session(recipe).go()
    assert again.matrix == learned.run.matrix
    assert _differing(_kept(again), _kept(learned.run)) == []


@pytest.mark.parametrize("part", WITHOUT_WEIGHT, ids=lambda p: "-".join(str(v) for v in p.values()))
@pytest.mark.parametrize("clip", [1.0, 0.05])
def test_a_term_of_weight_zero_changes_no_bit(part: dict[str, Any], clip: float, learn: Learn) -> None:
    plain = learn(method=[{"use": "finetune"}], train__clip=clip)
    other = learn(method=[part], train__clip=clip)
    assert _differing(other.session.model.state_dict(), plain.session.model.state_dict()) == []
    assert other.run.matrix == plain.run.matrix


def test_an_empty_chain_is_plain_fine_tuning(learn: Learn) -> None:
    plain, empty = learn(method=["finetune"]), learn(method=[])
    assert _differing(empty.session.model.state_dict(), plain.session.model.state_dict()) == []


def test_hooks_take_what_the_abstract_ones_take(module: ModuleType) -> None:
    for hook in HOOKS:
        ours, theirs = getattr(module.Method, hook), getattr(AbstractMethod, hook)
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


def test_a_teacher_keeps_the_old_head_where_every_task_draws_a_new_one(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(tiny(shared, tmp_path, method=["lwf"], heads__audio__init="fresh"))
    begin, seen = session.method.begin_task, []

    def watched(model: Model, task: Task) -> None:
        begin(model, task)
        if task.index > 1:
            teacher, kept = session.method.methods[0].teacher, model.stored[task.index - 2]
            seen.append(_differing(teacher.heads.state_dict(), kept.state_dict()))

    monkeypatch.setattr(session.method, "begin_task", watched)
    session.go()
    assert seen == [[], []]
