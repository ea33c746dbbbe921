"""ESC-10 and the two digit sets: counts of the real data, captions, splits, and every error that a user can meet."""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from polymnia.data.datasets import esc10, fsdd, mnist
from polymnia.types import Captions, ImageFile, Item, UserError

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
HELD_OUT = "this is a sound of {}"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data sets are not at {SHARED}")


def sizes(items: Sequence[Item]) -> Counter[str]:
    return Counter(item.split for item in items)


def text_of(item: Item) -> tuple[str, ...]:
    captions = item.sources["text"]
    assert isinstance(captions, Captions)
    return captions.texts


# ---------------------------------------------------------------- ESC-10


@real
def test_esc10_has_forty_clips_a_class_and_eighty_a_fold() -> None:
    items = esc10.items(esc10.Config(root=SHARED / "esc10", test_fold=2, valid_fold=5))
    assert len(items) == 400
    assert set(Counter(item.topic for item in items).values()) == {40}
    assert Counter(item.fold for item in items) == {fold: 80 for fold in range(1, 6)}
    assert sizes(items) == {"train": 240, "valid": 80, "test": 80}
    assert {item.fold for item in items if item.split == "test"} == {2}


@real
def test_esc10_classes_first_appear_in_target_order() -> None:
    items = esc10.items(esc10.Config(root=SHARED / "esc10"))
    assert list(dict.fromkeys(item.labels[0] for item in items)) == [
        *("dog_bark", "rain", "sea_waves", "baby_cry", "clock_tick"),
        *("person_sneeze", "helicopter", "chainsaw", "rooster", "fire_crackling"),
    ]


@real
def test_esc10_takes_of_one_recording_stay_in_one_split() -> None:
    items = esc10.items(esc10.Config(root=SHARED / "esc10", valid_fold=2))
    splits: dict[str, set[str]] = {}
    for item in items:
        splits.setdefault(item.id.split("-")[1], set()).add(item.split)
    assert all(len(found) == 1 for found in splits.values())


@real
def test_esc10_without_a_clip_list_is_read_from_its_folders(tmp_path: Path) -> None:
    for place in (SHARED / "esc10").glob("0*"):
        (tmp_path / place.name).symlink_to(place)
    listed = esc10.items(esc10.Config(root=SHARED / "esc10"))
    walked = esc10.items(esc10.Config(root=tmp_path))
    assert [(i.id, i.labels, i.fold, i.split) for i in walked] == [(i.id, i.labels, i.fold, i.split) for i in listed]


def test_esc10_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recordings of ESC-10.*data="):
        esc10.items(esc10.Config(root=tmp_path))


def clips(folder: Path, rows: Sequence[str], header: str = "file,fold,target,category") -> Path:
    (folder / "meta.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_esc10_captions_are_the_templates_filled_with_a_phrase(tmp_path: Path) -> None:
    (tmp_path / "1-1-A.ogg").touch()
    root = clips(tmp_path, ["1-1-A.ogg,1,0,dog_bark", "2-1-A.ogg,2,1,rain"])
    cfg = esc10.Config(root=root, templates=("hear {}", "{}!"), names={"rain": "a downpour"})
    dog, rain = esc10.items(cfg)
    assert text_of(dog) == ("hear a dog barking", "a dog barking!")
    assert text_of(rain) == ("hear a downpour", "a downpour!")
    assert (dog.id, dog.group, dog.labels, dog.fold, dog.split) == ("1-1-A", "dog_bark", ("dog_bark",), 1, "test")
    assert rain.split == "train"


def test_esc10_never_trains_on_the_zero_shot_sentence(tmp_path: Path) -> None:
    templates = esc10.Config(root=tmp_path).templates
    assert len(set(templates)) == 6 and HELD_OUT not in templates


def test_esc10_keeps_a_missing_clip_but_refuses_when_none_is_there(tmp_path: Path) -> None:
    root = clips(tmp_path, ["a.ogg,1,0,rain", "b.ogg,1,0,rain"])
    with pytest.raises(UserError, match="no recordings.*a.ogg.*data="):
        esc10.items(esc10.Config(root=root))
    (root / "b.ogg").touch()
    assert [item.id for item in esc10.items(esc10.Config(root=root))] == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["a.ogg,1,0"], "file,fold,target", "lacks the column.*category"),
        (["a.ogg,one,0,rain"], "file,fold,target,category", "line 2.*whole numbers"),
        (["a.ogg,1,0"], "file,fold,target,category", "line 2.*fewer cells"),
        (["1-1-A.ogg,3,0,rain"], "file,fold,target,category", "no fold 1; folds: 3"),
    ],
)
def test_esc10_names_what_is_wrong_with_the_clip_list(
    tmp_path: Path, rows: list[str], header: str, message: str
) -> None:
    (tmp_path / "1-1-A.ogg").touch()
    with pytest.raises(UserError, match=message):
        esc10.items(esc10.Config(root=clips(tmp_path, rows, header)))


def test_esc10_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for wrong in ({"valid_fold": 1}, {"templates": ["no place"]}, {"templates": []}, {"names": {"rian": "rain"}}):
        with pytest.raises(ValidationError):
            esc10.Config(root=tmp_path, **wrong)


# ---------------------------------------------------------------- spoken digits


@real
def test_fsdd_has_the_official_test_takes() -> None:
    items = fsdd.items(fsdd.Config(root=SHARED / "fsdd", valid_takes=(5, 6)))
    assert len(items) == 1200
    assert sizes(items) == {"train": 780, "valid": 120, "test": 300}
    assert Counter(item.topic for item in items) == {word: 120 for word in DIGITS}
    assert {item.id.split("_")[2] for item in items if item.split == "test"} == {"0", "1", "2", "3", "4"}


@real
def test_fsdd_takes_the_folder_of_recordings_too() -> None:
    assert fsdd.items(fsdd.Config(root=SHARED / "fsdd")) == fsdd.items(fsdd.Config(root=SHARED / "fsdd/recordings"))


def test_fsdd_orders_takes_by_number_and_skips_hidden_files(tmp_path: Path) -> None:
    for name in ("3_theo_10.wav", "3_theo_9.wav", "._3_theo_9.wav"):
        (tmp_path / name).touch()
    items = fsdd.items(fsdd.Config(root=tmp_path, templates=("say {}",)))
    assert [item.id for item in items] == ["3_theo_9", "3_theo_10"]
    assert text_of(items[0]) == ("say three",)
    assert items[0].group == items[0].topic == "three" and items[0].labels == ("three",)


def test_fsdd_refuses_an_empty_folder_a_strange_name_and_test_takes_for_validation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recordings.*data="):
        fsdd.items(fsdd.Config(root=tmp_path))
    (tmp_path / "three.wav").touch()
    with pytest.raises(UserError, match="three.wav is not named"):
        fsdd.items(fsdd.Config(root=tmp_path))
    with pytest.raises(ValidationError, match="official test set"):
        fsdd.Config(root=tmp_path, valid_takes=(4, 5))


# ---------------------------------------------------------------- handwritten digits


@real
def test_mnist_labels_are_those_of_the_file_and_of_the_literature() -> None:
    items = mnist.items(mnist.Config(root=SHARED / "mnist_t10k"))
    with gzip.open(SHARED / "mnist_t10k" / "t10k-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(), dtype=np.uint8, offset=8)
    assert [DIGITS.index(item.topic) for item in items] == labels.tolist()
    published = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert Counter(item.group for item in items) == dict(zip(DIGITS, published, strict=True))
    assert [item.sources["image"].index for item in items] == list(range(10_000))
    assert sizes(items) == {"train": 7000, "test": 3000}


def idx(folder: Path, labels: Sequence[int], prefix: str = "t10k", pictures: int | None = None) -> Path:
    count = len(labels) if pictures is None else pictures
    images = struct.pack(">4I", 2051, count, 2, 3) + bytes(6 * count)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
    (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(struct.pack(">2I", 2049, len(labels)) + bytes(labels))
    )
    return folder


def test_mnist_splits_by_seed_and_leaves_the_rest_for_testing(tmp_path: Path) -> None:
    root = idx(tmp_path, [i % 10 for i in range(50)], prefix="train")

    def split(**settings: Any) -> list[str]:
        cfg = mnist.Config(root=root, prefix="train", train=30, **settings)
        return [item.split for item in mnist.items(cfg)]

    assert Counter(split(valid=5)) == {"train": 30, "valid": 5, "test": 15}
    assert split() == split() != split(seed=1)
    # asking for validation takes from testing, never from training
    assert [s == "train" for s in split(valid=5)] == [s == "train" for s in split()]


def test_mnist_items_point_into_the_container(tmp_path: Path) -> None:
    item = mnist.items(mnist.Config(root=idx(tmp_path, [4, 7]), train=1, templates=("a {}",)))[1]
    assert item.sources["image"] == ImageFile(tmp_path / "t10k-images-idx3-ubyte", 1)
    assert text_of(item) == ("a seven",) and item.id == "t10k-00001" and item.labels == ("seven",)


def test_mnist_refuses_files_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 pictures but .* 2 labels"):
        mnist.items(mnist.Config(root=idx(tmp_path, [1, 2], pictures=3), train=1))
    with pytest.raises(UserError, match="only 2 pictures"):
        mnist.items(mnist.Config(root=idx(tmp_path, [1, 2])))
    with pytest.raises(UserError, match="row 1: label 10 is not a digit"):
        mnist.items(mnist.Config(root=idx(tmp_path, [1, 10]), train=1))
    with pytest.raises(UserError, match="has t10k-images-idx3-ubyte: set prefix.*data="):
        mnist.items(mnist.Config(root=tmp_path, prefix="train"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: raw[:-1], "claims 2 x 2 x 3 bytes, but holds 11; download it again"),
        (lambda raw: b"<!DOCTYPE html>" + raw, "is not an IDX container"),
        (lambda raw: raw[:7], "is not an IDX container"),
    ],
)
def test_mnist_refuses_a_damaged_file(tmp_path: Path, spoil: Callable[[bytes], bytes], message: str) -> None:
    images = idx(tmp_path, [1, 2]) / "t10k-images-idx3-ubyte"
    images.write_bytes(spoil(images.read_bytes()))
    with pytest.raises(UserError, match=message):
        mnist.items(mnist.Config(root=tmp_path, train=1))


def test_mnist_refuses_a_cut_archive(tmp_path: Path) -> None:
    labels = idx(tmp_path, [1, 2]) / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-9])
    with pytest.raises(UserError, match="download it again"):
        mnist.items(mnist.Config(root=tmp_path, train=1))
