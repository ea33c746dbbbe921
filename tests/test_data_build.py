"""``polymnia data build``: a split made from official files, in the layout of those who use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Said, command
from conformance.picture_miniatures import coco, coco_split
from real import DATA, needs_data


def build(*words: object) -> Said:
    return command("data", "build", "coco-supercategory", *words)


def numbers(said: Said, row: str) -> list[int]:
    (line,) = (line for line in said.out.splitlines() if row in line)
    return [int(word.replace(",", "")) for word in line.partition(row)[2].split()]


def test_training_has_an_entry_a_caption_and_validation_an_entry_an_image(tmp_path: Path) -> None:
    coco(tmp_path)
    said = build(tmp_path)
    assert said.code == 0, said.err
    train = json.loads((tmp_path / "annotations/retrieval_train2014.json").read_text())
    assert len(train) == 15  # three images; the fourth has no objects
    assert train[5] == {
        "image": "train2014/COCO_train2014_000000384029.jpg",
        "image_id": 384029,
        "caption": "A street, seen 1 times.",  # as people wrote it: who reads the file cleans it
        "category": 1,
    }
    assert [entry["category"] for entry in train] == [4] * 5 + [1] * 5 + [2] * 5  # animal, person, vehicle
    assert json.loads((tmp_path / "annotations/retrieval_val2014.json").read_text()) == [
        {
            "image": f"val2014/COCO_val2014_{number:012d}.jpg",
            "caption": [f"A {what}, seen {n} times." for n in range(1, 6)],
            "category": category,
        }
        for number, what, category in ((42, "chair", 9), (73, "bird", 4))
    ]


def test_the_sizes_and_what_was_left_out_are_said(tmp_path: Path) -> None:
    coco(tmp_path)
    coco_split(tmp_path, "val2014", {1: (["a cup"], []), 2: ([], [(1, 2.0, False)]), 3: (["a"], [(84, 1.0, True)])})
    said = build(tmp_path)
    assert said.out.split()[:3] == ["images", "train2014", "val2014"]
    found = {name: numbers(said, name) for name in ("animal", "person", "vehicle", "indoor", "food")}
    assert found == {"animal": [1, 0], "person": [1, 0], "vehicle": [1, 0], "indoor": [0, 1], "food": [0, 0]}
    assert numbers(said, "all  ") == [3, 1] and numbers(said, "their captions") == [15, 1]
    assert numbers(said, "no object") == [1, 1] and numbers(said, "no caption") == [0, 1]
    assert f"written: {tmp_path}/annotations/retrieval_val2014.json" in said.out


@needs_data
def test_real_coco_of_2017_is_built_elsewhere_and_a_second_time_is_the_same(tmp_path: Path) -> None:
    said = build(DATA / "coco_mini", "--out", tmp_path)
    assert said.code == 0, said.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["retrieval_train2017.json", "retrieval_val2017.json"]
    assert len(json.loads((tmp_path / "retrieval_train2017.json").read_text())) == 130
    assert numbers(said, "all  ") == [26, 25]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert build(DATA / "coco_mini", "--out", tmp_path) == said
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before  # and not even written again


def test_a_split_without_objects_is_skipped_and_that_is_said(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "annotations/instances_val2014.json").unlink()
    said = build(tmp_path)
    assert said.code == 0 and "val2014 has no instances_val2014.json and was skipped" in said.out
    assert not (tmp_path / "annotations/retrieval_val2014.json").exists()


def test_files_of_the_authors_are_not_written_over(tmp_path: Path) -> None:
    coco(tmp_path)
    theirs = tmp_path / "annotations/retrieval_val2014.json"
    theirs.write_text("[]")
    assert f"{theirs} is there already and says something else" in build(tmp_path).error
    assert theirs.read_text() == "[]"
    assert not (tmp_path / "annotations/retrieval_train2014.json").exists()


def test_an_unknown_split_is_refused_with_those_there_are(tmp_path: Path) -> None:
    said = command("data", "build", "coco-supercategories", tmp_path)
    assert "no 'coco-supercategories'; did you mean 'coco-supercategory'" in said.error


def test_folders_without_annotations_are_refused_with_the_way_out(tmp_path: Path) -> None:
    assert f"{tmp_path}/nowhere does not exist" in build(tmp_path / "nowhere").error
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty has no annotations" in build(tmp_path / "empty").error
    (tmp_path / "empty/annotations").mkdir()
    assert "no split with both captions_<split>.json and instances_<split>.json" in build(tmp_path / "empty").error


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "malformed JSON"),
        ("[]", "expected a JSON dict, found a list"),
        ('{"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}', "image_id 1 is not among the images"),
    ],
)
def test_broken_captions_are_named_and_nothing_is_written(content: str, said: str, tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "annotations/captions_val2014.json").write_text(content)
    error = build(tmp_path).error
    assert said in error and "captions_val2014.json" in error
    assert not list((tmp_path / "annotations").glob("retrieval_*"))


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "file").touch()
    assert f"cannot write to {tmp_path}/file/out" in build(tmp_path, "--out", tmp_path / "file/out").error
