"""What goes wrong with audio sets, videos and published encoders, through the real command line.

Refused in one line that names the file, key or folder and the way out; or counted, listed and told beside the score.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import Said, command
from paper_world import World
from suite_world import finished, recipe, sets

from polymnia.models.towers.panns import Config, Tower

CLOTHO = {"name": "told", "pairs": [["audio", "text"]], "data": {"use": "clotho", "root": "CLOTHO_v2.1"}}
FSD50K = {"name": "told", "pairs": [["audio", "text"]], "data": {"use": "fsd50k", "root": "FSD50K"}}
CAPS = {"name": "told", "pairs": [["audio", "text"]], "data": {"use": "audiocaps", "root": "AUDIOCAPS"}}
VGG = {"name": "seen", "pairs": [["audio", "image"]], "data": {"use": "vggsound", "root": "VGGSound", "valid": 0}}
PAPER = Path(__file__).parents[2] / "recipes/papers/audio"


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., World]:
    """A world with copies of some sets, which a test may spoil."""

    def copy(*names: str) -> World:
        world = World(tmp_path / "sets")
        for name in names:
            shutil.copytree(sets() / name, world.root / name)
        return world

    return copy


def run(data: Path, place: Path, *words: str, task: dict[str, Any] = CLOTHO, **changes: Any) -> Said:
    path = place / "own.yaml"
    path.write_text(yaml.safe_dump(recipe(data, place, tasks=[task], **changes)))
    return command("run", path, *words)


def result(place: Path, name: str) -> Any:
    (path,) = (place / "runs").glob(f"own-*/{name}.json")
    return json.loads(path.read_text())


def listing(folder: Path) -> list[str]:
    return sorted(str(p) for p in folder.rglob("*"))


# --- encoders


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Cnn6 as its trainer leaves it, and the first half of it."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    state = Tower(Config(arch="cnn6")).net.state_dict()
    torch.save({"iteration": 1, "model": {f"module.{k}": v for k, v in state.items()}}, folder / "Cnn6.pth")
    whole = (folder / "Cnn6.pth").read_bytes()
    (folder / "half.pth").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize(
    ("arch", "file", "message"),
    [
        ("resnet22", "Cnn6.pth", "Cnn6.pth is no checkpoint of resnet22: .* It is one of cnn6: set arch: cnn6"),
        ("cnn10", "Cnn6.pth", "Cnn6.pth is no checkpoint of cnn10: .* It is one of cnn6: set arch: cnn6"),
        ("cnn6", "half.pth", "half.pth is truncated or was not saved by torch; get it again: .*zenodo.org"),
        ("cnn6", "Cnn6(1).pth", r"checkpoint not found: .*Cnn6\(1\).pth. Get .*zenodo.org"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_what_it_is(
    weights: Path, tmp_path: Path, arch: str, file: str, message: str
):
    tower = {"use": "panns", "arch": arch, "checkpoint": str(weights / file), "seconds": 0.5}
    error = run(sets(), tmp_path, towers__audio=tower).error
    assert re.search(message, error), error
    assert not (tmp_path / "runs").exists() and not (tmp_path / "cache").exists()


def test_a_dry_run_finds_it_too_and_writes_nothing(weights: Path, tmp_path: Path):
    tower = {"use": "panns", "arch": "cnn6", "checkpoint": str(weights / "half.pth"), "seconds": 0.5}
    said = run(sets(), tmp_path, "--dry-run", towers__audio=tower)
    assert said.code == 1 and "is truncated" in " ".join(said.out.split())
    assert [p.name for p in tmp_path.iterdir()] == ["own.yaml"]


# --- tables


@pytest.mark.parametrize(
    ("task", "file", "old", "new", "message"),
    [
        (FSD50K, "FSD50K/FSD50K.ground_truth/dev.csv", "split", "part", "dev.csv: no column split; found: fname"),
        (CAPS, "AUDIOCAPS/dataset/val.csv", "youtube_id", "ytid", "val.csv: no column youtube_id; found: audiocap_id"),
        (
            CLOTHO,
            "CLOTHO_v2.1/clotho_captions_validation.csv",
            "caption_5",
            "x",
            "validation.csv: no column caption_5",
        ),
        (VGG, "VGGSound/vggsound.csv", ",test", "", "vggsound.csv, line 11: 3 cells where the 4 columns YouTube id"),
    ],
)
def test_a_table_of_another_version_is_refused_with_the_columns_found_and_expected(
    own: Callable[..., World], tmp_path: Path, task: dict, file: str, old: str, new: str, message: str
):
    root = own(Path(file).parts[0]).root
    text = (root / file).read_text()
    (root / file).write_text(text.replace(old, new))
    error = run(root, tmp_path, task=task).error
    assert message in error and "expected" in error and str(root / file) in error
    assert message in command("data", "check", task["data"]["use"], root / task["data"]["root"]).error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("task", "file", "line"),
    [
        (CLOTHO, "CLOTHO_v2.1/clotho_captions_development.csv", 3),
        (CAPS, "AUDIOCAPS/dataset/train.csv", 2),
        (VGG, "VGGSound/vggsound.csv", 1),
        (FSD50K, "FSD50K/FSD50K.metadata/dev_clips_info_FSD50K.json", 1),
    ],
)
def test_metadata_that_is_not_utf8_is_refused_with_its_line(
    own: Callable[..., World], tmp_path: Path, task: dict, file: str, line: int
):
    root = own(Path(file).parts[0]).root
    lines = (root / file).read_bytes().split(b"\n")
    lines[line - 1] = re.sub(rb"[aeiou]", "ö".encode("latin-1"), lines[line - 1], count=1)
    (root / file).write_bytes(b"\n".join(lines))
    error = run(root, tmp_path, task=task).error
    assert f"{root / file}, line {line}: not UTF-8" in error and "save it as UTF-8" in error


def test_the_tables_that_are_published_as_latin_1_are_read(own: Callable[..., World], tmp_path: Path):
    root = own("CLOTHO_v2.1").root
    table = root / "CLOTHO_v2.1/clotho_metadata_development.csv"
    table.write_bytes(table.read_bytes().replace(b"a;b", "Zürich".encode("latin-1")))
    assert run(root, tmp_path).code == 0


# --- roots


@pytest.mark.parametrize(("place", "off"), [(".", "high"), ("sets/VGGSound", "deep"), ("sets/missing", "deep")])
@pytest.mark.parametrize("words", [("own",), ("panns",)])
def test_a_data_folder_that_is_one_off_is_told_which_to_give(tmp_path: Path, place: str, off: str, words: tuple):
    data = sets().parent / place
    if words == ("own",):
        error = run(data, tmp_path).error
    else:
        error = command("run", PAPER / "panns.yaml", f"data={data}", f"out={tmp_path / 'runs'}").error
    assert f"data={data} is a folder too {off} to hold" in error and error.endswith(f"give data={sets()}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("task", "root", "off"),
    [
        (CLOTHO, ".", "high"),
        (CLOTHO, "CLOTHO_v2.1/evaluation", "deep"),
        (FSD50K, "FSD50K/FSD50K.dev_audio", "deep"),
        (VGG, "VGGSound/video", "deep"),
        (VGG, ".", "high"),
    ],
)
def test_a_root_of_a_set_that_is_one_off_is_told_which_to_give(tmp_path: Path, task: dict, root: str, off: str):
    right = sets() / task["data"]["root"]
    wrong = {**task, "data": {**task["data"], "root": root}}
    error = run(sets(), tmp_path, task=wrong).error
    assert f"{sets() / root} is a folder too {off}; give {right} (data=FOLDER, or the set's root)" in error
    assert str(right) in command("data", "check", task["data"]["use"], sets() / root).error


def test_a_data_folder_without_any_of_the_sets_is_told_what_is_looked_for(tmp_path: Path):
    error = command("run", PAPER / "panns.yaml", f"data={tmp_path}", f"out={tmp_path / 'runs'}").error
    assert f"nothing to score: data={tmp_path} holds none of ESC-50-master, FSD50K, tasks" in error


# --- clips that are gone, and videos that lack something


def test_a_fifth_of_the_clips_missing_is_told_beside_every_score(own: Callable[..., World], tmp_path: Path):
    root = own("VGGSound").root
    clips = sorted((root / "VGGSound/video").iterdir())
    for clip in (clips[0], clips[1], clips[-1]):  # 3 of 14: two to learn from, one to test on
        clip.unlink()
    said = run(root, tmp_path, task=VGG)
    assert said.code == 0, said.err
    assert "3 missing clips left out" in said.err and "3 of 4" in said.out
    assert result(tmp_path, "matrix")["counts"] == {"seen": "3 of 4"}
    assert result(tmp_path, "matrix")["values"]["latest"]["seen"]["audio>image/N"] == [3.0, 3.0]
    assert any("vggsound, test: 3 of 4 items are there" in note for note in result(tmp_path, "meta")["notes"])
    folder = next((tmp_path / "runs").glob("own-s0-*"))
    assert "3 of 4" in command("report", folder, "--out", tmp_path / "report").out
    assert "3 of 4" in (tmp_path / "report/report.md").read_text()
    said = command("eval", folder, "--data", root, "--only", "VGGSound")
    assert said.code == 0 and "3 of 4" in said.out
    error = run(root, tmp_path, task={**VGG, "data": {**VGG["data"], "max_missing": 0.1}}).error
    assert "vggsound, train: 8 of 10 items are there, and max_missing allows 10%" in error and clips[0].name in error


@pytest.fixture
def odd(own: Callable[..., World]) -> World:
    """Three of ten training videos cannot be used: without sound, without pictures, and half a file."""
    world = own("VGGSound")
    clips = sorted((world.root / "VGGSound/video").iterdir())
    world.film(f"VGGSound/video/{clips[0].name}", sound=False)
    world.film(f"VGGSound/video/{clips[1].name}", pictures=False)
    clips[2].write_bytes(clips[2].read_bytes()[:700])
    return world


def test_videos_without_sound_or_without_pictures_are_listed_and_the_run_goes_on(odd: World, tmp_path: Path):
    said = run(odd.root, tmp_path, "max_broken=0.3", task=VGG)
    assert said.code == 0, said.err
    assert "3 broken items left out" in said.err
    (task,) = result(tmp_path, "meta")["tasks"]
    assert task["items"]["train"] == 7 and task["official"]["train"] == 10
    reasons = [f["reason"] for f in task["failed"]]
    assert "no sound" in reasons[0] and "no picture" in reasons[1] and len(reasons) == 3
    said = command("data", "check", "vggsound", odd.root / "VGGSound", "valid=0", "--out", tmp_path / "check.csv")
    assert said.code == 1 and "no sound" in (tmp_path / "check.csv").read_text()


def test_too_many_of_them_end_the_run_and_leave_what_was_decoded(odd: World, tmp_path: Path):
    error = run(odd.root, tmp_path, "max_broken=0.2", task=VGG).error
    assert "task 'seen', train: 3 of 10 items are broken, more than max_broken=20%" in error
    assert "no sound" in error and "raise max_broken" in error
    kept = {p for p in listing(tmp_path / "cache") if p.endswith(".safetensors") or "audio" in p}
    assert kept and run(odd.root, tmp_path, "max_broken=0.3", task=VGG).code == 0
    assert kept <= set(listing(tmp_path / "cache"))


def test_a_suite_scores_what_it_can_read_of_such_a_set_and_again_when_it_is_mended(
    own: Callable[..., World], tmp_path: Path
):
    folder, world = shutil.copytree(finished(), tmp_path / "run"), own("AVE_Dataset", "VGGSound")
    clip = sorted((world.root / "AVE_Dataset/AVE").iterdir())[-1]
    whole = clip.read_bytes()
    world.film(f"AVE_Dataset/AVE/{clip.name}", sound=False)
    words = ("eval", folder, "--data", world.root, "--only", "AVE", "--only", "VGGSound")
    error = command(*words).error
    assert "'AVE' is not: task 'AVE', test: 1 of 3 items are broken, more than max_broken=5%" in error
    saved = json.loads((folder / "evals/audio-after-2.json").read_text())["sets"]
    assert list(saved) == ["VGGSound"]
    assert "2 of 3" in command(*words, "max_broken=0.4").out
    clip.write_bytes(whole)
    mended = command(*words)
    assert mended.code == 0 and "3 of 3" in mended.out


# --- names, and what was done before


def test_ids_that_begin_with_a_hyphen_are_ids_like_others(tmp_path: Path):
    assert run(sets(), tmp_path, task=VGG).code == 0
    (folder,) = (tmp_path / "runs").glob("own-s0-*")
    clip = next((sets() / "VGGSound/video").glob("-*"))
    found = command("search", folder, sets() / "VGGSound/video" / clip.name, "--in", "image", "--json")
    assert "but its name says neither recording" in found.error  # a video may be meant as either
    shutil.copy(sets() / "AUDIOCAPS/audio" / "Y-caps000100.wav", tmp_path / "-caps000100.wav")
    found = command("search", folder, tmp_path / "-caps000100.wav", "--in", "image", "--json")
    assert found.code == 0
    hits = json.loads(found.out)
    assert len(hits) == 4 and all(hit["id"].startswith("vggsound/-vgg_") for hit in hits)
    said = command("data", "check", "audiocaps", sets() / "AUDIOCAPS", "--out", tmp_path / "check.csv")
    assert said.code == 0, said.err
    assert "-caps000000" in (tmp_path / "check.csv").read_text()


def test_a_table_spoilt_after_a_run_costs_nothing_that_was_done(own: Callable[..., World], tmp_path: Path):
    root = own("CLOTHO_v2.1").root
    assert run(root, tmp_path).code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    table = root / "CLOTHO_v2.1/clotho_captions_evaluation.csv"
    table.write_bytes(table.read_bytes()[:90])
    assert f"{table}, line 2" in run(root, tmp_path).error
    assert {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()} == before
