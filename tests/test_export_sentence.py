"""A run for sentence-transformers: by its own modules where they can be it, else through polymnia's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from command import command
from export_runs import transformers_run
from PIL import Image
from safetensors.torch import load_file, save_file
from small_run import small_root, small_run
from tiny import tiny

import polymnia as pm
from polymnia.export import sentence
from polymnia.export.sentence import export_sentence
from polymnia.runs.life import Session
from polymnia.types import UserError

pytest.importorskip("sentence_transformers.base", reason="sentence-transformers 6 is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of its own imports

TEXTS = ["rain on a roof", "a dog", "a long walk in the wood " * 30, "?"]
ALONE = """
import json, sys
from sentence_transformers import SentenceTransformer
found = SentenceTransformer(sys.argv[1], device="cpu").encode(sys.argv[2:]).tolist()
print(json.dumps([found, "polymnia" in sys.modules]))
"""


def opened(folder: Path, **words: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True, **words)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentence") / "out"
    export_sentence(small_run(), folder)
    return folder


def test_minilm_under_a_head_of_two_layers_loads_where_no_polymnia_is(shared: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"towers__text": {"use": "sentence", "max_tokens": 24}, "train__steps": 1, "examples": 1}
    heads = {"audio": {"kind": "mlp", "hidden": 16}, "text": {"kind": "mlp", "hidden": 12}}
    recipe = tiny(shared, tmp_path / "runs", heads=heads, **changes)
    run = Session(recipe.model_copy(update={"tasks": recipe.tasks[1:2]})).go().folder
    said = export_sentence(run, tmp_path / "out")
    assert "by sentence-transformers alone" in said[0]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path / "out"), *TEXTS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found, imported = json.loads(done.stdout)
    assert not imported
    assert np.abs(found - pm.load(run).encode_text(TEXTS)).max() < 1e-5
    modules = [m["type"].rpartition(".")[2] for m in json.loads((tmp_path / "out" / "modules.json").read_text())]
    assert modules == ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
    assert json.loads((tmp_path / "out" / "polymnia.json").read_text())["signature"] == pm.load(run).signature


def test_sounds_pictures_and_texts_of_any_run_are_the_encoders(whole: Path, tmp_path: Path) -> None:
    model, e = opened(whole, trust_remote_code=True), pm.load(small_run())
    assert model.modalities == ["audio", "image", "text"] and model.get_embedding_dimension() == 16
    assert np.abs(model.encode(TEXTS) - e.encode_text(TEXTS)).max() < 1e-6
    wave = np.float32(np.random.default_rng(0).uniform(-0.5, 0.5, 9000))
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    wanted = e.encode_audio([wave], 16000)
    for given in (str(tmp_path / "a.wav"), {"array": wave, "sampling_rate": 16000}, wave, torch.from_numpy(wave)):
        assert np.abs(model.encode([given]) - wanted).max() < 1e-6
    other = {"array": wave, "sampling_rate": 8000}
    assert np.abs(model.encode([other]) - e.encode_audio([wave], 8000)).max() < 1e-6
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    for picture in (str(tmp_path / "a.png"), Image.fromarray(array), array):
        assert np.abs(model.encode([picture]) - e.encode_image([Image.fromarray(array)])).max() < 1e-6
    assert float(model.similarity(model.encode(TEXTS[:1]), model.encode(TEXTS[:1]))) == pytest.approx(1, abs=1e-5)


def test_prompts_stand_in_front_of_texts_and_what_it_cannot_take_is_said(whole: Path) -> None:
    model, e = opened(whole, trust_remote_code=True), pm.load(small_run())
    found = model.encode(["rain"], prompt="the sound of ")
    assert np.abs(found - e.encode_text(["the sound of rain"])).max() < 1e-6
    with pytest.raises(ValueError, match="video"):
        model.encode([{"video": np.zeros((2, 3, 8, 8), dtype=np.uint8)}])
    with pytest.raises(UserError, match=r"uint8 \(height, width, 3\), not float64"):
        model.encode([np.zeros((8, 8, 3))])


def test_it_is_saved_again_as_it_is_but_not_after_training(whole: Path, tmp_path: Path) -> None:
    model = opened(whole, trust_remote_code=True)
    model.save_pretrained(str(tmp_path / "again"), create_model_card=False)
    again = opened(tmp_path / "again", trust_remote_code=True)
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
    with torch.no_grad():
        next(again.parameters()).add_(1)
    with pytest.raises(UserError, match="was changed since it was loaded"):
        again.save_pretrained(str(tmp_path / "third"), create_model_card=False)


def test_without_trust_nothing_of_the_folder_is_imported(whole: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        opened(whole)


def test_the_folder_says_whose_it_is_and_no_path_of_the_machine(whole: Path) -> None:
    said = json.loads((whole / "polymnia.json").read_text())
    assert said["signature"] == pm.load(small_run()).signature and said["layout"] == "whole"
    assert "trust_remote_code=True" in (whole / "README.md").read_text()
    for path in (p for p in whole.rglob("*") if p.is_file()):
        assert str(small_root()).encode() not in path.read_bytes()


def test_runs_that_have_no_plain_layout_are_told_why(tmp_path: Path) -> None:
    for run, why in (
        (small_run(), "its text tower is tiny_text, not sentence"),
        (transformers_run("clip"), "its text tower is clip_text"),
    ):
        with pytest.raises(UserError, match=f"has no plain layout: {why}"):
            export_sentence(run, tmp_path / "out", layout="plain")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layout", "file", "name", "message"),
    [
        ("plain", "2_Dense/model.safetensors", "linear.weight", "text vectors of the export differ from the run's by"),
        ("whole", "0_Media/model.safetensors", "model.heads.text.0.weight", "not those that were exported"),
    ],
)
def test_a_fault_in_what_was_written_is_found_before_the_folder_is_there(
    layout: Any, file: str, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = sentence.write

    def faulty(encoder: Any, run: Path, folder: Path, chosen: Any) -> None:
        write(encoder, run, folder, chosen)
        state = load_file(folder / file)
        save_file({**state, name: state[name] * 1.01 + 0.01}, folder / file)

    monkeypatch.setattr(sentence, "write", faulty)
    with pytest.raises(UserError, match=message):
        export_sentence(transformers_run("ast"), tmp_path / "out", layout=layout)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_it_and_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = command("export", "sentence-transformers", transformers_run("ast"), tmp_path / "out", "--whole")
    assert said.code == 0 and "all modalities" in said.out
    again = command("export", "sentence-transformers", transformers_run("ast"), tmp_path / "out")
    assert "already holds something" in again.error
    monkeypatch.setitem(sys.modules, "sentence_transformers.base", None)
    said = command("export", "sentence-transformers", small_run(), tmp_path / "other")
    assert "pip install 'sentence-transformers>=6'" in said.error
