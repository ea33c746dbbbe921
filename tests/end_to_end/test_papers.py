"""Every recipe of the audio paper on miniature trees in the official layouts: its dry run, its training, its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoints import clip
from command import command
from paper_world import World

from polymnia.models.towers.panns import Config, Tower

FOLDER = Path(__file__).parents[2] / "recipes/papers/audio"
RECIPES = sorted(p.stem for p in FOLDER.glob("*.yaml") if p.stem not in ("base", "mini", "published"))
CHECKPOINT = "weights/MobileNetV1_mAP=0.389.pth"
PROBES = {f"{n} probe" for n in ("ESC-50", "FSD50K", "Gunshot", "US8K", "AudioSet", "GTZAN M/S", "CREMA-D")}
TEXT, VIDEO = {"ESC-50", "US8K"}, {"AVE"}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set, an encoder in the published layout (as PANNs' trainer leaves it), and a CLIP."""
    root = World(tmp_path_factory.mktemp("sets")).everything().root
    clip(root / "weights/clip")
    torch.manual_seed(0)
    tower = Tower(Config(arch="mobilenetv1", specaug=False))
    for layer in tower.net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean of what it sees: without it every clip would have one embedding
    with torch.no_grad():
        for _ in range(3):
            tower(0.1 * torch.randn(8, 16000))
    state = tower.net.state_dict()
    torch.save({"iteration": 1, "model": {f"module.{k}": v for k, v in state.items()}}, root / CHECKPOINT)
    return root


@pytest.fixture
def small(world: Path, tmp_path: Path) -> Path:
    """A file of overrides that makes a recipe of the paper small, without touching what it is made of."""
    model = str(world / "weights/clip")
    keys = {
        "data": str(world),
        "out": str(tmp_path / "runs"),
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
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(keys))
    return path


def learned(name: str) -> list[str]:
    starts = {"a-av-at": ["AV", "AT"], "a-at": ["AT"], "mt-wc": ["AVT"], "panns": []}
    return next(tasks for start, tasks in starts.items() if name.startswith(start))


def watched(tasks: list[str]) -> set[str]:
    """What the paper's tables need of a row."""
    more = {"AT": TEXT, "AV": VIDEO, "AVT": TEXT | VIDEO | {"VGGSound", "Clotho"}}
    return PROBES.union(*(more[t] for t in tasks))


def listing(*folders: Path) -> list[str]:
    return sorted(str(p) for folder in folders for p in folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_row_of_the_paper_passes_its_dry_run_trains_and_stands_in_the_tables(
    name: str, world: Path, small: Path, tmp_path: Path
) -> None:
    recipe, before = FOLDER / f"{name}.yaml", listing(world, tmp_path)
    rehearsal = command("run", recipe, "--with", small, "--dry-run")
    assert rehearsal.code == 0, rehearsal
    assert listing(world, tmp_path) == before  # it touches nothing
    trained = command("run", recipe, "--with", small)
    assert trained.code == 0, trained.err
    runs = [path.parent for path in (tmp_path / "runs").glob("*/meta.json")]
    assert len(runs) == (2 if name.endswith("wav2clip") else 1)
    for run in runs:
        as_the_paper_does(run, learned(name))
    table = command("table", FOLDER, *runs, "--out", tmp_path / "table")
    assert table.code == 0, table.err
    cells = json.loads((tmp_path / "table/table.json").read_text())
    assert "ours" in json.dumps(cells)
    scored = command("eval", runs[0], "--suite", "audio", "--data", world, "--only", "US8K probe")
    assert scored.code == 0, scored.err


def as_the_paper_does(run: Path, tasks: list[str]) -> None:
    """The tasks of a row, trained in order, and every number that the tables need of it."""
    matrix, meta = (json.loads((run / f"{n}.json").read_text()) for n in ("matrix", "meta"))
    assert matrix["tasks"] == tasks and matrix["rows"] == list(range(len(tasks) + 1))
    assert set(matrix["watched"]) == watched(tasks)
    for of, metrics in matrix["values"]["latest"].items():
        assert metrics and all(column[-1] is not None for column in metrics.values()), of
    lines: list[dict[str, Any]] = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["task"] for line in lines if line["kind"] == "step")) == tasks
    assert meta["finished"]
    if "AT" in tasks:  # Clotho alone is tested, each caption a query, each clip a hit by any of its five
        assert matrix["counts"]["AT"] == "4 of 4"
        scores = matrix["values"]["latest"]["AT"]
        assert (scores["text>audio/N"][-1], scores["audio>text/N"][-1]) == (20, 4)
        assert scores["audio>text/R@10"][-1] > 0  # of embeddings that are all alike it would be nothing
