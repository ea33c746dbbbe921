"""Clips that everyone fetches and that are gone: allowed up to a share, left out, and told beside every score."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console

from polymnia.config import parse_part
from polymnia.data import presence
from polymnia.data.tasks import Sets
from polymnia.doctor.examine import examine
from polymnia.recipe import Recipe, override, validate
from polymnia.report.page import write_report
from polymnia.report.tables import print_table
from polymnia.runs.curriculum import read_tasks, splits_read
from polymnia.runs.life import Session
from polymnia.runs.search import search
from polymnia.runs.study import one
from polymnia.types import AudioFile, Captions, ImageFile, Item, UserError

TRAIN, TEST = 20, 10


def clips(folder: Path, name: str, missing: tuple[int, ...]) -> None:
    """20 items to train on and 10 to test; the recordings of ``missing`` are gone."""
    folder.mkdir(parents=True)
    rows = ["id,audio,text,split"]
    for n in range(TRAIN + TEST):
        wave = np.random.default_rng(n).uniform(-0.4, 0.4, 1000)
        if n not in missing:
            soundfile.write(folder / f"{name}{n}.wav", wave, 4000)
        rows.append(f"{name}{n},{name}{n}.wav,the {name} number {n},{'train' if n < TRAIN else 'test'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """20 % of ``near`` are missing (4 of 20 and 2 of 10), 3 of the 10 test items of ``far``, nothing of ``whole``."""
    clips(tmp_path / "near", "a", (0, 5, 6, 19, 20, 29))
    clips(tmp_path / "far", "b", (21, 22, 23))
    clips(tmp_path / "whole", "c", ())
    return tmp_path


def recipe(data: Path, **changes: Any) -> Recipe:
    small = {"width": 16, "layers": 1, "out_dim": 16}
    near, far = {"use": "tube.clips", "root": "near"}, {"use": "tube.shots", "root": "far"}
    raw: dict[str, Any] = {
        "name": "gaps",
        "data": str(data),
        "cache": str(data / "cache"),
        "out": str(data / "runs"),
        "dim": 16,
        "towers": {
            "audio": {"use": "tiny_audio", "seconds": 0.2, "n_mels": 8, **small},
            "text": {"use": "tiny_text", "buckets": 64, **small},
        },
        "train": {"steps": 2, "batch": 8},
        "eval": ["retrieval"],
        "max_broken": 0.0,  # what is missing is not broken
        "tasks": [
            {"name": "one", "pairs": [["audio", "text"]], "data": near},
            {"name": "both", "pairs": [["audio", "text"]], "data": [near, {"use": "manifest", "root": "whole"}]},
            {"name": "full", "pairs": [["audio", "text"]], "data": {"use": "manifest", "root": "whole"}},
        ],
        "watch": [{"name": "seen", "pairs": [["audio", "text"]], "data": far, "eval": ["retrieval"]}],
    }
    return validate(override(raw, {k.replace("__", "."): v for k, v in changes.items()}))


COUNTS = {"one": "8 of 10", "both": "18 of 20", "full": "10 of 10", "seen": "7 of 10"}


def test_a_run_with_a_fifth_of_its_clips_missing_says_so_beside_every_score(data: Path):
    said: list[str] = []
    run = Session(recipe(data), lambda what, *_: said.append(what)).go()
    assert "9 missing clips left out: see meta.json" in said
    assert run.matrix["counts"] == COUNTS
    assert run.matrix["values"]["latest"]["one"]["audio>text/N"][-1] == 8
    meta = json.loads((run.folder / "meta.json").read_text())
    counted = {(d["name"], d["split"]): (d["present"], d["official"]) for d in meta["datasets"]}
    assert counted == {
        ("clips", "train"): (16, 20),
        ("clips", "test"): (8, 10),
        ("shots", "test"): (7, 10),
        ("manifest", "train"): (20, 20),
        ("manifest", "test"): (10, 10),
    }
    assert meta["datasets"][0]["example"].endswith("near/a0.wav")
    one_task = meta["tasks"][0]
    assert one_task["items"] == {"train": 16, "valid": 0, "test": 8} and one_task["failed"] == []
    assert one_task["official"] == {"train": 20, "valid": 0, "test": 10}
    in_the_report(run.folder, data)
    # what was found stands in the folder: the same command gives the finished run, search finds what is there
    assert one(recipe(data)).matrix["counts"] == COUNTS
    assert len(search(run.folder, "the a number 3", "audio", k=50)) == 8 + 10


def test_of_a_set_that_is_only_watched_what_no_evaluator_reads_may_lack_altogether(data: Path):
    for n in range(TRAIN):
        (data / "far" / f"b{n}.wav").unlink()
    found = read_tasks(recipe(data))
    assert not {i.id for i in found.items} & {f"shots/b{n}" for n in range(TRAIN)}
    assert [i.id for i in found.items if i.id.startswith("shots/")] == [f"shots/b{n}" for n in (20, *range(24, 30))]
    probing = {"watch.seen.eval": [{"use": "probe", "kind": "knn"}]}
    with pytest.raises(UserError, match="shots, train: 0 of 20 items are there"):
        read_tasks(recipe(data, **{k.replace(".", "__"): v for k, v in probing.items()}))


@pytest.mark.parametrize(
    ("parts", "splits"),
    [
        (["retrieval", "zeroshot"], ("test",)),
        (["retrieval", {"use": "zeroshot", "split": "all"}], ("train", "valid", "test")),
        ([{"use": "probe", "kind": "knn"}], ("train", "valid", "test")),
        ([], ("test",)),
    ],
)
def test_evaluators_read_all_splits_where_one_of_them_needs_all(parts: list[Any], splits: tuple[str, ...]):
    assert splits_read([parse_part("eval.evaluators", part) for part in parts], "test") == splits


def test_an_optional_set_that_is_not_there_is_left_out_and_another_is_an_error(data: Path):
    (data / "tasks/esc50-v2.0.0-full").mkdir(parents=True)
    (data / "tasks/esc50-v2.0.0-full/task_metadata.json").write_text("{}")
    gunshot = {"use": "hear", "root": "tasks", "task": "gunshot"}  # the folder is there, the task is not
    sets = [
        {"name": n, "data": d, "eval": ["probe"], "optional": True}
        for n, d in (("gunshot", gunshot), ("clips", {"use": "manifest", "root": "nowhere"}))
    ]
    assert read_tasks(recipe(data, watch=sets)).without == ("gunshot", "clips")
    for wanted, said in zip(sets, ("no tasks called 'gunshot'", "nowhere"), strict=True):
        with pytest.raises(UserError, match=said):
            read_tasks(recipe(data, watch=[{**wanted, "optional": False}]))


def in_the_report(folder: Path, out: Path) -> None:
    report = write_report([folder], out / "report")
    text, page = report.markdown.read_text(), report.html.read_text()
    assert "| one (8 of 10) | both (18 of 20) | full |" in text.split("## Score on each task")[0]
    assert "| after | one (8 of 10) | both (18 of 20) | full |" in text.split("## Score on each task")[1]
    assert "### seen: mean of R@1, R@5, R@10 (7 of 10 items)" in text
    assert "data set clips, train: 16 of 20 items are there" in text
    assert page.count("<small>8 of 10</small>") == 2 * 2 and "(7 of 10 there)" in page  # a summary and a matrix a head
    for width in (100, 180):  # single tasks have a column where there is room
        shown = io.StringIO()
        print_table(report, Console(file=shown, width=width))
        assert "one: scored on 8 of 10 items; the others are missing or broken" in shown.getvalue()
        assert shown.getvalue().count("18 of 20") == (2 if width == 180 else 1)
    lines = list(csv.DictReader(report.csv.read_text().splitlines()))
    values = {r["metric"]: float(r["value"]) for r in lines if r["head"] == "latest"}
    assert (values["items/seen"], values["items_official/seen"]) == (7, 10)


def test_more_missing_than_allowed_is_refused_with_set_split_count_path_and_way_out(data: Path):
    with pytest.raises(UserError) as caught:
        read_tasks(recipe(data, watch__seen__data__max_missing=0.2))
    said = str(caught.value)
    assert "shots, test: 7 of 10 items are there, and max_missing allows 20%" in said
    assert "b21.wav" in said and "raise max_missing of shots" in said and "polymnia data check" in said
    assert read_tasks(recipe(data, watch__seen__data__max_missing=0.3)).used("seen") == (7, 10)


def test_absent_files_of_other_sets_are_broken_as_before(data: Path):
    (data / "whole" / "c3.wav").unlink()
    with pytest.raises(UserError, match="task 'both', train: 1 of 36 items are broken, more than max_broken=0%"):
        Session(recipe(data))
    session = Session(recipe(data, max_broken=0.1))
    assert session.dropped["full"].keys() == {"manifest/c3"}
    assert [d for d in session.curriculum.counts if d.name == "manifest"][0].present == 19


def test_a_file_that_no_tower_reads_is_not_missed(data: Path):
    text = {"use": "tiny_text", "width": 16, "layers": 1, "buckets": 64, "out_dim": 16}
    watch = [{"name": "seen", "data": {"use": "tube.shots", "root": "far"}, "eval": ["retrieval"]}]
    found = read_tasks(recipe(data, towers={"text": text}, tasks=[], watch=watch))
    assert found.used("seen") == (10, 10) and found.absent == 0


def test_a_set_of_which_no_test_clip_is_there_is_refused(data: Path):
    for path in (data / "far").glob("b2*.wav"):
        path.unlink()
    changes = {"watch__seen__data__max_missing": 1.0}
    with pytest.raises(UserError, match="task 'seen': not one of its 10 test items is there"):
        read_tasks(recipe(data, **changes))


def test_a_run_does_not_go_on_with_more_clips_than_it_was_begun_with(data: Path):
    one(recipe(data))
    shutil.copy(data / "near" / "a1.wav", data / "near" / "a0.wav")
    with pytest.raises(UserError, match="was begun on other data"):
        one(recipe(data))


def test_the_doctor_tells_what_is_missing_and_finds_nothing_wrong_with_it(data: Path):
    found = examine(json.loads(recipe(data).model_dump_json()))
    told = {f.name: f for f in found.findings if f.area == "data"}
    assert told["clips, test"].value == "8 of 10 clips are there" and found.healthy
    assert {"task": "one", "split": "test", "items": 8, "broken": 0} in found.counts


# --- what is there


def test_each_folder_is_listed_once_and_no_file_is_asked_for(data: Path, monkeypatch: pytest.MonkeyPatch):
    items = Sets(data).items(parse_part("data.datasets", {"use": "tube.clips", "root": "near"}))
    items += Sets(data).items(parse_part("data.datasets", {"use": "tube.shots", "root": "far"}))
    listed: list[str] = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scan(folder))
    monkeypatch.setattr(os, "stat", lambda *_, **__: pytest.fail("asked for a single file"))
    found = presence.missing(items)
    assert sorted(Path(f).name for f in listed) == ["far", "near"]
    assert {i.partition("/")[2] for i in found} == {"a0", "a5", "a6", "a19", "a20", "a29", "b21", "b22", "b23"}


def test_what_is_missing_is_told_by_item_whatever_its_media_are(tmp_path: Path):
    (tmp_path / "a b.wav").touch()
    (tmp_path / "-x.png").touch()
    sound, picture = AudioFile(tmp_path / "a b.wav"), ImageFile(tmp_path / "-x.png")
    items = [
        Item("both", {"audio": sound, "image": picture}, "1"),
        Item("half", {"audio": sound, "image": ImageFile(tmp_path / "gone" / "y.png")}, "2"),
        Item("text", {"text": Captions(("words",))}, "3"),
    ]
    assert presence.missing(items) == {"half": tmp_path / "gone" / "y.png"}
    assert presence.missing(items, ("audio", "text")) == {}


def test_a_set_made_of_others_tolerates_what_they_do():
    def join(left: dict[str, Any]) -> float | None:
        right = {"use": "manifest", "root": "b"}
        part = parse_part("data.datasets", {"use": "join", "root": ".", "left": left, "right": right})
        return presence.tolerated(part.config)

    assert join({"use": "tube.clips", "root": "a", "max_missing": 0.25}) == 0.25
    assert join({"use": "manifest", "root": "a"}) is None
