"""`polymnia eval hear`: a run, and any module with HEAR's common API."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest
from command import command
from hear_trees import RATE, events, multiclass
from small_run import small_root, small_run

from polymnia.export.named import named

MODULE = """
    import torch
    from hear_trees import Analytic

    class Model(torch.nn.Module):
        sample_rate = 16000

    def load_model(model_file_path="", gain=1.0):
        return Model()

    def get_scene_embeddings(audio, model):
        return Analytic().get_scene_embeddings(audio)

    def get_timestamp_embeddings(audio, model):
        return Analytic().get_timestamp_embeddings(audio)
"""
SHORT = {"task_specific_param_grid": {"max_epochs": [40], "lr": [0.1], "check_val_every_n_epoch": [4]}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with tasks and a module in it."""
    multiclass(tmp_path / "tasks", evaluation_params=SHORT)
    shorter = {"task_specific_param_grid": {"max_epochs": [4], "lr": [0.1]}}
    events(tmp_path / "tasks", evaluation_params=shorter)
    (tmp_path / f"knowing_{tmp_path.name}.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_module_is_scored_by_its_name(here: Path) -> None:
    module = f"knowing_{here.name}"
    code, out, err = command(
        "eval", "hear", module, "tasks", "--probe", "linear", "--task", "esc50", "--device", "cpu"
    )
    assert code == 0, err
    assert "| ESC-50 | top1_acc | 100.00 | – | 12 |" in out
    assert "full16: 100.00 over 1 of 16 (ESC-50)" in out
    folder = here / f"hear-{module}"
    assert f"results: {folder.name}" in out
    result = json.loads((folder / "esc50-v2.0.0-full.json").read_text())
    assert (result["score"], result["probe"], result["sample_rate"]) == (100.0, "linear", RATE)
    assert json.loads((folder / "summary.json").read_text())["table3"] == {"mean": 100.0, "over": ["ESC-50"]}


def test_a_run_is_scored_on_scenes_and_events_with_its_tower(here: Path) -> None:
    words = ["--out", "out", "--probe", "linear", "--data", str(small_root() / "data"), "--full16", "ESC-50"]
    code, out, err = command("eval", "hear", str(small_run()), "tasks", *words)
    assert code == 0, err
    results = {p.name: json.loads(p.read_text()) for p in Path("out").glob("*-full.json")}
    assert set(results) == {"esc50-v2.0.0-full.json", "dcase2016_task2-hear2021-full.json"}
    assert all(0 <= r["score"] <= 100 for r in results.values())
    assert "over 1 of 1 (ESC-50)" in out
    assert not [p for p in Path("out").rglob("*") if p.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such_module", "tasks"], "cannot import 'no_such_module'"),
        (["json", "tasks"], "json has no load_model"),
        (["{module}", "tasks", "--options", "{"], "options must be JSON"),
        (["{module}", "tasks", "--options", "[]"], "options must be a JSON object"),
        (["{module}", "tasks", "--options", '{"loud": 1}'], "refuses these options"),
        (["{module}", "tasks", "--after", "1"], "is no run folder"),
        (["{module}", "tasks", "--task", "gone"], "no task 'gone'"),
        (["{module}", "."], "holds no HEAR tasks; .* has some|tasks has some"),
        (["{run}", "tasks", "--model", "x"], "is a run"),
        (["{run}", "tasks", "--after", "9"], "no encoder after task 9"),
    ],
)
def test_what_cannot_be_scored_is_one_line(here: Path, words: list[str], message: str) -> None:
    filled = [w.replace("{module}", f"knowing_{here.name}").replace("{run}", str(small_run())) for w in words]
    assert re.search(message, command("eval", "hear", *filled).error)


def test_other_weights_of_a_run_are_another_encoder() -> None:
    data = small_root() / "data"
    signatures = {named(str(small_run()), after, data).signature for after in (0, 1, 2)}
    assert len(signatures) == 3
    assert named(str(small_run()), 2, data).signature in signatures
    assert named(str(small_run()), 2, data, timestamps="sliding").signature not in signatures
