"""What a run of a method that prompts leaves: how many numbers it trains, stores and holds, and a map of tasks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny import TASKS, tiny
from torch import Tensor, nn

from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup, embed_plainly
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.models.towers.cached import Config as CachedConfig
from polymnia.models.towers.cached import Tower as Cached
from polymnia.recipe import Recipe
from polymnia.runs import parameters
from polymnia.runs.life import Session
from polymnia.types import VectorSpec

SIMILAR = [[1.0, 0.5, 0.25], [0.5, 1.0, 0.75], [0.25, 0.75, 1.0]]
LPI = {"use": "lpi", "length": 3, "rank": 2, "similarities": SIMILAR, "select": {"centres": 2}}
WIDTH, OUT = {"audio": 16, "image": 16, "text": 16}, {"audio": 20, "image": 16, "text": 16}


def prompted(shared: Path, out: Path, *method: Any, **changes: Any) -> Recipe:
    """Three tiny tasks of transformers that may be prompted; texts are in the second alone."""
    towers = {f"towers__{m}__layers": 2 for m in WIDTH} | {"towers__image__arch": "vit", "towers__image__width": 16}
    towers |= {"towers__image__frozen": False, "towers__text__frozen": False}
    return tiny(shared, out, method=list(method), examples=0, train__steps=2, **towers | changes)


@pytest.fixture(scope="module")
def lpi(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    session = Session(prompted(shared, tmp_path_factory.mktemp("lpi"), LPI))
    session.go()
    return session


def meta(session: Session) -> dict[str, int]:
    return json.loads((session.folder / "meta.json").read_text())["parameters"]


def weights(session: Session) -> dict[str, np.ndarray]:
    return load_file(session.folder / "encoders" / "after-3.safetensors")


def far(rows: list[np.ndarray]) -> list[list[float]]:
    unit = [r.astype(np.float64).ravel() / np.linalg.norm(r.astype(np.float64)) for r in rows]
    return [[1 - float(a @ b) for b in unit] for a in unit]


def test_the_map_of_names_is_that_of_the_given_similarities(lpi: Session):
    found = json.loads((lpi.folder / "taskmap.json").read_text())
    assert found["tasks"] == [name for name, _ in TASKS]
    assert set(found["maps"]) == {"semantic", *(f"{what}/{m}" for what in ("prompts", "data") for m in WIDTH)}
    assert found["maps"]["semantic"] == [[1 - v for v in row] for row in SIMILAR]


def test_the_map_of_prompts_is_that_of_the_tensors_made_of_their_factors(lpi: Session):
    maps, state = json.loads((lpi.folder / "taskmap.json").read_text())["maps"], weights(lpi)
    prompts = []
    for task in range(3):
        a, b, c = (
            state[f"method.bank.tasks.{task}.{part}"] for part in ("layers.common", "tokens.audio", "channels.audio")
        )
        prompts.append(np.einsum("lk,pk,dk->lpd", a, b, c))
    assert np.allclose(maps["prompts/audio"], far(prompts), atol=2e-6)


def test_the_map_of_data_is_that_of_the_mean_centres_and_null_without_the_modality(lpi: Session):
    maps, state = json.loads((lpi.folder / "taskmap.json").read_text())["maps"], weights(lpi)
    assert np.allclose(maps["data/audio"], far(list(state["method.routers.audio.centres"].mean(1))), atol=2e-6)
    texts = maps["data/text"]  # only the second task has any
    assert texts[0] == texts[2] == [None] * 3 and texts[1] == [None, pytest.approx(0, abs=1e-6), None]


def test_the_numbers_that_lpi_stores_are_those_of_its_factors_maps_norms_and_centres(lpi: Session):
    layers, tasks, rank, length = 2, 3, 2, 3
    prompts = rank * (layers + len(WIDTH) * length + sum(WIDTH.values()))
    # every tower hears one other: rank 4 maps over its blocks, from its partner's width and a bias to its own
    maps = len(WIDTH) * (4 * (layers + 16 + 1 + 16) + 2 * 16)
    centres = 2 * sum(OUT.values())
    assert meta(lpi)["stored"] == tasks * (prompts + maps + centres) + tasks * tasks
    assert meta(lpi)["trainable"] < meta(lpi)["stored"]


def test_a_run_of_no_steps_trains_nothing(shared: Path, tmp_path: Path):
    assert parameters.sizes(Session(tiny(shared, tmp_path, train__steps=0)))["trainable"] == 0


def test_everything_is_counted_once_and_teachers_apart(shared: Path, tmp_path: Path, lpi: Session):
    plain, taught = (Session(prompted(shared, tmp_path, *m)) for m in ((), ("vpt", "lwf")))
    towers_and_heads = parameters.sizes(plain)["total"]
    assert set(parameters.sizes(plain)) == {"trainable", "total"}
    assert meta(lpi)["total"] == towers_and_heads + meta(lpi)["stored"]
    found = parameters.sizes(taught)
    tokens = 3 * 2 * 5 * 16  # towers, blocks, tokens, width
    heads = sum(p.numel() for p in taught.model.heads.parameters())
    assert found["stored"] == tokens and found["total"] == towers_and_heads + tokens
    assert found["teacher"] == tokens + heads  # a copy of what trains
    assert found["trainable"] == tokens + heads + 3  # and a temperature a pair


class Whole(AbstractTower):
    """A frozen front of 12 numbers, and a rest of 4."""

    def __init__(self):
        super().__init__()
        self.modality, self.spec, self.out_dim = "audio", VectorSpec(4), 2
        self.front, self.rest = nn.Linear(4, 3, bias=False), nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor, prompt: Any = None) -> Tensor:
        raise NotImplementedError


class Rest(Whole):
    def __init__(self, whole: Whole):
        super().__init__()
        self.rest = whole.rest
        del self.front


def test_fronts_and_cached_towers_count_though_the_model_does_not_hold_them():
    whole, picture = Whole(), Whole()
    picture.modality = "image"
    shown = {"audio": Rest(whole), "image": Cached(CachedConfig(modality="image", dim=2))}
    model = Model(shown, {}, 2, frozenset({"audio"}), 1)
    method = Chain([], Setup(model, lambda *_: {}, 1, 0, (), embed_plainly))
    session: Any = SimpleNamespace(model=model, method=method, towers={"audio": whole, "image": picture}, trainable=4)
    heads = sum(p.numel() for p in (*model.heads.parameters(), *model.stored.parameters()))
    assert parameters.sizes(session) == {"trainable": 4, "total": 2 * 16 + heads + 1}


def test_methods_that_keep_nothing_of_single_tasks_leave_no_map(shared: Path, tmp_path: Path):
    for method in ([], ["vpt"]):
        folder = Session(prompted(shared, tmp_path, *method)).go().folder
        assert (folder / "meta.json").exists() and not (folder / "taskmap.json").exists()


def test_names_and_tokens_are_compared_for_a_method_that_asks_nobody_about_them(shared: Path, tmp_path: Path):
    session = Session(prompted(shared, tmp_path, {"use": "sprompts", "select": {"centres": 2}}))
    session.go()
    maps = json.loads((session.folder / "taskmap.json").read_text())["maps"]
    tower = session.towers["text"].eval()
    with torch.no_grad():
        names = tower(tower.prepare([name for name, _ in TASKS])).numpy()
    assert np.allclose(maps["semantic"], far(list(names)), atol=2e-6)
    state = weights(session)
    tokens = [state[f"method.bank.tasks.{task}.image.blocks.0"] for task in (0, 2)]  # the second has no pictures
    found = maps["prompts/image"]
    assert found[0][2] == pytest.approx(far(tokens)[0][1], abs=2e-6) and found[1] == [None] * 3
    assert {"data/audio", "data/image", "data/text"} < set(maps)
    assert all(math.isfinite(v) for row in maps["semantic"] for v in row)
