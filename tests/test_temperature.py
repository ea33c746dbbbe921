"""The temperature that a recipe asks for: where logit scales begin, what the loss then is, and that it is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import DIM, PAIR, LinearTower, batch
from tiny import tiny, tiny_recipe

import polymnia as pm
from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup, embed_batch
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.models.heads import HeadConfig
from polymnia.models.model import MAX_SCALE, Model
from polymnia.recipe import validate
from polymnia.runs import assemble
from polymnia.types import UserError

HEADS = dict.fromkeys(PAIR, HeadConfig(kind="linear"))


def cross_entropy(logits: np.ndarray) -> float:
    """Of rows whose right answer stands on the diagonal."""
    return float(np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits)))


@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.5])
def test_the_first_loss_is_that_of_similarities_divided_by_the_temperature(temperature: float) -> None:
    torch.manual_seed(0)
    towers = {m: LinearTower(m) for m in PAIR}
    model = Model(towers, HEADS, DIM, frozenset(PAIR)).double()
    model.start_at(temperature)
    objective, rows = Objective(ObjectiveConfig(temperature=temperature), (PAIR,)), batch(seed=1)
    out = embed_batch(Chain([], Setup(model, objective, 1, 0)), model, rows)
    term = objective(model, rows, out)["contrast/audio-text"]
    a, t = (out.embeddings[m].detach().numpy() for m in PAIR)
    logits = a @ t.T / temperature
    assert float(term.detach()) == pytest.approx((cross_entropy(logits) + cross_entropy(logits.T)) / 2, rel=1e-5)


def test_the_scale_of_clip_can_still_be_trained_downwards() -> None:
    model = Model({m: LinearTower(m) for m in PAIR}, HEADS, DIM, frozenset(PAIR))
    model.start_at(0.01)
    assert float(model.scale(PAIR).detach()) == pytest.approx(MAX_SCALE)
    model.scale(PAIR).backward()
    assert model.log_scale["audio-text"].grad > 50  # beyond the clamp it would be zero


@pytest.mark.parametrize("temperature", [0.0, -1.0, 0.005])
def test_a_temperature_below_the_one_that_the_scale_is_held_at_is_refused(temperature: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"objective\.temperature: .*greater than or equal to 0\.01"):
        tiny(tmp_path, tmp_path, objective={"temperature": temperature})


def test_every_pair_begins_at_the_temperature_of_the_recipe(tmp_path: Path) -> None:
    recipe = tiny(tmp_path, tmp_path, objective={"temperature": 0.02})
    model, _, _ = assemble.build_learner(recipe, assemble.build_towers(recipe), (PAIR,), ("one",))
    assert [float(s.detach().exp()) for s in model.log_scale.values()] == pytest.approx([50.0] * 3)


def test_only_another_temperature_than_the_usual_one_changes_the_hash_of_a_recipe(tmp_path: Path) -> None:
    usual, said = tiny(tmp_path, tmp_path), tiny(tmp_path, tmp_path, objective={"temperature": 0.07})
    other = tiny(tmp_path, tmp_path, objective={"temperature": 0.01})
    assert said.hash == usual.hash != other.hash
    assert "temperature" not in usual.model_dump()["objective"]
    assert other.model_dump()["objective"]["temperature"] == 0.01
    for recipe in (usual, other):
        assert validate(recipe.model_dump(mode="json")) == recipe


def test_an_encoder_that_is_opened_again_has_the_scales_of_the_run(tmp_path: Path) -> None:
    raw = tiny_recipe(tmp_path, tmp_path / "runs", objective={"temperature": 0.02}, train__lr=1e-4)
    folder = pm.run(raw).folder
    scales = pm.load(folder).model.log_scale
    assert [float(s.detach().exp()) for s in scales.values()] == pytest.approx([50.0] * 3, rel=1e-2)
