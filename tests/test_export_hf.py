"""A run as a folder of the Hugging Face kind: what it gives back, what it imports, what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import command
from export_runs import KINDS, transformers_run
from PIL import Image
from safetensors.torch import load_file, save_file
from small_run import small_recipe, small_root, small_run

import polymnia as pm
from polymnia.export import hf, licences, preprocessing, pretrained
from polymnia.export.hf import export_hf
from polymnia.recipe import validate
from polymnia.runs.intake import pixels
from polymnia.types import UserError

WAVE = np.float32(np.random.default_rng(3).uniform(-0.5, 0.5, 11000))
MODALITIES = {"clap": ("audio", "text"), "clip": ("image", "text"), "ast": ("audio", "text")}
TEXTS = ["a slow low drum", "a bird"]
PICTURE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (30, 40, 3), dtype=np.uint8))
ALONE = """
import json, sys
import numpy as np
from polymnia.export.pretrained import load

encoder = load(sys.argv[1])
wave = np.float32(np.random.default_rng(3).uniform(-0.5, 0.5, 11000))
found = {"audio": encoder.encode_audio([wave], 16000).tolist(), "text": encoder.encode_text(sys.argv[2:]).tolist()}
print(json.dumps([encoder.signature, found, [m for m in sys.modules if m.startswith("polymnia")]]))
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run's export; the run that it came from is gone."""
    folder = tmp_path_factory.mktemp("hf")
    run = shutil.copytree(small_run(), folder / "my-run")
    export_hf(run, folder / "out")
    shutil.rmtree(run)
    return folder / "out"


def fresh(folder: Path) -> tuple[str, dict[str, Any], list[str]]:
    """What another process makes of a folder: signature, vectors, and the modules of ours that it imported."""
    done = subprocess.run([sys.executable, "-c", ALONE, str(folder), *TEXTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_another_process_gets_the_runs_vectors_and_imports_no_training_code(out: Path) -> None:
    signature, found, modules = fresh(out)
    e = pm.load(small_run())
    assert signature == e.signature
    assert np.abs(found["audio"] - e.encode_audio([WAVE], 16000)).max() < 1e-6
    assert np.abs(found["text"] - e.encode_text(TEXTS)).max() < 1e-6
    parts = (
        "train",
        "eval",
        "report",
        "recipe",
        "methods.",
        "data.datasets.",
        "data.loader",
        "index",
        "cli",
        "doctor",
    )
    assert [m for m in modules if m.startswith(tuple(f"polymnia.{p}" for p in parts))] == []
    assert {m for m in modules if m.startswith("polymnia.runs.")} == {"polymnia.runs.encoding", "polymnia.runs.intake"}
    assert "polymnia.models.towers.efficientat" not in modules


def test_pictures_texts_and_sounds_are_those_of_the_run_after_the_task_that_was_asked_for(tmp_path: Path) -> None:
    export_hf(small_run(), tmp_path / "out", task=1)
    e, found = pm.load(small_run(), 1), pretrained.load(tmp_path / "out")
    assert (found.signature, found.task, found.dim, found.settings.name) == (e.signature, 1, 16, "seas")
    assert np.array_equal(found.encode_image([PICTURE]), e.encode_image([PICTURE]))
    assert np.array_equal(found.encode_audio([WAVE], 16000), e.encode_audio([WAVE], 16000))
    last = pm.load(small_run())
    assert not np.allclose(found.encode_audio([WAVE], 16000), last.encode_audio([WAVE], 16000), atol=1e-4)


def test_the_folder_says_what_it_is_and_no_path_of_the_machine(out: Path) -> None:
    names = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "run-recipe.yaml"}
    assert {p.name for p in out.iterdir()} == names
    said = json.loads((out / "config.json").read_text())
    assert said["model_type"] == "polymnia" and said["signature"] == pm.load(small_run()).signature
    eats = json.loads((out / "preprocessor_config.json").read_text())
    assert (eats["audio"]["sample_rate"], eats["image"]["size"], eats["text"]["max_tokens"]) == (16000, 16, 32)
    for path in out.glob("*.*"):
        assert str(small_root()).encode() not in path.read_bytes()


def test_the_card_has_the_matrix_the_counts_and_claims_no_licence_that_nobody_wrote_down(out: Path) -> None:
    card = (out / "README.md").read_text()
    matrix = json.loads((small_run() / "matrix.json").read_text())
    rows = [["(before)", *matrix["score"]["latest"][0]], ["seas", *matrix["score"]["latest"][1]]]
    for name, *scores in rows:
        assert f"| {name} | " + " | ".join(f"{s:.1f}" for s in scores) + " |" in card
    assert "| seas | 12 | 0 | 4 |" in card and "| `soundworld` | trained on | not recorded |" in card
    assert "Licence of the weights: not recorded" in card and "license:" not in card.split("---")[1]
    assert '"use": "lwf"' in card and "synthetic" in card


def test_the_first_code_of_the_card_loads_the_folder(out: Path) -> None:
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    first, calls = code.replace("path/to/this/folder", str(out)).split("encoder.encode_audio", 1)
    assert first.splitlines()[0].startswith("from polymnia.export.pretrained import load  ")
    names: dict[str, Any] = {}
    exec(first, names)
    assert names["encoder"].signature == pm.load(small_run()).signature
    assert "encoder.encode_image" in calls and "encoder.encode_text" in calls


def test_licences_are_those_that_the_readers_state_of_joined_sets_too_and_a_watched_set_trained_nothing() -> None:
    joined = {"use": "join", "root": ".", "left": {"use": "fsdd", "root": "a"}, "right": {"use": "mnist", "root": "b"}}
    raw = small_recipe(small_root())
    raw["tasks"] = [{"name": "digits", "pairs": [["audio", "image"]], "data": joined}]
    raw["watch"] = [{"name": "seen", "data": [{"use": "esc10", "root": "c"}], "eval": ["retrieval"]}]
    assert list(licences.of(validate(raw))) == [
        ("soundworld", "trained on", "not recorded"),
        ("fsdd", "trained on", "CC BY-SA 4.0."),
        ("mnist", "trained on", "CC BY-SA 3.0 as its mirrors state it."),
        ("esc10", "scored only", "CC BY 3.0; the licence of each clip is in its README."),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_itself_opens_the_towers_and_their_code_in_the_card_gives_the_runs_vectors(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = transformers_run(kind), tmp_path / "out"
    said = export_hf(run, out)  # this compares AutoModel and head with the encoder
    opened = {"clap": ["clap", "clap"], "clip": ["image", "text"], "ast": ["audio", "text"]}[kind]
    assert said[1:] == [
        f"{out / where}: the {m} tower, by AutoModel" for where, m in zip(opened, MODALITIES[kind], strict=True)
    ]
    e, found = pm.load(run), pretrained.load(out)
    assert np.abs(found.encode_audio([WAVE], 16000) - e.encode_audio([WAVE], 16000)).max() < 1e-6
    assert np.abs(found.encode_text(TEXTS) - e.encode_text(TEXTS)).max() < 1e-6
    card = (out / "README.md").read_text()
    (code,) = [c.split("```")[0] for c in card.split("```python\n")[2:] if "AutoTokenizer" in c]
    monkeypatch.chdir(out)
    names: dict[str, Any] = {}
    with torch.no_grad():
        exec(code, names)
    assert np.abs(names["vectors"].numpy() - e.encode_text(["rain on a roof"])).max() < 1e-5


@pytest.mark.parametrize("kind", ["clap", "ast"])
def test_transformers_own_front_ends_read_their_settings_and_give_what_the_towers_see(
    kind: str, tmp_path: Path
) -> None:
    from transformers import AutoFeatureExtractor

    tower: Any = pm.load(transformers_run(kind)).model.tower("audio")
    preprocessing.write(tower, tmp_path)
    wave = WAVE[: tower.window // 2]
    found = AutoFeatureExtractor.from_pretrained(tmp_path)(wave, sampling_rate=tower.spec.sample_rate)
    seen = np.asarray(found["input_features" if kind == "clap" else "input_values"])
    assert np.abs(seen - tower.picture(torch.from_numpy(wave)[None]).numpy()).max() < 1e-4


def test_transformers_own_processor_of_pictures_does_too(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    tower: Any = pm.load(transformers_run("clip")).model.tower("image")
    preprocessing.write(tower, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model"}')
    found = AutoImageProcessor.from_pretrained(tmp_path)(PICTURE, return_tensors="np")["pixel_values"][0]
    ours = torch.from_numpy(pixels(PICTURE, tower.spec))
    assert np.abs(found - ((ours / 255 - tower.mean) / tower.std).numpy()).max() < 1e-5


def test_a_prompted_tower_is_no_automodel_and_the_card_says_so(tmp_path: Path) -> None:
    run = transformers_run("clip+vpt")
    assert len(export_hf(run, tmp_path / "out")) == 1
    names = {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()}
    assert names == {"unprompted"}
    assert "are not the vectors of this encoder" in (tmp_path / "out" / "README.md").read_text()
    signature, found, modules = fresh(tmp_path / "out")
    assert signature == pm.load(run).signature
    assert np.abs(found["text"] - pm.load(run).encode_text(TEXTS)).max() < 1e-6
    assert [m for m in modules if m.startswith("polymnia.methods.")] == ["polymnia.methods.vpt"]


def spoil(path: Path, name: str | None = None) -> None:
    """One number of one tensor of a file is another."""
    state = load_file(path)
    name = name or next(k for k in sorted(state) if state[k].is_floating_point() and state[k].numel() > 1)
    state[name] = state[name].clone()
    state[name].view(-1)[0] += 0.5
    save_file(state, path)


@pytest.mark.parametrize(
    ("kind", "file", "message"),
    [
        ("clap", "model.safetensors", "not those that were exported"),
        ("clap", "clap/model.safetensors", "not those that were exported"),
        ("clip", "text/head-text.safetensors", "the text vectors of the export differ from the run's by"),
    ],
)
def test_a_fault_in_any_file_of_weights_is_found_before_the_folder_is_there(
    kind: str, file: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = hf.write

    def faulty(encoder: Any, run: Path, folder: Path) -> Any:
        written = write(encoder, run, folder)
        spoil(folder / file)
        return written

    monkeypatch.setattr(hf, "write", faulty)
    with pytest.raises(UserError, match=message):
        export_hf(transformers_run(kind), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_damage_that_comes_later_is_refused_by_name(out: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(out, tmp_path / "copy")
    spoil(copy / "model.safetensors")
    with pytest.raises(UserError, match="not those that were exported"):
        pretrained.load(copy)
    (copy / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is not there, truncated"):
        pretrained.load(copy)
    state = load_file(out / "model.safetensors")
    state.pop("model.heads.audio.0.weight")
    save_file(state, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"1 of \d+ tensors differ, as model\.heads\.audio\.0\.weight"):
        pretrained.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, and this polymnia reads up to 1"),
        ({"model_type": "bert"}, "of no export of polymnia"),
        ({"dim": "x"}, "dim: "),
        ({"towers": {"audio": {"use": "os.path"}}}, "needs the module 'os.path'"),
        ({"method": [{"use": "lwf", "inner": {"use": "this.that"}}]}, "needs the module 'this.that'"),
        ({"folders": {"text": "../elsewhere"}}, "the text tower is not in"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
)
def test_settings_that_mean_something_else_are_refused(
    change: dict[str, Any], message: str, out: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(out, tmp_path / "copy")
    said = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(said | change))
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(copy / "model.safetensors", tmp_path / "elsewhere")
    with pytest.raises(UserError, match=message):
        pretrained.load(copy)


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is it a folder that `polymnia export hf` wrote"):
        pretrained.load(tmp_path)
    (tmp_path / "config.json").write_text("[" * 10)
    with pytest.raises(UserError, match="cannot be read"):
        pretrained.load(tmp_path)
    (tmp_path / "config.json").write_text(" " * (1 << 20) + "{}")
    with pytest.raises(UserError, match="larger than"):
        pretrained.load(tmp_path)


def test_the_command_writes_it_and_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    said = command("export", "hf", small_run(), tmp_path / "out")
    assert said.code == 0 and "loaded back" in said.out and (tmp_path / "out" / "README.md").is_file()
    assert "already holds something" in command("export", "hf", small_run(), tmp_path / "out").error
    assert "is no run folder" in command("export", "hf", tmp_path / "out", tmp_path / "other").error
