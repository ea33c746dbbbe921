"""Low-rank updates on disk as PEFT keeps them: what is in the files, who can read them, and which are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from command import command
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_lora import PROMPTED, RANK, Small, made, model, task, trained
from tiny import tiny
from torch import Tensor

import polymnia
from polymnia.continual.peft import read_adapter, write_adapter
from polymnia.methods.lora import Method
from polymnia.models.hub import hide_broken_torchvision
from polymnia.models.model import Model
from polymnia.models.towers import clip_text
from polymnia.runs.life import Run, Session
from polymnia.types import Known, UserError

Change = Callable[[dict[str, Any], dict[str, Tensor]], None]
CLIP = [f"text_model.encoder.layers.{n}.self_attn.{kind}" for n in range(2) for kind in ("k_proj", "q_proj", "v_proj")]


def written(folder: Path) -> Method:
    """A method whose audio updates were written into the folder."""
    of = model()
    method = made(of)
    trained(method, 0)
    write_adapter(folder, method.updates[0]["audio"], of.tower("audio"))
    return method


# Writing


def test_both_files_are_as_peft_lays_them_out(tmp_path: Path) -> None:
    state = written(tmp_path).state_dict()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", RANK, 6)
    assert config["target_modules"] == ["query"] and config["bias"] == "none" and config["lora_dropout"] == 0
    assert config["auto_mapping"] == {"base_model_class": "Small", "parent_library": "test_lora"}
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        found = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (no mapping)
    assert sorted(found) == ["base_model.model.query.lora_A.weight", "base_model.model.query.lora_B.weight"]
    for side in "AB":
        tensor, ours = (
            found[f"base_model.model.query.lora_{side}.weight"],
            state[f"updates.0.audio.{side.lower()}.query"],
        )
        assert tensor.dtype == torch.float32 and torch.equal(tensor, ours.float())


def clip_method(folder: Path) -> tuple[Method, Model]:
    tower = clip_text.Tower(clip_text.Config(model=checkpoints.clip(folder))).eval()
    of = Model({"text": tower}, {}, tower.out_dim, frozenset({"text"}), 1).eval()
    method = made(of, 1, targets=("q_proj", "k_proj", "v_proj"))
    trained(method, 0)
    return method, of


def test_paths_are_those_inside_of_the_model_of_transformers(tmp_path: Path) -> None:
    method, of = clip_method(tmp_path / "clip")
    assert all(name.startswith("encoder.text_model.") for name in method.updates[0]["text"].names)
    write_adapter(tmp_path / "out", method.updates[0]["text"], of.tower("text"), "someone/clip")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == CLIP and config["base_model_name_or_path"] == "someone/clip"
    assert config["auto_mapping"]["base_model_class"] == "CLIPTextModelWithProjection"
    keys = load_file(tmp_path / "out" / "adapter_model.safetensors").keys()
    assert sorted(keys) == sorted(f"base_model.model.{p}.lora_{side}.weight" for p in CLIP for side in "AB")


@pytest.mark.filterwarnings("ignore")  # what PEFT calls in transformers is deprecated there
def test_peft_reads_what_is_written_and_computes_the_same(tmp_path: Path) -> None:
    hide_broken_torchvision()
    peft = pytest.importorskip("peft")
    from transformers import CLIPModel, CLIPTextModelWithProjection

    method, of = clip_method(tmp_path / "clip")
    write_adapter(tmp_path / "out", method.updates[0]["text"], of.tower("text"))
    ids = of.tower("text").prepare(["a dog", "rain on rain"])
    with torch.no_grad():
        ours, plain = method.features(of, "text", ids, Known()), of.features("text", ids)
        assert (ours - plain).abs().max() > 1e-3
        for kind in (CLIPTextModelWithProjection, CLIPModel):  # paths are the same in the whole of CLIP
            base = kind.from_pretrained(tmp_path / "clip").eval()
            theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
            features = theirs(input_ids=ids).text_embeds if kind is CLIPTextModelWithProjection else None
            if features is None:
                found = theirs.base_model.model.get_text_features(input_ids=ids)
                features = found if isinstance(found, Tensor) else found.pooler_output
            assert torch.allclose(features, ours, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # what PEFT calls in transformers is deprecated there
def test_what_peft_writes_is_read_and_computes_the_same(tmp_path: Path) -> None:
    hide_broken_torchvision()
    peft = pytest.importorskip("peft")
    method, of = clip_method(tmp_path / "clip")
    for rslora, alpha in ((False, 6.0), (True, 6.0 / RANK**0.5)):
        config = peft.LoraConfig(
            r=RANK, lora_alpha=alpha, target_modules=["q_proj", "k_proj", "v_proj"], use_rslora=rslora
        )
        base = clip_text.Tower(clip_text.Config(model=str(tmp_path / "clip"))).encoder
        theirs = peft.get_peft_model(base, config).eval()
        for name, p in theirs.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(p)
        theirs.save_pretrained(tmp_path / f"out-{rslora}")
        read_adapter(tmp_path / f"out-{rslora}", method.updates[0]["text"], of.tower("text"))
        ids = of.tower("text").prepare(["a dog", "rain on rain"])
        with torch.no_grad():
            assert torch.allclose(
                method.features(of, "text", ids, Known()), theirs(input_ids=ids).text_embeds, atol=1e-4
            )


# Reading


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    method, fresh = written(tmp_path), made(model())
    update = fresh.updates[0]["audio"]
    read_adapter(tmp_path, update, Small("audio"))
    for ours, theirs in zip(update.pair("query"), method.updates[0]["audio"].pair("query"), strict=True):
        assert torch.equal(ours, theirs.float().double()) and ours.requires_grad


def _config(**changes: Any) -> Change:
    return lambda config, tensors: config.update(changes)


def _more(key: str) -> Change:
    return lambda config, tensors: tensors.update({key: torch.zeros(1)})


def _less(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors.pop("base_model.model.query.lora_B.weight")


def _narrow(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["base_model.model.query.lora_A.weight"] = torch.zeros(RANK, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_config(peft_type="IA3"), "does not say peft_type: LORA"),
        (_config(r=8), f"r is 8, not {RANK}; set rank: 8"),
        (_config(lora_alpha=16), "alpha 16, not 6.0; set alpha: 16"),
        (_config(use_rslora=True), "set alpha: 8.48"),
        (_config(use_dora=True), "use_dora is True"),
        (_config(rank_pattern={"query": 8}), "rank_pattern is"),
        (_config(bias="all"), "bias is all"),
        (_more("base_model.model.out.lora_A.weight"), r"also has out\.lora_A\.weight; set targets"),
        (_less, r"lacks query\.lora_B\.weight"),
        (_narrow, r"lora_A.weight is \(2, 4\), and the tower's \(2, 5\)"),
    ],
)
def test_an_adapter_that_means_something_else_is_refused(change: Change, message: str, tmp_path: Path) -> None:
    written(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    change(config, tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    update = made(model()).updates[0]["audio"]
    before = {k: v.clone() for k, v in update.state_dict().items()}
    with pytest.raises(UserError, match=message):
        read_adapter(tmp_path, update, Small("audio"))
    assert all(torch.equal(v, before[k]) for k, v in update.state_dict().items())


def test_files_that_are_absent_or_damaged_are_named(tmp_path: Path) -> None:
    update = made(model()).updates[0]["audio"]
    with pytest.raises(UserError, match=r"none/adapter_config\.json is not there"):
        read_adapter(tmp_path / "none", update, Small("audio"))
    written(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is not there, or no safetensors"):
        read_adapter(tmp_path, update, Small("audio"))
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(UserError, match="does not say peft_type"):
        read_adapter(tmp_path, update, Small("audio"))


def test_every_set_starts_from_init_with_the_first_task_and_no_later_one_reads_it(tmp_path: Path) -> None:
    written(tmp_path / "audio")
    of = model()
    method = made(of, per_task=True, modalities=("audio",), init=tmp_path)
    assert not method.updates[0]["audio"].pair("query")[1].any()
    method.begin_task(of, task(1))
    for updates in method.updates:
        assert updates["audio"].pair("query")[1].any()
    shutil.rmtree(tmp_path / "audio")
    method.begin_task(of, task(2))
    with pytest.raises(UserError, match="adapter_config"):
        method.begin_task(of, task(1))


def test_the_set_of_a_task_that_a_finished_run_is_extended_by_starts_from_init_too(tmp_path: Path) -> None:
    written(tmp_path / "audio")
    of = model()
    method = made(of, per_task=True, modalities=("audio",), init=tmp_path)
    method.begin_task(of, task(2))  # as behind a run of one task, whose set was taken over
    sets = [updates["audio"].pair("query")[1] for updates in method.updates]
    assert sets[1].any() and not sets[0].any() and not sets[2].any()
    with torch.no_grad():
        sets[1].fill_(0.5)
    method.begin_task(of, task(2))
    assert bool((sets[1] == 0.5).all())  # what was learned is not read over


# The command


@pytest.fixture(scope="module")
def learn(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    def go(**settings: Any) -> Run:
        part = {"use": "lora", "modalities": ["audio", "text"], **settings}
        recipe = tiny(shared, tmp_path_factory.mktemp("runs"), method=[part], examples=0, train__lr=0.05, **PROMPTED)
        return Session(recipe).go()

    return go


@pytest.fixture(scope="module")
def run(learn: Callable[..., Run]) -> Run:
    return learn()


SOUNDS = [np.random.default_rng(n).normal(0, 0.1, 8000).astype(np.float32) for n in range(3)]


def features(folder: Path, after: int) -> Tensor:
    """Audio features, which no projection head is in."""
    encoder = polymnia.load(folder, after)
    return encoder._features("audio", [s[:6400] for s in SOUNDS]).detach()


def test_the_command_writes_a_folder_a_modality_and_a_run_that_starts_from_it_serves_the_same(
    run: Run, learn: Callable[..., Run], tmp_path: Path
) -> None:
    said = command("export", "peft", run.folder, tmp_path / "out", "--task", "2")
    assert said.code == 0 and said.out.split() == [str(tmp_path / "out" / m) for m in ("audio", "text")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "audio", "text"]
    found = load_file(tmp_path / "out" / "audio" / "adapter_model.safetensors")
    kept = load_file(run.folder / "encoders" / "after-2.safetensors")
    for n in range(2):
        b = found[f"base_model.model.body.blocks.{n}.qkv.lora_B.weight"]
        assert torch.equal(b, kept[f"method.updates.0.audio.b.body/blocks/{n}/qkv"]) and b.any()
    # A first task whose rate is all but zero serves what it started from.
    again = learn(init=str(tmp_path / "out"))
    other = tiny_slow(again, tmp_path)
    shutil.rmtree(tmp_path / "out")
    assert torch.allclose(features(other.folder, 1), features(run.folder, 2), atol=1e-4)
    assert not torch.allclose(features(other.folder, 0), features(run.folder, 2), atol=1e-2)


def tiny_slow(run: Run, out: Path) -> Run:
    """The same recipe at a rate of next to nothing."""
    tasks = tuple(t.model_copy(update={"train": t.train.model_copy(update={"lr": 1e-9})}) for t in run.recipe.tasks)
    return Session(run.recipe.model_copy(update={"tasks": tasks, "out": out})).go()


def test_a_run_with_a_set_a_task_gives_a_folder_a_task_for_the_modalities_that_it_had(
    learn: Callable[..., Run], tmp_path: Path
) -> None:
    run = learn(per_task=True, select={"centres": 2})
    assert command("export", "peft", run.folder, tmp_path / "out").code == 0
    found = sorted(
        str(p.parent.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("adapter_config.json")
    )
    assert found == ["task-1/audio", "task-2/audio", "task-2/text", "task-3/audio"]  # tasks 1 and 3 are of pictures
    kept = load_file(run.folder / "encoders" / "after-3.safetensors")
    a = load_file(tmp_path / "out/task-2/text/adapter_model.safetensors")[
        "base_model.model.blocks.1.qkv.lora_A.weight"
    ]
    assert torch.equal(a, kept["method.updates.1.text.a.blocks/1/qkv"])
    assert "task 0" not in command("export", "peft", run.folder, tmp_path / "none", "--task", "0").error


def test_the_command_refuses_other_methods_and_folders_that_hold_something(
    run: Run, shared: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "already holds something" in command("export", "peft", run.folder, tmp_path / "out").error
    other = Session(tiny(shared, tmp_path / "runs", method=["vpt"], examples=0, **PROMPTED)).go()
    assert "the run's method is vpt" in command("export", "peft", other.folder, tmp_path / "new").error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "runs"]
