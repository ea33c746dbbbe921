"""What a stranger's collection can hold, through the real command line: counted, listed, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from command import Said, command
from PIL import Image

from polymnia.recipe import override
from polymnia.train import checkpoint

RATE, TRAIN, TEST = 16000, 160, 20
GOOD_BUT_ODD = {"eight", "one", "pixel", "strip", "cut"}
BROKEN = {
    "corrupt": "corrupt.wav: not a readable recording",
    "empty": "empty.wav: is empty (0 bytes)",
    "nan": "nan.wav: holds samples of nan",
    "gone": "gone.wav: No such file or directory",
    "short": "short.wav: is shorter than one sample at 16000 Hz",
    "torn": "torn.png: not a readable picture",
    "bomb": "bomb.png: ",
}


def odd_media(folder: Path, noise: np.ndarray) -> None:
    """One file for each name of BROKEN and GOOD_BUT_ODD; the other medium of such an item is good."""
    for name in (*BROKEN, *GOOD_BUT_ODD):
        soundfile.write(folder / f"{name}.wav", noise, RATE)
        Image.new("RGB", (9, 9), (9, 9, 9)).save(folder / f"{name}.png")
    (folder / "corrupt.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEgarbage and more of it")
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "nan.wav", np.full(1600, np.nan, np.float32), RATE, subtype="FLOAT")
    (folder / "gone.wav").unlink()
    soundfile.write(folder / "short.wav", np.zeros(1), 48000)
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(picture).save(folder / "torn.png")
    (folder / "torn.png").write_bytes((folder / "torn.png").read_bytes()[:3000])
    Image.new("1", (20000, 20000)).save(folder / "bomb.png")
    soundfile.write(folder / "eight.wav", np.tile(noise[:, None], (1, 8)), RATE)
    soundfile.write(folder / "one.wav", np.full(1, 0.5), RATE)
    Image.new("RGB", (1, 1), (200, 0, 0)).save(folder / "pixel.png")
    Image.new("RGB", (20000, 1), (0, 200, 0)).save(folder / "strip.png")
    soundfile.write(folder / "cut.wav", noise, RATE)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:1000])  # what is there is used


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 items to train on, 7 of them broken and 5 odd, and 20 to test."""
    folder, rng = tmp_path_factory.mktemp("bad") / "mine", np.random.default_rng(1)
    folder.mkdir()
    odd_media(folder, rng.uniform(-0.4, 0.4, 1600))
    names = [*BROKEN, *sorted(GOOD_BUT_ODD)]
    names += [f"n{i}" for i in range(TRAIN + TEST - len(names))]
    rows = ["id,audio,image,text,split"]
    for number, name in enumerate(names):
        if name.startswith("n") and name != "nan":
            soundfile.write(folder / f"{name}.wav", rng.uniform(-0.4, 0.4, 1600), RATE)
            Image.new("RGB", (6, 6), tuple(rng.integers(0, 255, 3).tolist())).save(folder / f"{name}.png")
        rows.append(f"{name},{name}.wav,{name}.png,thing {name},{'train' if number < TRAIN else 'test'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def own(collection: Path, tmp_path: Path) -> Path:
    """A copy of the collection that a test may spoil further."""
    return shutil.copytree(collection, tmp_path / "mine")


def recipe(folder: Path, place: Path, **changes: Any) -> Path:
    small = {"width": 16, "layers": 1, "out_dim": 16}
    raw: dict[str, Any] = {
        "name": "bad",
        "data": str(folder.parent),
        "cache": str(place / "cache"),
        "out": str(place / "runs"),
        "dim": 16,
        "towers": {
            "audio": {"use": "tiny_audio", "seconds": 0.1, "n_mels": 8, **small},
            "image": {"use": "tiny_image", "size": 16, **small, "layers": 2},
        },
        "train": {"steps": 3, "batch": 16},
        "eval": ["retrieval"],
        "tasks": [{"name": "mine", "pairs": [["audio", "image"]], "data": {"use": "manifest", "root": folder.name}}],
    }
    path = place / "bad.yaml"
    path.write_text(yaml.safe_dump(override(raw, {k.replace("__", "."): v for k, v in changes.items()})))
    return path


def run(folder: Path, place: Path, *words: str, **changes: Any) -> Said:
    return command("run", recipe(folder, place, **changes), *words)


def meta(place: Path) -> dict[str, Any]:
    (path,) = (place / "runs").glob("*/meta.json")
    return json.loads(path.read_text())


def table(folder: Path, *rows: str) -> Path:
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


# --- media


def test_a_run_goes_on_without_a_few_broken_media_and_lists_them(collection: Path, tmp_path: Path):
    said = run(collection, tmp_path)
    assert said.code == 0, said.err
    assert f"{len(BROKEN)} broken items left out" in said.err
    (task,) = meta(tmp_path)["tasks"]
    assert task["items"] == {"train": TRAIN - len(BROKEN), "valid": 0, "test": TEST}
    listed = {f["id"].removeprefix("manifest/"): f["reason"] for f in task["failed"]}
    assert listed.keys() == BROKEN.keys() and GOOD_BUT_ODD.isdisjoint(listed)
    for name, reason in BROKEN.items():
        assert reason in listed[name]
    matrix = json.loads(next((tmp_path / "runs").glob("*/matrix.json")).read_text())
    assert matrix["rows"] == [0, 1] and all(np.isfinite(r[0]) for r in matrix["score"]["latest"])


def test_a_run_stops_where_too_many_are_broken_and_counts_them(own: Path, tmp_path: Path):
    for n in range(2):
        (own / f"n{n}.wav").write_bytes(b"no")
    error = run(own, tmp_path).error
    assert "task 'mine', train: 9 of 160 items are broken, more than max_broken=5%" in error
    assert "corrupt.wav: not a readable recording" in error and "raise max_broken" in error
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/encoders"))
    assert run(own, tmp_path, "max_broken=0.06").code == 0


def test_broken_test_items_count_by_themselves(own: Path, tmp_path: Path):
    names = [r.split(",")[0] for r in (own / "manifest.csv").read_text().splitlines() if r.endswith("test")][:2]
    (own / f"{names[0]}.png").unlink()
    assert run(own, tmp_path).code == 0 and meta(tmp_path)["tasks"][0]["items"]["test"] == TEST - 1  # 5 % of 20
    (own / f"{names[1]}.png").unlink()
    # the run before is finished, and its items are still named alike: only a new one opens the media
    assert "task 'mine', test: 2 of 20 items are broken" in run(own, tmp_path, "seed=1").error


def test_a_folder_of_nothing_but_broken_media_is_refused(own: Path, tmp_path: Path):
    for path in own.glob("*.wav"):
        path.write_bytes(b"")
    assert "task 'mine', train: 160 of 160 items are broken" in run(own, tmp_path).error
    assert "task 'mine' has no training items" in run(own, tmp_path, "max_broken=1").error


def test_the_doctor_finds_what_headers_say_before_training(collection: Path, tmp_path: Path):
    said = command("doctor", recipe(collection, tmp_path), "--json")
    found = json.loads(said.out)
    assert said.code == 0 and found["ok"]
    # a header does not say that samples are no numbers or that pixels lack
    assert found["counts"][0] == {"task": "mine", "split": "train", "items": TRAIN, "broken": len(BROKEN) - 3}


def test_search_leaves_out_what_the_run_could_not_use(own: Path, tmp_path: Path):
    rows = (own / "manifest.csv").read_text().splitlines()
    name = next(r.split(",")[0] for r in rows if r.endswith("test"))
    (own / f"{name}.wav").write_bytes(b"")
    assert run(own, tmp_path).code == 0
    (folder,) = (tmp_path / "runs").glob("bad-s0-*")
    said = command("search", folder, own / "n0.wav", "-k", "50", "--json")
    assert said.code == 0 and len(json.loads(said.out)) == TEST - 1


# --- the table


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["name,audio", "a,n0.wav"],
            "manifest.csv, line 1: the required column 'id' is missing; there are: name, audio",
        ),
        (["id,audo", "a,n0.wav"], "manifest.csv, line 1: at least one of the columns audio, image, text is required"),
        (["id,audio,text", "a,n0.wav,one", "b,n1.wav,"], "manifest.csv, line 3: empty caption"),
        (["id,audio", "a,n0.wav", "b,n1.wav", "a,n2.wav"], "line 4: duplicate id 'a', first at"),
        (["id,audio", "a,../../etc/passwd"], "line 2: audio '../../etc/passwd' leads out of the data folder"),
        (["id,audio", "a,/etc/hostname"], "line 2: audio '/etc/hostname' leads out of the data folder"),
        (["id,audio"], "manifest.csv has no items"),
        (["id,audio,split", "a,n0.wav,train,x"], "line 2: 4 cells for 3 columns"),
    ],
)
def test_a_table_that_breaks_the_layout_is_refused_with_its_line(
    own: Path, tmp_path: Path, rows: list[str], message: str
):
    assert message in run(table(own, *rows), tmp_path).error


def test_a_link_that_leads_out_of_the_folder_is_refused(own: Path, tmp_path: Path):
    (own / "link.wav").symlink_to(tmp_path / "elsewhere.wav")
    assert "leads out of the data folder" in run(table(own, "id,audio", "a,link.wav"), tmp_path).error


def test_a_collection_that_is_not_there_is_refused_with_what_to_point_at(own: Path, tmp_path: Path):
    shutil.rmtree(own)
    assert "Point data=FOLDER at the folder that holds it" in run(own, tmp_path).error


# --- tasks


def test_a_task_without_items_is_refused(own: Path, tmp_path: Path):
    assert "task 'mine': no items of topic sea" in run(own, tmp_path, tasks__0__topics=["sea"]).error


def test_a_task_with_fewer_than_two_groups_is_refused(own: Path, tmp_path: Path):
    rows = [f"{n},n{n}.wav,n{n}.png,all,{'test' if n > 5 else 'train'}" for n in range(9)]
    error = run(table(own, "id,audio,image,group,split", *rows), tmp_path).error
    assert "task 'mine' has 1 group(s) with audio and image in training; contrast needs at least two" in error


def test_a_task_whose_items_lack_a_modality_is_refused_before_training(own: Path, tmp_path: Path):
    rows = [f"{n},n{n}.wav,{'test' if n > 5 else 'train'}" for n in range(9)]
    assert "0 group(s) with audio and image" in run(table(own, "id,audio,split", *rows), tmp_path).error


def test_a_task_that_needs_a_tower_which_is_not_there_is_refused(own: Path, tmp_path: Path):
    error = run(own, tmp_path, tasks__0__pairs=[["audio", "text"]]).error
    assert "task 'mine' needs a tower for text: give towers.text" in error


def test_a_task_without_test_items_is_refused_before_it_is_trained(own: Path, tmp_path: Path):
    rows = [f"{n},n{n}.wav,n{n}.png,train" for n in range(9)]
    assert "'mine' has no test items to be scored on" in run(table(own, "id,audio,image,split", *rows), tmp_path).error
    assert not list((tmp_path / "runs").glob("*/checkpoints/*"))


def test_early_stopping_without_validation_items_is_refused_before_anything_is_decoded(own: Path, tmp_path: Path):
    rows = [f"{n},n{n}.wav,n{n}.png,{'test' if n > 6 else 'train'}" for n in range(9)]
    made = run(table(own, "id,audio,image,split", *rows), tmp_path, "train.stop={patience: 1}")
    assert "task 'mine' has no valid items, which train.stop" in made.error


# --- the recipe


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.stepz=3", "train: unknown key 'stepz'; did you mean 'steps'?"),
        (
            "tasks.mine.data.roof=x",
            "tasks.0.data.0: in data.datasets 'manifest': unknown key 'roof'; did you mean 'root'?",
        ),
        ("train.steps=ten", "train.steps: Input should be a valid integer"),
        ("tasks.0.data.test_share=2", "test_share: Input should be less than or equal to 1"),
        ("method=[{use: lwff}]", "no 'lwff' in methods; did you mean 'lwf'?"),
        ("heads.audio={kind: linear, hiden: 3}", "heads.audio: unknown key 'hiden'; did you mean 'hidden'?"),
        ("towers.audio.out_dim=20", "an identity head needs features of the joint size 16, not 20"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_by_its_key(collection: Path, tmp_path: Path, word: str, message: str):
    assert message in run(collection, tmp_path, word).error


# --- other data


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda t: t.replace("thing n3,", "another thing,"), id="a caption"),
        pytest.param(lambda t: "\n".join(t.splitlines()[:-1]), id="an item less"),
        pytest.param(lambda t: t.replace("n5,", "m5,", 1), id="an id"),
    ],
)
def test_a_run_is_not_resumed_on_other_data_nor_its_result_taken_for_theirs(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[str], str]
):
    save = checkpoint.save

    def dying(*state: Any) -> None:
        save(*state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", dying)
        assert run(own, tmp_path, "checkpoint_every=1").code not in (0, 2)
    good, path = (own / "manifest.csv").read_text(), own / "manifest.csv"
    for _ in range(2):  # half done, then finished
        path.write_text(spoil(good))
        assert "was begun on other data (the items differ). Give data= the folder" in run(own, tmp_path).error
        path.write_text(good)
        assert run(own, tmp_path).code == 0
    there = shutil.copytree(
        own, tmp_path / "elsewhere" / own.name
    )  # the same items in another place are the same data
    before = meta(tmp_path)
    assert run(own, tmp_path, f"data={there.parent}").code == 0 and meta(tmp_path) == before
