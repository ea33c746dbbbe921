"""COCO: the rule that gives an image one supercategory, the two forms of its JSON, and what a user can get wrong."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conformance.picture_miniatures import CATEGORIES, coco, coco_split
from pydantic import ValidationError
from real import DATA, needs_data

from polymnia.data.builders import build
from polymnia.data.captions import bare
from polymnia.data.coco import SUPERCATEGORIES, supercategory
from polymnia.data.datasets.coco import Config, items
from polymnia.types import Captions, ImageFile, Item, UserError

MINI = DATA / "coco_mini"
YEAR17 = {"train": ("train2017",), "test": ("val2017",)}


def read(root: Path, **keys: Any) -> dict[str, Item]:
    return {item.id: item for item in items(Config(root=root, **keys))}


def refusal(root: Path, **keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(root, **keys)
    return str(caught.value)


def texts(item: Item) -> tuple[str, ...]:
    captions = item.sources["text"]
    assert isinstance(captions, Captions)
    return captions.texts


def image(item: Item) -> Path:
    source = item.sources["image"]
    assert isinstance(source, ImageFile)
    return source.path


def edit(path: Path, change: Callable[[Any], object]) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


# ---------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("objects", "topic"),
    [
        ([], ""),
        ([("indoor", 0.0)], "indoor"),  # an object without area is still the only one
        ([("person", 3.0), ("food", 2.0), ("food", 1.5)], "food"),  # 3.5 in two pieces is more than 3
        ([("person", 3.0), ("food", 1.5), ("food", 1.5)], "person"),  # 3 and 3: category 1 is below 52
        ([("indoor", 5.0), ("appliance", 5.0), ("electronic", 4.0)], "appliance"),  # 78 is below 84
        ([("animal", 7.0), ("outdoor", 7.0), ("vehicle", 7.0)], "vehicle"),
    ],
)
def test_the_largest_total_area_wins_and_of_equal_ones_the_lowest_category(
    objects: Sequence[tuple[str, float]], topic: str
) -> None:
    assert supercategory(objects) == supercategory(objects[::-1]) == topic


def test_the_order_of_a_file_does_not_decide_by_rounding() -> None:
    tenths = [("indoor", 0.1)] * 10  # one after another, in floating point, 0.9999999999999999
    assert supercategory([*tenths, ("sports", 1 - 2**-53)]) == "indoor"


@needs_data
def test_the_supercategories_stand_in_the_order_of_their_lowest_official_ids() -> None:
    lowest: dict[str, int] = {}
    for kind in json.loads((MINI / "annotations/instances_val2017.json").read_text())["categories"]:
        lowest[kind["supercategory"]] = min(kind["id"], lowest.get(kind["supercategory"], 99))
    assert tuple(sorted(lowest, key=lowest.__getitem__)) == SUPERCATEGORIES


# ---------------------------------------------------------------- the official form


def test_an_item_is_an_image_with_its_captions_and_supercategory(tmp_path: Path) -> None:
    found = read(**coco(tmp_path))
    assert [(i.id, i.topic, i.split, i.origin) for i in found.values()] == [
        ("COCO_train2014_000000057870", "animal", "train", ("coco:57870",)),
        # a crowd of 40 and a person of 30 cover more than a car of 50
        ("COCO_train2014_000000384029", "person", "train", ("coco:384029",)),
        # 222016 has no objects
        ("COCO_train2014_000000000009", "vehicle", "train", ("coco:9",)),
        ("COCO_val2014_000000000042", "furniture", "test", ("coco:42",)),
        ("COCO_val2014_000000000073", "animal", "test", ("coco:73",)),
    ]
    first = found["COCO_train2014_000000057870"]
    assert first.group == first.id
    assert image(first) == tmp_path / "train2014/COCO_train2014_000000057870.jpg"
    assert texts(first) == tuple(f"a dog, seen {n} times." for n in range(1, 6))


def test_captions_can_be_cleaned_and_cut_as_lpi_does(tmp_path: Path) -> None:
    scene = (["A man's well-known dog,  (big)/old: runs! \n", "?!"], [(1, 1.0, False)])
    coco_split(tmp_path, "train2014", {1: scene, 2: (["!", ""], [(1, 1.0, False)])})
    keys: dict[str, Any] = {"test": (), "clean": True}
    assert bare(scene[0][0]) == "a mans well known dog big old runs"
    # what has no letter is no caption, and an image without captions is left out
    assert [texts(i) for i in read(tmp_path, **keys).values()] == [("a mans well known dog big old runs",)]
    assert texts(read(tmp_path, **keys, max_words=4)["COCO_train2014_000000000001"]) == ("a mans well known",)


def test_without_objects_no_instances_are_read_and_no_image_is_left_out(tmp_path: Path) -> None:
    settings = coco(tmp_path)
    for path in (tmp_path / "annotations").glob("instances_*"):
        path.unlink()
    found = read(**settings, objects=False)
    assert len(found) == 6 and {i.topic for i in found.values()} == {""}
    assert "has no annotations/instances_train2014.json, annotations/instances_val2014.json" in refusal(**settings)


def test_splits_are_for_what_the_keys_say_and_a_share_of_training_goes_by_image_id(tmp_path: Path) -> None:
    scenes = {n: ([f"number {n}"], [(1, 1.0, False)]) for n in range(1, 201)}
    coco_split(tmp_path / "a", "train2014", scenes)
    coco_split(tmp_path / "b", "train2017", scenes)
    halves = [
        {i.origin: i.split for i in read(tmp_path / root, train=(split,), test=(), valid_share=0.5).values()}
        for root, split in (("a", "train2014"), ("b", "train2017"))
    ]
    assert halves[0] == halves[1]  # the same images, under other names
    assert 70 < Counter(halves[0].values())["valid"] < 130  # 100 expected, standard deviation 7
    assert {i.split for i in read(tmp_path / "a", train=(), valid=("train2014",), test=()).values()} == {"valid"}


def test_an_image_file_that_is_missing_stays_in_and_no_image_at_all_is_refused(tmp_path: Path) -> None:
    settings = coco(tmp_path)
    before = read(**settings)
    first, *others = (image(i) for i in before.values())
    first.unlink()
    assert read(**settings) == before
    for path in others:
        path.unlink()
    said = refusal(**settings)
    assert "none of its 5 images is there" in said and str(tmp_path / "train2014") in said and "data=" in said


def test_2014_and_2017_may_not_be_mixed(tmp_path: Path) -> None:
    scene = (["a dog"], [(18, 1.0, False)])
    coco_split(tmp_path, "train2017", {7: scene, 8: scene})
    coco_split(tmp_path, "val2014", {8: scene})
    said = refusal(tmp_path, train=("train2017",))
    assert "'000000000008' (train) and 'COCO_val2014_000000000008' (test) are one image" in said


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"train": (), "test": ()}, "all empty"),
        ({"valid": ("val2014",)}, "the split val2014 stands twice"),
        ({"valid": ("val2017",), "valid_share": 0.1}, "not both"),
        ({"form": "lpi", "objects": False}, "objects: false is for form: coco"),
        ({"train": ("../x",)}, "String should match pattern"),
        ({"tests": ("val2014",)}, "did you mean 'test'"),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config(root=Path(), **keys)


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    said = refusal(**coco(tmp_path), train=("train2017",))
    assert "no captions_train2017.json" in said and "did you mean 'train2014'" in said


def test_a_root_one_folder_too_high_or_too_deep_is_told_the_right_one(tmp_path: Path) -> None:
    root = coco(tmp_path / "sets/coco")["root"]
    assert f"too high; give {root} " in refusal(tmp_path / "sets")
    assert f"too deep; give {root} " in refusal(root / "annotations")


CAPTIONS, INSTANCES = "captions_train2014.json", "instances_train2014.json"
BROKEN: list[tuple[str, Callable[[Any], object], str]] = [
    (CAPTIONS, lambda t: t.pop("images"), "no list 'images'.* found: info, licenses, annotations"),
    (CAPTIONS, lambda t: t["images"].append(t["images"][0]), "entry 5 of images: the id 57870 stands there twice"),
    (CAPTIONS, lambda t: t["images"][0].pop("file_name"), "entry 1 of images: no file_name"),
    (CAPTIONS, lambda t: t["images"][0].update(file_name="../a.jpg"), "entry 1 of images: file_name must be the name"),
    (
        CAPTIONS,
        lambda t: t["images"][0].update(id="57870"),
        "entry 1 of images: id must be a whole number, not '57870'",
    ),
    (CAPTIONS, lambda t: t["annotations"][2].update(image_id=1), "entry 3 of annotations: image_id 1 is not among"),
    (CAPTIONS, lambda t: t["annotations"][2].pop("caption"), "entry 3 of annotations: no caption"),
    (CAPTIONS, lambda t: t["annotations"].insert(0, []), r"entry 1 of annotations: an object .* not \[\]"),
    (INSTANCES, lambda t: t["annotations"][0].update(image_id=1), "entry 1 of annotations: image_id 1 is not among"),
    (INSTANCES, lambda t: t["annotations"][0].update(category_id=12), "category_id 12 is not among its categories"),
    (INSTANCES, lambda t: t["annotations"][0].update(area="9"), "area must be a number of square pixels, not '9'"),
    (INSTANCES, lambda t: t["annotations"][0].update(area=float("nan")), "area must be a number .* not nan"),
    (INSTANCES, lambda t: t["categories"][1].update(supercategory="vehicles"), "did you mean 'vehicle'"),
    (INSTANCES, lambda t: t.pop("categories"), "no list 'categories'"),
]


@pytest.mark.parametrize(("name", "change", "said"), BROKEN, ids=[said for _, _, said in BROKEN])
def test_json_that_does_not_fit_is_named_with_its_entry(
    name: str, change: Callable[[Any], object], said: str, tmp_path: Path
) -> None:
    settings = coco(tmp_path)
    edit(tmp_path / "annotations" / name, change)
    with pytest.raises(UserError, match=said) as caught:
        read(**settings)
    assert str(tmp_path / "annotations" / name) in str(caught.value)


# ---------------------------------------------------------------- LPI's form


def test_both_forms_give_the_same_items(tmp_path: Path) -> None:
    settings = coco(tmp_path)
    build("coco-supercategory", tmp_path)
    assert read(**settings, form="lpi") == read(**settings)
    build("coco-supercategory", tmp_path, tmp_path / "elsewhere")
    assert read(**settings, form="lpi", annotations=tmp_path / "elsewhere", valid_share=0.5) == read(
        **settings, valid_share=0.5
    )


LPI: list[tuple[Any, str]] = [
    ({}, "expected a JSON list, found a dict"),
    ([{"caption": "a", "category": 1}], "entry 1: no image"),
    (["a"], "entry 1: no image"),
    ([{"image": "/etc/a.jpg", "caption": "a", "category": 1}], "leads out of the data set's folder"),
    ([{"image": "a/../../b.jpg", "caption": "a", "category": 1}], "leads out of the data set's folder"),
    ([{"image": "a.jpg", "caption": ["a", 1], "category": 1}], "entry 1: caption must be a text, or a list"),
    ([{"image": "a.jpg", "caption": "a", "category": 13}], "category must be a whole number from 1 to 12, not 13"),
    (
        [{"image": "a.jpg", "caption": "a", "category": 1}, {"image": "a.jpg", "caption": "b", "category": 2}],
        "entry 2: 'train2014/a.jpg' is of the category person in an earlier entry, and here vehicle",
    ),
]


@pytest.mark.parametrize(("told", "said"), LPI, ids=[said for _, said in LPI])
def test_a_file_of_lpi_that_does_not_fit_is_named_with_its_entry(told: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/retrieval_train2014.json").write_text(json.dumps(told))
    assert said in refusal(tmp_path, form="lpi", test=())


# ---------------------------------------------------------------- real images


@needs_data
def test_real_coco_has_five_captions_an_image_and_the_supercategory_that_covers_most() -> None:
    found = read(MINI, **YEAR17)
    assert Counter(i.split for i in found.values()) == {"train": 26, "test": 25}
    assert all(len(texts(i)) == 5 and image(i).is_file() for i in found.values())
    for split in ("train2017", "val2017"):
        told = json.loads((MINI / f"annotations/instances_{split}.json").read_text())
        above = {kind["id"]: kind["supercategory"] for kind in told["categories"]}
        assert {number: above[number] for number in CATEGORIES} == {n: c for n, (c, _) in CATEGORIES.items()}
        area: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for thing in told["annotations"]:
            area[f"{thing['image_id']:012d}"][above[thing["category_id"]]] += thing["area"]
        for name, areas in area.items():
            (topic, most), *others = areas.most_common()
            assert all(less < most for _, less in others)  # no ties among these
            assert found[name].topic == topic
