"""A newcomer's method, data set and tower: one file each, outside the package, named by dotted names in a recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tiny import tiny_recipe

METHOD = '''"""L2-SP: all that trains is held near where the task began."""

import copy

import torch
from torch import nn

from polymnia.continual.method import AbstractMethod, MethodConfig, Setup
from polymnia.models.model import Model
from polymnia.types import Batch, Outputs, Task, Terms


class Config(MethodConfig):
    """``weight`` of the squared distance."""

    weight: float = 0.1


class Method(AbstractMethod):
    """Keeps one copy of the towers."""

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.weight = cfg.weight
        self.start = copy.deepcopy(setup.model.towers).requires_grad_(False)

    def begin_task(self, model: Model, task: Task) -> None:
        self.start.load_state_dict(model.towers.state_dict())

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        pairs = zip(model.towers.parameters(), self.start.parameters(), strict=True)
        distance = sum((p - q).square().sum() for p, q in pairs)
        return {"distance": self.weight * distance}
'''

DATASET = '''"""Beeps: a folder of wav files that are called after what they are."""

from polymnia.data.items import DatasetConfig, check, require
from polymnia.types import AudioFile, Captions, Item


class Config(DatasetConfig):
    """``root`` holds <pitch>_<split>_<number>.wav."""


def items(cfg: Config) -> list[Item]:
    found = []
    for path in sorted(require(cfg.root, "beeps").glob("*.wav")):
        pitch, split, _ = path.stem.split("_")
        sources = {"audio": AudioFile(path), "text": Captions((f"a {pitch} beep",))}
        found.append(Item(path.stem, sources, group=pitch, topic="beeps", split=split))
    return check(found, "beeps")
'''

TOWER = '''"""Loudness: the spectrum of the first samples, and one linear layer."""

import torch
from torch import nn

from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.types import AudioSpec


class Config(TowerConfig):
    out_dim: int = 12


class Tower(AbstractTower):
    modality = "audio"

    def __init__(self, cfg: Config):
        super().__init__()
        self.spec, self.out_dim = AudioSpec(16000, 0.2), cfg.out_dim
        self.layer = nn.Linear(129, cfg.out_dim)

    def forward(self, x, prompt=None):
        self.no_prompt(prompt)
        return self.layer(torch.fft.rfft(x[:, :256]).abs())
'''


def run(folder: Path, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """The real command line, in the newcomer's folder or with it on PYTHONPATH."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    if path:
        environment["PYTHONPATH"] = path
    command = [str(Path(sys.executable).with_name("polymnia")), "run", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def recipe(shared: Path, tmp_path: Path) -> Path:
    """A lab of three files, beeps on disk, and a recipe that names them."""
    (tmp_path / "mylab").mkdir()
    for name, code in (("l2sp", METHOD), ("beeps", DATASET), ("loudness", TOWER)):
        (tmp_path / "mylab" / f"{name}.py").write_text(code)
    rng = np.random.default_rng(0)
    (shared / "data" / "beeps").mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        for pitch, rate in (("low", 200), ("middle", 500), ("high", 1500), ("shrill", 4000)):
            for n in range(2):
                wave = 0.3 * np.sin(2 * np.pi * rate * np.arange(4000) / 16000 + rng.uniform(0, 6))
                soundfile.write(shared / "data" / "beeps" / f"{pitch}_{split}_{n}.wav", wave, 16000)
    raw = tiny_recipe(shared, tmp_path / "runs")
    raw["towers"]["audio"] = {"use": "mylab.loudness"}
    raw["method"] = [{"use": "mylab.l2sp", "weight": 0.5}, {"use": "er", "rows": 2}]
    beeps = {"name": "beeps", "pairs": [["audio", "text"]], "data": {"use": "mylab.beeps", "root": "beeps"}}
    raw["tasks"] = [raw["tasks"][0], beeps]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize("by_path", [False, True], ids=["in the folder", "on PYTHONPATH"])
def test_one_file_each_is_enough_for_a_method_a_data_set_and_a_tower(by_path: bool, recipe: Path) -> None:
    lab = recipe.parent
    if by_path:
        (lab / "elsewhere").mkdir()
        done = run(lab / "elsewhere", str(recipe), path=str(lab))
    else:
        done = run(lab, "recipe.yaml")
    assert done.returncode == 0, done.stderr
    (folder,) = (lab / "runs").glob("tiny-s0-*")
    matrix = json.loads((folder / "matrix.json").read_text())
    assert matrix["tasks"] == ["nature", "beeps"] and matrix["rows"] == [0, 1, 2]
    assert all(0 <= v <= 100 for row in matrix["score"]["latest"] for v in row)
    steps = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    terms = [s["terms"] for s in steps if s["kind"] == "step"]
    assert len(terms) == 8 and all("l2sp/distance" in t for t in terms)
    assert terms[1]["l2sp/distance"] > 0 == terms[4]["l2sp/distance"]  # at the start of a task there is no distance
    assert (lab / "runs" / "tiny-report" / "report.html").exists()
    state = torch.load(sorted((folder / "checkpoints").iterdir())[-1], weights_only=True)
    assert "start.audio.layer.weight" in {k.removeprefix("methods.0.") for k in state["method"]}


def test_a_wrong_key_of_a_part_of_ones_own_is_named_with_the_nearest_one(recipe: Path) -> None:
    done = run(recipe.parent, "recipe.yaml", "method=[{use: mylab.l2sp, wieght: 1}]")
    assert done.returncode == 2
    assert "mylab.l2sp" in done.stderr and "did you mean 'weight'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_that_is_not_there_is_named_with_the_way_out(recipe: Path) -> None:
    done = run(Path("/"), str(recipe))
    assert done.returncode == 2
    assert "cannot import 'mylab.loudness'" in done.stderr and "PYTHONPATH" in done.stderr
