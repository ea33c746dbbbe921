"""Every recipe of a paper on miniature trees in the official layouts: dry run, a few steps, evaluation, table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoints import clip
from command import polymnia
from paper_world import World

import polymnia as pm
from polymnia.models.towers.panns import Config, Tower
from polymnia.recipe import plan

FOLDER = Path(__file__).parents[2] / "recipes/papers/audio"
RECIPES = sorted(p.stem for p in FOLDER.glob("*.yaml") if p.stem not in ("base", "mini", "published"))
CHECKPOINT = "weights/MobileNetV1_mAP=0.389.pth"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set, an encoder in the published layout (as its trainer leaves it), and a CLIP."""
    root = World(tmp_path_factory.mktemp("sets")).everything().root
    clip(root / "weights/clip")
    torch.manual_seed(0)
    state = Tower(Config(arch="mobilenetv1")).net.state_dict()
    torch.save({"iteration": 1, "model": {f"module.{k}": v for k, v in state.items()}}, root / CHECKPOINT)
    return root


def small(world: Path, out: Path) -> dict[str, Any]:
    """Overrides that make a recipe of the paper small, without touching what it is made of."""
    model = str(world / "weights/clip")
    return {
        "data": str(world),
        "out": str(out / "runs"),
        "cache": str(world.parent / "cache"),
        "dim": 6,
        "seeds": [0],
        "towers.audio.arch": "mobilenetv1",
        "towers.audio.checkpoint": CHECKPOINT,
        "towers.audio.seconds": 0.5,
        "towers.image.model": model,
        "towers.text.model": model,
        "heads.audio.hidden": 8,
        "train.batch": 4,
        "train.epochs": 1,
        "tasks.AV.train.epochs": 1,
        "tasks.AV.data.valid": 3,
        "tasks.AVT.data.valid_share": 0.2,
        "tasks.AVT.data.test_share": 0.4,
    }


@pytest.fixture
def file(world: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small(world, tmp_path)))
    return path


def listing(*folders: Path) -> list[str]:
    return sorted(str(p) for folder in folders for p in folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_the_paper_passes_its_dry_run_and_trains(name: str, world: Path, tmp_path: Path) -> None:
    changes = small(world, tmp_path)
    before = listing(world, tmp_path)
    (planned, *_) = plan(FOLDER / f"{name}.yaml", changes)
    study = pm.study(FOLDER / f"{name}.yaml", changes)
    assert len(study.runs) == (2 if name.endswith("wav2clip") else 1)
    for run in study.runs:
        matrix = run.matrix
        expected = {"av": ["AV", "AT"], "at": ["AT"], "wc": ["AVT"], "panns": []}[key(name)]
        assert matrix["tasks"] == expected
        assert matrix["rows"] == list(range(len(expected) + 1))
        assert set(matrix["watched"]) == watched(name)
        for task, metrics in matrix["values"]["latest"].items():
            assert metrics and all(column[-1] is not None for column in metrics.values()), task
        steps = [line for line in log(run.folder) if line["kind"] == "step"]
        assert bool(steps) == bool(expected) and {line["task"] for line in steps} == set(expected)
    assert before and planned.name == study.runs[0].recipe.name


def key(name: str) -> str:
    for start, what in (("a-av-at", "av"), ("a-at", "at"), ("mt-wc", "wc")):
        if name.startswith(start):
            return what
    return name


def watched(name: str) -> set[str]:
    """What the paper's tables need of a row."""
    probes = {f"{n} probe" for n in ("ESC-50", "FSD50K", "Gunshot", "US8K", "AudioSet", "GTZAN M/S", "CREMA-D")}
    text, video = {"ESC-50", "US8K"}, {"AVE"}
    return probes | {"panns": set(), "at": text, "av": text | video, "wc": text | video | {"VGGSound", "Clotho"}}[key(name)]


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
