"""``polymnia run RECIPE --dry-run``: what a study would do, what it lacks and what it takes, without a trace."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from command import command
from conformance.miniatures import MINIATURES
from paper_world import World
from PIL import Image
from small_run import small_recipe, small_root, small_run
from videos import film

from polymnia.config import parse_part
from polymnia.data.tasks import Sets
from polymnia.doctor import timing
from polymnia.doctor.aside import untouched
from polymnia.doctor.embedding import caching
from polymnia.doctor.examine import check_all
from polymnia.doctor.looks import LOOKED, Looks
from polymnia.doctor.rehearsal import Rehearsal, rehearse
from polymnia.doctor.timing import Cost, scaled
from polymnia.recipe import override, validate
from polymnia.runs.life import Session
from polymnia.types import AudioFile, AudioSpec, Item, UserError


def listing(*folders: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time of change."""
    found = [p for f in folders for p in (f, *f.rglob("*")) if p.exists()]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in found}


def written(folder: Path, raw: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(raw))
    return path


def of(found: Rehearsal, task: str, variant: str = "") -> dict[str, Any]:
    plan = next(p for p in found.plans if p["variant"] == variant)
    return next(t for t in (*plan["stages"], *plan["tasks"], *plan["watch"]) if t["name"] == task)


def own(folder: Path, train: int = 6, captions: int = 2) -> dict[str, Any]:
    """A recipe over a collection of sounds, pictures and captions: ``train`` for training, 3 valid, 4 for testing."""
    folder.mkdir(exist_ok=True)
    rows = ["id,audio,image," + ",".join(["text", *(f"text_{n}" for n in range(2, captions + 1))]) + ",split"]
    for n in range(train + 7):
        soundfile.write(folder / f"{n}.wav", np.full(1600, n / 100), 16000)
        Image.new("RGB", (4, 4)).save(folder / f"{n}.png")
        texts = ",".join(f"thing {n} said {c}" for c in range(captions))
        rows.append(f"{n},{n}.wav,{n}.png,{texts},{'train' if n < train else 'valid' if n < train + 3 else 'test'}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    raw = small_recipe(folder, stages=[], data=str(folder))
    part = {"use": "manifest", "root": "."}
    raw["tasks"] = [{"name": n, "pairs": [["audio", o]], "data": part} for n, o in (("see", "image"), ("say", "text"))]
    return raw


# --- without a trace


def test_a_dry_run_writes_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = tmp_path / "home"
    (home / "mylab").mkdir(parents=True)
    (home / "mylab/soften.py").write_text("from polymnia.methods.lwf import Config, Method\n")
    path = written(home, small_recipe(home, method=[{"use": "mylab.soften"}]))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    before = listing(home)
    done = command("run", path, "--dry-run")
    assert done.code == 0, done.err
    assert listing(home) == before and not list(scratch.glob("polymnia*"))  # the world was made aside, and removed
    assert "seas" in done.out and "nothing was written" in done.out


@pytest.mark.parametrize("name", sorted(MINIATURES))
def test_every_data_set_is_read_without_a_trace(tmp_path: Path, name: str):
    root = tmp_path / "set"
    root.mkdir()
    part = parse_part("data.datasets", {"use": name, **MINIATURES[name](root), "root": "set"})
    raw = small_recipe(tmp_path, stages=[], tasks=[], data=str(tmp_path))
    raw["watch"] = [{"name": "all", "data": part.dump(), "eval": ["retrieval"]}]
    before = listing(tmp_path)
    with untouched() as aside:
        moved = aside(validate(raw))
        found = Sets(moved.data).items(moved.watch[0].data[0])
        assert all(s.path.exists() for i in found for s in i.sources.values() if hasattr(s, "path"))
    assert listing(tmp_path) == before
    assert [(i.id, i.group, i.split) for i in found] == [(i.id, i.group, i.split) for i in Sets(tmp_path).items(part)]


def test_what_is_already_unpacked_is_not_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    part = parse_part("data.datasets", {"use": "webdataset", **MINIATURES["webdataset"](tmp_path)})
    Sets(tmp_path).items(part)
    monkeypatch.setattr("polymnia.data.tar._make", lambda *_: pytest.fail("unpacked again"))
    before = listing(tmp_path)
    raw = small_recipe(tmp_path, stages=[], tasks=[], data=str(tmp_path))
    raw["watch"] = [{"name": "all", "data": part.dump(), "eval": ["retrieval"]}]
    with untouched() as aside:
        moved = aside(validate(raw))
        assert len(Sets(moved.data).items(moved.watch[0].data[0])) == 4
    assert listing(tmp_path) == before


def test_shards_that_are_too_large_to_be_unpacked_aside_are_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    MINIATURES["webdataset"](tmp_path / "set")
    monkeypatch.setattr("polymnia.data.datasets.webdataset.MAX_ASIDE", 100)
    raw = small_recipe(tmp_path, stages=[], tasks=[], data=str(tmp_path))
    shards = {"use": "webdataset", "root": "set", "test_shards": "test-*.tar", "shards": "train-*.tar"}
    raw["watch"] = [{"name": "all", "data": shards, "eval": ["retrieval"]}]
    before = listing(tmp_path)
    found = rehearse(raw, {})
    (said,) = [f.value for f in found.findings if f.ok is False]
    assert "3 shards in" in said and f"`polymnia data check webdataset {tmp_path / 'set'}`" in said
    assert listing(tmp_path) == before


def test_a_world_inside_a_joined_set_is_made_aside_too(tmp_path: Path):
    world = {"use": "soundworld", "root": "w", "train": 1, "valid": 1, "base": 0, "combos": 2, "domains": ["nature"]}
    raw = small_recipe(tmp_path, stages=[], tasks=[], data=str(tmp_path))
    joined = {"use": "join", "root": ".", "left": world, "right": world}
    raw["watch"] = [{"name": "both", "data": joined, "eval": ["retrieval"]}]
    assert rehearse(raw, {}).datasets and not list(tmp_path.iterdir())


# --- the plan


@pytest.fixture(scope="module")
def study() -> Rehearsal:
    small_run()  # its world
    changes = {"lwf": {}, "heads": {"method": [{"use": "frozen", "first": 2}]}, "all": {"method": ["joint"]}}
    return rehearse(small_recipe(small_root(), variants=changes, seeds=[0, 1]), {})


def test_every_run_has_its_folder_and_how_far_it_is(study: Rehearsal):
    assert [(r["variant"], r["seed"], r["state"]) for r in study.runs] == [
        (v, s, "new") for s in (0, 1) for v in ("lwf", "heads", "all")
    ]
    folder = small_run()
    done = rehearse(small_recipe(small_root()), {})
    assert done.runs == [{"variant": "", "seed": 0, "folder": str(folder), "state": "finished"}]
    assert done.ok and done.estimate is not None and done.estimate["left"] == 0 < done.estimate["seconds"]["all"]


def test_a_run_that_was_begun_is_told_and_one_of_other_data_refused(tmp_path: Path):
    raw = own(tmp_path / "own")
    folder = Path(rehearse(raw, {}).runs[0]["folder"])
    folder.mkdir(parents=True)
    assert rehearse(raw, {}).runs[0]["state"] == "begun"
    (folder / "meta.json").write_text(json.dumps({"finished": "today", "fingerprint": "of other items"}))
    found = rehearse(raw, {})
    assert found.runs[0]["state"] == "finished" and "begun on other data" in found.wrong


def test_steps_and_parameters_are_those_of_the_run_itself(tmp_path: Path):
    raw = own(tmp_path / "own")
    raw["train"] = {"epochs": 3, "batch": 4, "lr": 0.01, "augment": {"captions": "pairs"}}
    found, session = rehearse(raw, {}), Session(validate(raw))
    see, say = of(found, "see"), of(found, "say")
    assert (see["rows_an_epoch"], see["steps"], say["rows_an_epoch"], say["steps"]) == (6, 3, 12, 9)  # 6 x 2 captions
    assert see["steps"] + say["steps"] == session.steps and see["trainable"] == session.trainable
    assert see["items"]["train"] == {"present": 6, "official": 6} and see["items"]["test"]["present"] == 4
    assert found.estimate is not None and found.estimate["steps"] == 12


def test_what_trains_is_told_task_by_task(study: Rehearsal):
    seas, tunes = of(study, "seas", "heads"), of(study, "tunes", "heads")
    assert seas["towers"] == {"audio": "trains", "image": "cached"}
    assert tunes["towers"] == {"audio": "frozen", "text": "cached"}
    tower = 3136  # of tiny_audio, by the plan's own line of the tower
    assert next(p for p in study.plans if p["variant"] == "heads")["towers"]["audio"]["parameters"] == tower
    assert seas["trainable"] - tunes["trainable"] == tower == tunes["frozen"] - seas["frozen"]
    assert seas["frozen"] == 9808 + 4064  # the towers that are cached
    assert seas["teacher"] == 0 < of(study, "seas", "lwf")["teacher"]
    stage = of(study, "seen", "lwf")
    assert stage["learn"] == ["image", "text"] and stage["towers"] == {"image": "trains", "text": "trains"}


def test_tasks_that_are_learned_at_once_are_one_lesson(study: Rehearsal):
    joint = of(study, "joint", "all")
    assert joint["steps"] == 8 and joint["rows_an_epoch"] == 24 and joint["pairs"] == ["audio-image", "audio-text"]


def test_order_objective_schedule_method_and_watched_sets_are_named(tmp_path: Path):
    raw = own(tmp_path / "own")
    raw |= {"order": ["say", "see"], "objective": {"loss": "cx"}, "heads": {"audio": {"kind": "cross", "hidden": 8}}}
    raw["train"] |= {
        "schedule": {"kind": "plateau", "patience": 3},
        "stop": {"patience": 4},
        "watch": "loss",
        "clip": 2.0,
        "augment": {"captions": "pairs"},
    }
    there = {
        "data": raw["tasks"][0]["data"],
        "eval": [{"use": "zeroshot", "by": "label", "split": "all"}],
        "of": ["see"],
    }
    gone = {"data": {"use": "manifest", "root": "gone"}, "eval": ["retrieval"], "optional": True, "rows": "last"}
    raw["watch"] = [{"name": "words", **there}, {"name": "more", **gone}]
    done = command("run", written(tmp_path, raw), "--dry-run")
    assert done.code == 0, done.err
    for words in (
        "order: say -> see",
        "lwf (weight 0.3)",
        "contrast (cx); 12 rows an epoch (each caption of each item)",
        "x 0.1 after 3 epochs without gain, down to 1e-06",
        "stops after 4 epochs without gain in the validation loss",
        "gradients clipped at 2",
        "zeroshot (by label, split all)",
        "after the last task  left out: not there",
        "optional",
    ):
        assert words in done.out, words
    words = of(rehearse(raw, {}), "words")
    assert words["scored_on"] == {"present": 13, "official": 13, "splits": ["train", "valid", "test"]}


def test_clips_that_are_gone_and_leaks_are_told(tmp_path: Path):
    world = World(tmp_path / "sets")
    world.ave(), world.vggsound()
    raw = small_recipe(tmp_path, stages=[], data=str(tmp_path / "sets"), method=[])
    raw["towers"]["image"] |= {"frames": "middle"} if "frames" in raw["towers"]["image"] else {}
    raw["tasks"] = [
        {"name": "AV", "pairs": [["audio", "image"]], "data": {"use": "vggsound", "root": "VGGSound", "valid": 0}}
    ]
    raw["watch"] = [{"name": "AVE", "data": {"use": "ave", "root": "AVE_Dataset"}, "eval": ["retrieval"]}]
    shared = world.youtube("vgg", 0)
    lists = tmp_path / "sets/AVE_Dataset/testSet.txt"
    lists.write_text(lists.read_text() + f"Bark&{shared}&good&0&10\n")
    world.film(f"AVE_Dataset/AVE/{shared}.mp4")
    next((tmp_path / "sets/VGGSound/video").glob(f"{world.youtube('vgg', 3)}*")).unlink()

    refused = command("run", written(tmp_path, raw), "--dry-run")
    assert refused.code == 2 and "training and test data overlap" in refused.error
    found = rehearse(raw | {"drop_leaks": True}, {})
    assert found.ok and [(k["outcome"], k["learned_items"]) for k in found.leaks] == [("dropped", 1)]
    assert of(found, "AV")["items"]["train"] == {"present": 8, "official": 10}  # one gone, one dropped
    told = {f.name: f.value for f in found.findings if f.area == "data"}
    assert told["vggsound, train"] == "9 of 10 clips are there" and "drop_leaks left those out" in told["leaks"]
    allowed = rehearse(raw | {"allow_leaks": [["vggsound", "ave"]]}, {})
    assert of(allowed, "AV")["items"]["train"]["present"] == 9


# --- how it ends


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dimm": 3}, "unknown key 'dimm'"),
        ({"towers.audio.out_dim": 20, "heads": {}}, "an identity head needs features of the joint size 16"),
        ({"objective.loss": "cx"}, "set heads.audio.kind: cross"),
        ({"tasks.1.objective": {"loss": "cx"}}, "loss cx on audio-text: set heads.audio.kind: cross"),
        ({"method": [{"use": "lwf", "balance": {"skip": 100}}]}, "train longer, or lower balance.skip"),
        ({"device": "nonsense"}, "device 'nonsense' cannot be used here"),
        ({"train.stop": {"patience": 1}}, "has no valid items"),
        ({"towers": {"audio": {"use": "tiny_audio"}, "image": {"use": "tiny_image"}}}, "give towers.text"),
    ],
)
def test_what_cannot_be_ends_as_in_a_run(tmp_path: Path, changes: dict[str, Any], said: str):
    raw = override(small_recipe(small_root(), stages=[]), changes)
    done = command("run", written(tmp_path, raw), "--dry-run")
    assert done.code == 2 and said in done.error


def test_what_is_missing_ends_with_1_and_all_of_it_is_told(tmp_path: Path):
    torch.save({"model": {}}, tmp_path / "half.pth")
    whole = (tmp_path / "half.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    raw = own(tmp_path / "own")
    raw["tasks"][1]["data"] = {"use": "manifest", "root": "gone"}
    raw["towers"]["audio"] = {"use": "panns", "arch": "cnn6", "checkpoint": str(tmp_path / "half.pth"), "seconds": 1}
    done = command("run", written(tmp_path, raw), "--dry-run")
    assert done.code == 1 and "see" in done.out
    assert "missing or wrong: towers: audio; data: task say" in done.out and "half.pth" in done.out
    told = json.loads(command("run", written(tmp_path, raw), "--dry-run", "--json").out)
    assert not told["ok"] and told["estimate"] is None and told["plans"][0]["order"] == ["see", "say"]


def test_the_plan_is_json_and_files_of_overrides_count(tmp_path: Path):
    (tmp_path / "more.yaml").write_text("train.steps: 3\n")
    path = written(tmp_path, small_recipe(small_root()))
    done = command("run", path, "--with", tmp_path / "more.yaml", "--dry-run", "--json")
    told = json.loads(done.out)
    assert done.code == 0 and told["ok"] and told["plans"][0]["tasks"][0]["steps"] == 3
    assert told["estimate"]["steps"] == 6 and told["runs"][0]["state"] == "new"
    assert "--json goes with --dry-run" in command("run", path, "--json").error


def test_a_data_folder_that_is_one_off_is_refused_for_generated_sets_too(tmp_path: Path):
    (tmp_path / "world").mkdir()
    raw = small_recipe(tmp_path / "runs", stages=[], data=str(tmp_path / "deeper"))
    for task in raw["tasks"]:
        task["data"] = {**task["data"], "root": "world"}
    done = command("run", written(tmp_path, raw), "--dry-run")
    assert done.code == 1 and "is a folder too deep to hold world" in " ".join(done.out.split())


# --- cheap estimates


def line(fixed: float, each: float, asked: list[int], beside: int = 0) -> Callable[[int], Cost]:
    """A step that costs exactly a fixed part and a part a row; a method brings ``beside`` rows."""

    def measure(rows: int) -> Cost:
        asked.append(rows)
        all_rows = rows + beside
        return Cost(all_rows, fixed + each * all_rows, round(1000 * (fixed + each * all_rows)))

    return measure


def test_what_would_take_long_is_drawn_through_two_points():
    asked: list[int] = []
    found = scaled(line(5.0, 1.0, asked), 128, longest=2.0, room=2**40)
    assert asked == [2, 3] and found.extrapolated and found.measured == (2, 3)
    assert found.seconds == pytest.approx(133.0) and found.activations == 133_000 and found.rows == 128


def test_what_would_hold_much_is_drawn_through_two_points_within_half_of_the_room():
    asked: list[int] = []
    found = scaled(line(0.0, 1.0, asked), 128, longest=1e9, room=40_000)
    assert asked == [2, 20] and found.activations == 128_000


@pytest.mark.parametrize(("fixed", "each", "asked"), [(0.0, 0.001, [100]), (0.9, 0.001, [2, 3, 100]), (0.0, 9.0, [2])])
def test_what_is_quick_is_measured_as_it_is(fixed: float, each: float, asked: list[int]):
    rows = asked[-1]
    seen: list[int] = []
    found = scaled(line(fixed, each, seen), rows, longest=1.5, room=2**40)
    assert not found.extrapolated and found.seconds == pytest.approx(fixed + each * rows)
    assert seen[-1] == rows and len(seen) <= 3


def test_rows_that_a_memory_brings_are_part_of_the_line():
    found = scaled(line(5.0, 1.0, [], beside=4), 128, longest=2.0, room=2**40, beside=32)
    assert found.seconds == pytest.approx(5 + 128 + 32)


def test_an_extrapolated_step_is_said_and_holds_what_a_whole_one_would(monkeypatch: pytest.MonkeyPatch):
    raw = small_recipe(small_root(), method=[], stages=[])
    whole = rehearse(raw, {}).estimate
    monkeypatch.setattr(timing, "LONGEST", 0.0)
    drawn = rehearse(raw, {})
    assert whole is not None and drawn.estimate is not None
    note = next(n for n in drawn.estimate["measured"] if n["what"] == "a step of seas")
    assert (note["rows"], note["measured"], note["extrapolated"]) == (6, [2, 3], True)
    assert not any(n["extrapolated"] for n in whole["measured"] if n["what"].startswith("a step"))
    exact, guess = whole["memory"]["activations"], drawn.estimate["memory"]["activations"]
    assert guess == pytest.approx(exact, rel=0.02)  # the square of the batch is left out
    assert drawn.estimate["memory"]["optimizer"] == whole["memory"]["optimizer"]


def test_of_a_large_split_some_headers_are_read_and_the_others_are_as_long_on_average(tmp_path: Path):
    items = []
    for n in range(LOOKED + 100):
        path = tmp_path / f"{n}.wav"
        path.write_bytes(b"") if n == 7 else os.link(_sound(tmp_path, 0.5 + 0.5 * (n % 2)), path)
        items.append(Item(str(n), {"audio": AudioFile(path)}, str(n)))
    (tmp_path / "599.wav").unlink()
    looks = Looks()
    looked, faults = looks.look(items, {"audio": AudioSpec(8000, 1.0)})
    assert looked == LOOKED and set(faults) <= {"7", "599"} and "No such file" in faults["599"]
    known = [looks.length[i.sources["audio"]] for i in items if i.sources["audio"] in looks.length]
    guessed = next(i.sources["audio"] for i in items if i.sources["audio"] not in looks.length and i.id != "599")
    assert len(known) == LOOKED - ("7" in faults) and looks.seconds(guessed) == pytest.approx(np.mean(known))


def _sound(folder: Path, seconds: float) -> Path:
    path = folder / f"of {seconds}.wav"
    if not path.exists():
        soundfile.write(path, np.zeros(int(8000 * seconds)), 8000)
    return path


def test_frames_of_videos_and_captions_are_what_caching_takes(tmp_path: Path):
    raw = own(tmp_path / "own", train=4, captions=3)
    for n in range(11):
        film(tmp_path / "own" / f"{n}.mp4", [50] * 10, fps=10)  # a second
    table = tmp_path / "own" / "manifest.csv"
    table.write_text(table.read_text().replace(".png", ".mp4"))
    raw["towers"]["image"] |= {"fps": 3, "frames": "mean"}
    recipe = validate(raw)
    (data,) = check_all([recipe]).values()
    assert data.whole, data.findings
    found = caching(recipe, data)
    assert (found["image"].items, found["image"].rows) == (11, 33)  # 3 frames a second
    assert (found["text"].items, found["text"].rows) == (11, 33)  # 3 captions each
    assert found["image"].disk == 11 * 16 * 2 and found["text"].disk == 33 * 16 * 4  # float16, float32
    assert found["image"].seconds == pytest.approx(33 * found["image"].cost.each)


def test_a_method_that_rehearses_or_balances_can_be_measured():
    methods = [{"use": "er", "budget": 400_000, "rows": 4}, {"use": "lwf", "balance": {"skip": 0, "batches": 2}}]
    found = rehearse(small_recipe(small_root(), method=methods, stages=[]), {})
    assert found.ok and found.estimate is not None and found.estimate["memory"]["method"] > 300_000


def test_the_estimate_of_each_variant_is_of_its_own_tasks():
    variants = {"short": {}, "long": {"train.steps": 8}}
    found = rehearse(small_recipe(small_root(), variants=variants, stages=[]), {})
    assert [t["steps"] for p in found.plans for t in p["tasks"]] == [4, 4, 8, 8]
    assert found.estimate is not None and found.estimate["steps"] == 24


def test_a_recipe_that_is_no_recipe_is_an_error():
    with pytest.raises(UserError, match="no recipe at"):
        rehearse("nowhere.yaml", {})
