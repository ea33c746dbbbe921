"""The doctor: what is installed, what a recipe lacks, and what it will take, without touching a run folder."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from rich.console import Console
from small_run import small, small_recipe, small_root, small_run

from polymnia.doctor import machine
from polymnia.doctor.data import check
from polymnia.doctor.examine import examine
from polymnia.doctor.finding import Diagnosis, Finding, size
from polymnia.doctor.show import duration, show
from polymnia.recipe import override
from polymnia.runs.life import Session
from polymnia.types import UserError


def named(findings: list[Finding], area: str, name: str = "") -> list[Finding]:
    return [f for f in findings if f.area == area and name in f.name]


def bad(findings: list[Finding]) -> dict[str, str]:
    return {f"{f.area}/{f.name}": f.value for f in findings if f.ok is False and f.needed}


# --- the machine


@pytest.fixture(scope="module")
def bare() -> Diagnosis:
    return examine()


def test_this_machine_is_healthy_and_its_parts_are_named(bare: Diagnosis):
    assert bare.healthy and bare.estimate is None and bare.counts == []
    found = {f"{f.area}/{f.name}": f for f in bare.findings}
    assert found["packages/torch"].value == torch.__version__ and found["machine/python"].value.startswith("3.")
    assert found["optional/decode flac"].ok and found["optional/decode ogg"].ok
    extras = {f"extra {name}" for name in ("dev", "index", "mteb", "onnx", "serve", "video")}  # as in pyproject.toml
    assert {f.area for f in bare.findings} == {"machine", "torch", "packages", "optional"} | extras


def test_only_what_is_needed_makes_a_diagnosis_bad():
    fine, optional = Finding("a", "b", "c"), Finding("a", "b", "c", False, needed=False)
    assert Diagnosis([fine, optional, Finding("a", "b", "c", None)]).healthy
    assert not Diagnosis([fine, Finding("a", "b", "c", False)]).healthy


def test_a_package_that_is_missing_or_too_old_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    versions = {"torch": "2.5.9+cu121", "numpy": "2.10.0", "pytest": "1.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise machine.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    wanted = ["torch>=2.6", "numpy>=2", "rich>=13", 'pytest>=8; extra == "dev"', 'ruff>=0.9 ; extra == "dev"']
    monkeypatch.setattr(machine.importlib.metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(machine.importlib.metadata, "version", version)
    found = {f.name: f for f in machine.packages()}
    assert (found["torch"].ok, found["torch"].value) == (False, "2.5.9+cu121, but >=2.6 is needed")
    assert found["numpy"].ok  # 10 is more than 2, though "10" sorts before it
    assert (found["rich"].ok, found["rich"].value) == (False, "not installed: pip install 'rich>=13'")
    assert (found["pytest"].ok, found["pytest"].needed) == (False, False)
    assert (found["ruff"].ok, found["ruff"].area) == (None, "extra dev")


@pytest.mark.parametrize(
    ("content", "ok", "said"),
    [
        ("__version__ = '1.2'", True, "1.2"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", False, "nms does not exist"),
        ("raise OSError('libcudart.so.13')", False, "libcudart"),
        ("import os; os.abort()", False, "ended the process with code -6"),
    ],
)
def test_a_broken_extension_is_found_out_without_going_down_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, ok: bool, said: str
):
    (tmp_path / "brittle.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = machine._imported("brittle")
    assert found.ok is ok and said in found.value
    assert machine._imported("brittle_not_there").ok is None


def test_a_codec_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise soundfile.LibsndfileError(1)

    monkeypatch.setattr(machine.soundfile, "write", refuse)
    found = list(machine._codecs())
    assert [f.ok for f in found] == [False] * 4 and {f.name for f in found} == {
        f"decode {c[0]}" for c in machine.CODECS
    }


def test_memory_is_that_of_the_container_if_that_is_less(monkeypatch: pytest.MonkeyPatch):
    total, available = machine.memory()
    assert 0 < available <= total
    texts = {"memory.max": "1048576", "memory.current": "1000000", "meminfo": "MemAvailable: 9999999 kB\n"}
    monkeypatch.setattr(machine.Path, "exists", lambda p: p.name in texts)
    monkeypatch.setattr(machine.Path, "read_text", lambda p: texts[p.name])
    assert machine.memory() == (1048576, 48576)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    (found,) = named(machine.machine({"out": tmp_path / "not" / "yet"}), "machine", "disk")
    assert found.ok is False and "cannot be written" in found.value


def test_a_device_that_is_not_there_is_told():
    assert "torch/device nonsense" in bad(machine.frameworks("nonsense")) and not bad(machine.frameworks("cpu"))


# --- a recipe


@pytest.fixture(scope="module")
def whole() -> Diagnosis:
    small_run()  # its world
    return examine(small_recipe(small_root(), variants={"lwf": {}, "plain": {"method": []}}, seeds=[0, 1, 2], jobs=2))


def test_items_are_counted_by_task_and_split(whole: Diagnosis):
    assert whole.healthy, bad(whole.findings)
    # 4 combinations a domain: 3 instances for training and 1 for the test; stages see 4 domains, 1 instance
    assert whole.counts == [
        {"task": task, "split": split, "items": count, "broken": 0}
        for task, counts in {"seen": (16, 0, 0), "heard": (16, 0, 0), "seas": (12, 0, 4), "tunes": (12, 0, 4)}.items()
        for split, count in zip(("train", "valid", "test"), counts, strict=True)
    ]


def test_the_estimate_knows_runs_steps_parameters_and_media(whole: Diagnosis):
    e = whole.estimate
    assert e is not None
    session = Session(small(small_root()))
    towers = sum(p.numel() for t in session.towers.values() for p in t.parameters())
    heads = sum(p.numel() for m in (session.model.heads, session.model.stored) for p in m.parameters())
    assert (e["runs"], e["jobs"], e["steps"]) == (6, 2, 6 * session.steps) and session.steps == 8
    assert e["parameters"] == {"trainable": session.trainable, "total": towers + heads + 3}  # and a temperature a pair
    sounds, pictures = 16000 * 0.5 * 2, 3 * 16 * 16
    assert e["disk_for_media"] == pytest.approx((16 + 2 * 16) * (sounds + pictures))


def test_the_memory_is_made_of_parts_that_can_be_counted(whole: Diagnosis):
    assert whole.estimate is not None
    parts = whole.estimate["memory"]
    session = Session(small(small_root()))
    session.method.begin_task(session.model, session.lessons[0][0])
    trains = sum(p.nbytes for p in session.model.parameters() if p.requires_grad)
    # a temperature of a pair that is not trained has no gradient and no moments
    assert trains - 8 <= parts["gradients"] <= trains
    assert 2 * (trains - 8) <= parts["optimizer"] <= 2.1 * trains  # AdamW: two moments, and a step count a tensor
    # LwF holds a teacher and nothing else
    assert parts["teacher"] == sum(t.nbytes for t in (*session.method.parameters(), *session.method.buffers()))
    assert parts["method"] == parts["best_state"] == 0
    assert parts["activations"] > 6 * session.model.specs["audio"].samples * 4  # the batch alone, at least
    assert whole.estimate["memory_of_one_run"] == sum(parts.values())
    assert whole.estimate["memory_of_all_jobs"] == 2 * whole.estimate["memory_of_one_run"]


def test_the_time_is_that_of_the_steps_of_all_runs(whole: Diagnosis):
    assert whole.estimate is not None
    seconds = whole.estimate["seconds"]
    assert set(seconds["variants"]) == {"lwf", "plain"} and all(s > 0 for s in seconds["variants"].values())
    own = {name: sum(parts.values()) for name, parts in seconds["parts"].items()}
    assert seconds["variants"] == pytest.approx(own) and seconds["parts"]["plain"]["validation"] == 0
    # the frozen towers are trained by stages, so each seed has its own features to cache
    caching = sum(c["seconds"] for c in whole.estimate["caching"].values())
    assert seconds["caching"] == pytest.approx(3 * caching)
    assert seconds["all"] == pytest.approx(3 * (seconds["stages"] + caching + sum(own.values())))
    assert seconds["all_on_this_many_jobs"] == pytest.approx(seconds["all"] / min(2, machine.cores()))


def test_twice_the_steps_take_twice_the_time():
    longer = {"train.steps": 4000, "stages.seen.train": {"steps": 1}, "stages.heard.train": {"steps": 1}}
    e = examine(override(small_recipe(small_root()), longer)).estimate
    assert e is not None and e["steps"] == 8000
    step = e["seconds"]["parts"]["small"]["training"] / 8000
    assert 1e-4 < step < 0.5  # seconds of a step of a tiny model


def test_nothing_is_written_not_even_a_data_set_that_makes_its_own_files(tmp_path: Path):
    found = examine(small_recipe(tmp_path))
    assert found.healthy and found.estimate is not None and sum(c["items"] for c in found.counts) == 64
    assert not list(tmp_path.iterdir())


def test_the_model_that_was_timed_leaves_threads_and_chance_as_they_were():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    check(small(small_root()))
    assert torch.equal(torch.rand(3), wanted) and torch.get_num_threads() == threads


# --- what is missing


def manifest(folder: Path, count: int = 40) -> dict[str, Any]:
    """A recipe over a collection of its own, all good."""
    folder.mkdir()
    rows = ["id,audio,image,text,split"]
    for n in range(count):
        soundfile.write(folder / f"{n}.wav", np.full(1600, n / 100), 16000)
        Image.new("RGB", (4, 4)).save(folder / f"{n}.png")
        rows.append(f"{n},{n}.wav,{n}.png,thing {n},{'test' if n % 4 == 0 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    raw = small_recipe(folder, stages=[], data=str(folder))
    raw["tasks"] = [{"name": "mine", "pairs": [["audio", "image"]], "data": {"use": "manifest", "root": "."}}]
    return raw


def test_missing_and_broken_media_are_counted_and_named(tmp_path: Path):
    raw = manifest(tmp_path / "own")
    (tmp_path / "own" / "1.wav").unlink()
    (tmp_path / "own" / "2.png").write_bytes(b"no picture")
    (tmp_path / "own" / "4.wav").write_bytes(b"")
    found = examine(raw)
    assert not found.healthy and found.estimate is None
    assert {c["split"]: (c["items"], c["broken"]) for c in found.counts} == {
        "train": (30, 2),
        "valid": (0, 0),
        "test": (10, 1),
    }
    told = bad(found.findings)
    assert set(told) == {"data/mine, train", "data/mine, test"}  # 2 of 30 and 1 of 10 are over 5 %
    assert "2 of 30 items" in told["data/mine, train"] and "1.wav: No such file" in told["data/mine, train"]
    assert "2.png: not a readable picture" in told["data/mine, train"] and "is empty" in told["data/mine, test"]


def test_a_few_broken_media_are_told_but_do_not_stop(tmp_path: Path):
    raw = manifest(tmp_path / "own")
    (tmp_path / "own" / "1.wav").unlink()
    found = examine(raw)
    assert found.healthy and found.estimate is not None
    assert [f.name for f in named(found.findings, "data")] == ["mine, train"]


def test_every_missing_data_set_and_weight_is_told_at_once(tmp_path: Path):
    raw = manifest(tmp_path / "own")
    for n in (1, 2):
        raw["tasks"].append({**raw["tasks"][0], "name": f"gone{n}", "data": {"use": "manifest", "root": f"gone{n}"}})
    raw["towers"]["audio"] = {"use": "efficientat", "checkpoint": "gone.pt"}
    raw["towers"]["text"] = {"use": "sentence", "model": "package:no_such_package"}
    found = examine(raw)
    told = bad(found.findings)
    assert set(told) == {"towers/audio", "towers/text", "data/task gone1", "data/task gone2"}
    assert (
        "gone.pt" in told["towers/audio"]
        and "no_such_package" in told["towers/text"]
        and "gone1" in told["data/task gone1"]
    )
    assert {c["task"] for c in found.counts} == {"mine"} and found.estimate is None


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        (
            {"towers.audio.out_dim": 20, "heads": {}},
            "recipe/model",
            "an identity head needs features of the joint size 16",
        ),
        ({"method": [{"use": "er", "budget": 10}]}, "recipe/model", "a memory of 10 bytes holds no row"),
        ({"tasks.0.data.domains": ["nature"], "tasks.0.topics": ["sea"]}, "data/task seas", "no items of topic sea"),
    ],
)
def test_parts_that_do_not_fit_together_are_told(changes: dict[str, Any], place: str, message: str):
    assert message in bad(examine(override(small_recipe(small_root()), changes)).findings)[place]


def test_a_tower_that_a_task_needs_is_told():
    raw = small_recipe(small_root())
    del raw["towers"]["text"]
    told = bad(examine(raw).findings)
    assert told["towers/text"].endswith("needs it: give towers.text")


def test_a_recipe_that_only_watches_costs_no_steps_but_an_evaluation():
    raw = small_recipe(small_root(), stages=[], tasks=[])
    raw["watch"] = [{"name": "seas", "data": small_recipe(small_root())["tasks"][0]["data"], "eval": ["retrieval"]}]
    e = examine(raw).estimate
    assert e is not None and e["steps"] == 0
    parts = e["seconds"]["parts"]["small"]
    assert parts["training"] == parts["validation"] == 0 < parts["evaluation"]


def test_too_little_memory_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("polymnia.doctor.examine.memory", lambda: (2**20, 2**20))
    found = examine(small_recipe(small_root()))
    assert (
        set(bad(found.findings)) == {"recipe/memory"} and "1.0 MiB available" in bad(found.findings)["recipe/memory"]
    )


def test_a_recipe_that_cannot_be_read_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="unknown key 'dimm'"):
        examine(small_recipe(small_root(), dimm=3))


# --- how it is said


def test_a_diagnosis_is_printed_and_is_json(whole: Diagnosis):
    out = io.StringIO()
    show(whole, Console(file=out, width=160))
    text = out.getvalue()
    assert "everything that is needed is there" in text and "parameters:" in text and "6 run(s)" in text
    assert json.loads(json.dumps(whole.plain()))["ok"] is True
    sick = Diagnosis([Finding("data", "task [x]", "gone [y]", False)])
    show(sick, Console(file=out, width=160))
    assert "missing or wrong: data: task [x]" in out.getvalue() and "gone [y]" in out.getvalue()
    assert not sick.plain()["ok"]


def test_sizes_and_durations_are_readable():
    assert [size(n) for n in (0, 1023, 1536, 5 * 2**30, 2**42)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB", "4.0 TiB"]
    assert [duration(s) for s in (0.4, 119, 120, 3599, 3661)] == ["0 s", "119 s", "2 min", "60 min", "1 h 01 min"]


def test_the_command_exits_with_1_where_something_is_missing(tmp_path: Path):
    code = "import sys; from polymnia.cli import main; sys.argv[1:] = sys.argv[1:]; main()"
    (tmp_path / "own.yaml").write_text(json.dumps(small_recipe(small_root())))
    words = [
        "doctor",
        str(tmp_path / "own.yaml"),
        f"data={tmp_path / 'gone'}",
        "towers.audio.use=efficientat",
        "--json",
    ]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "unknown key 'n_mels'" in done.stderr  # of another tower: a recipe error
    words[3] = "towers.text={use: sentence, model: 'package:no_such_package'}"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and not json.loads(done.stdout)["ok"], done.stderr
