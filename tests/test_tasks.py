"""From data sets to tasks: by domain, by class, by modality, or as the user lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from polymnia.config import Part, explain
from polymnia.data.tasks import Sets, TaskData, build_tasks, needed
from polymnia.types import AudioFile, Captions, ImageFile, Item, Task, UserError

HEADER = "id,audio,image,text,group,topic,split,labels"
SPLITS = (("train", "loud"), ("train", "soft"), ("test", "loud"))
ROWS = [
    f"{t}{n},{t}{n}.wav,{t}{n}.png,a {t},,{t},{split},{label}"
    for t in ("sea", "owl", "saw")
    for n, (split, label) in enumerate(SPLITS)
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    table(tmp_path / "mine", *ROWS)
    return tmp_path


def table(folder: Path, *rows: str, header: str = HEADER) -> None:
    folder.mkdir()
    (folder / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")


def data(root: str = "mine", **more: Any) -> dict[str, Any]:
    return {"use": "manifest", "root": root, **more}


def build(root: Path, *configs: dict[str, Any], learned: bool = True) -> list[Task]:
    made = [TaskData(**{"name": f"t{i}", "data": data(), **c}) for i, c in enumerate(configs)]  # type: ignore[arg-type]
    return [task for task, _ in build_tasks(made, Sets(root), learned)]


def ids(task: Task) -> list[str]:
    return [i.id for s in ("train", "valid", "test") for i in getattr(task, s)]


def test_domains_one_after_another_are_tasks_by_topic(root: Path):
    sea, owl = build(root, {"topics": ["sea"]}, {"topics": ["owl"], "name": "birds"})
    assert [(t.name, t.index, len(t.train), len(t.valid), len(t.test)) for t in (sea, owl)] == [
        ("t0", 1, 2, 0, 1),
        ("birds", 2, 2, 0, 1),
    ]
    assert ids(sea) == ["manifest/sea0", "manifest/sea1", "manifest/sea2"]


def test_modalities_one_after_another_are_pairs_over_the_same_items(root: Path):
    av, at = build(root, {"pairs": [["audio", "image"]]}, {"pairs": [["audio", "text"]]})
    assert av.train == at.train and (av.pairs, at.pairs) == ((("audio", "image"),), (("audio", "text"),))
    assert av.modalities == ("audio", "image", "text")  # of the items; what training reads is the pairs':
    assert needed(av, ["audio"]) == ("audio", "image") and needed(at, ["audio"]) == ("audio", "text")


def test_without_pairs_training_reads_what_learns(root: Path):
    (task,) = build(root, {})
    assert needed(task, ["image"]) == ("image",)


def test_a_split_makes_a_task_of_every_topic_in_the_order_found(root: Path):
    assert [t.name for t in build(root, {"split": {"by": "topic"}})] == ["t0-sea", "t0-owl", "t0-saw"]


def test_classes_come_so_many_a_task_in_the_order_given(root: Path):
    first, second = build(root, {"split": {"by": "topic", "per_task": 2, "order": ["saw", "sea", "owl"]}})
    assert (first.name, second.name) == ("t0-saw+sea", "t0-owl") and (first.index, second.index) == (1, 2)
    assert {i.topic for i in first.train} == {"saw", "sea"} and {i.topic for i in second.test} == {"owl"}


def test_a_split_by_label_takes_the_first_label(root: Path):
    loud, soft = build(root, {"split": {"by": "label"}})
    assert [len(ids(t)) for t in (loud, soft)] == [6, 3] and {i.labels for i in soft.train} == {("soft",)}


def test_the_parts_of_a_split_are_the_whole(root: Path):
    (whole,) = build(root, {})
    parts = build(root, {"split": {"by": "group", "per_task": 4}})
    assert sorted(x for t in parts for x in ids(t)) == sorted(ids(whole)) and len(parts) == 3


def test_the_position_of_the_config_stands_beside_every_task(root: Path):
    configs = [TaskData(name="a", data=data(), split={"by": "topic"}), TaskData(name="b", data=data())]  # type: ignore[arg-type]
    assert [position for _, position in build_tasks(configs, Sets(root))] == [0, 0, 0, 1]


def test_a_joint_task_takes_items_of_several_sets_each_once(root: Path):
    table(root / "more", "x,x.wav,x.png,an x,,sky,train,")
    (task,) = build(root, {"data": [data(), data("more"), data()]})
    assert len(ids(task)) == 10 and ids(task).count("manifest/sea0") == 1


def test_the_same_thing_in_two_choices_of_one_set_has_one_id(root: Path):
    a, b = build(
        root, {"data": data(), "topics": ["sea"]}, {"data": data(file="manifest.csv"), "topics": ["sea", "owl"]}
    )
    assert set(ids(a)) <= set(ids(b))


def test_two_sets_that_number_alike_do_not_share_media(root: Path):
    table(root / "other", *ROWS)
    for name in ("sea0", "owl1"):
        assert not (root / "other" / f"{name}.wav").exists()  # nothing is opened here: the paths alone tell them apart
    first, second = build(root, {}, {"data": data("other")})
    assert set(ids(first)).isdisjoint(ids(second)) and ids(second)[0] == "manifest.2/sea0"
    assert second.train[0].sources["audio"] == AudioFile(root.resolve() / "other" / "sea0.wav")


def test_a_thing_that_is_its_own_group_stays_so_among_several_sets(root: Path):
    table(root / "other", *ROWS)
    (task,) = build(root, {"data": [data(), data("other")]})
    assert len({i.group for i in task.train}) == len(task.train) == 12


def test_a_group_that_is_named_holds_across_sets(root: Path):
    for name in ("one", "two"):
        table(root / name, "1,a.wav,,x,dogs,,train,", "2,b.wav,,x,,,train,")
    (task,) = build(root, {"data": [data("one"), data("two")]})
    assert [i.group for i in task.train] == ["dogs", "manifest/2", "dogs", "manifest.2/2"]


def test_one_id_for_two_things_within_a_set_is_refused(root: Path):
    class Careless(Sets):
        def items(self, part: Part) -> list[Item]:
            return [Item("x", {"text": Captions((t,))}, "g") for t in ("one", "two")]

    with pytest.raises(UserError, match="task 't': two different items are called 'x'"):
        build_tasks([TaskData(name="t", data=data())], Careless(root))  # type: ignore[arg-type]


def test_other_captions_of_the_same_medium_are_another_thing(root: Path):
    (root / "mine" / "b.csv").write_text("\n".join([HEADER, *(r.replace(",a ", ",the ") for r in ROWS)]))
    first, second = build(root, {}, {"data": data(file="b.csv")})
    assert first.train[0].sources["text"] == Captions(("a sea",))
    assert second.train[0].sources["text"] == Captions(("the sea",)) and first.train[0].id != second.train[0].id


def test_names_of_sets_do_not_depend_on_how_often_they_are_read(root: Path):
    table(root / "other", *ROWS)
    sets, part = Sets(root), TaskData(name="t", data=data("other")).data[0]  # type: ignore[arg-type]
    sets.items(TaskData(name="t", data=data()).data[0])  # type: ignore[arg-type]
    assert [i.id for i in sets.items(part)] == [i.id for i in sets.items(part)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"topics": ["sea", "ice"]}, "task 't0': no items of topic ice"),
        ({"split": {"order": ["ice"]}}, "task 't0': split.order names ice, which no item has"),
        ({"split": {"order": ["sea"]}}, "task 't0': split.order leaves out .*; name every value"),
        ({"name": "x"}, "two tasks are called 'x'"),
        ({"data": data("gone")}, "not found: .*gone does not exist. Point data="),
        ({"data": []}, "task 't0' has no items"),
    ],
)
def test_a_task_that_cannot_be_built_says_why(root: Path, config: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        build(root, config, {"name": "x"})


@pytest.mark.parametrize(
    ("rows", "count"),
    [(["a,a.wav,,x,one,,train,", "b,b.wav,,x,one,,train,"], 1), (["a,a.wav,,x,,,train,", "b,,b.png,x,,,train,"], 1),
     (["a,a.wav,,x,,,test,", "b,b.wav,,x,,,test,"], 0)],
)  # fmt: skip
def test_contrast_needs_two_groups_that_have_both_modalities(root: Path, rows: list[str], count: int):
    table(root / "few", *rows)
    config = {"data": data("few"), "pairs": [["audio", "text"]]}
    with pytest.raises(UserError, match=rf"task 't0' has {count} group\(s\) with audio and text in training"):
        build(root, config)
    assert len(build(root, config, learned=False)) == 1  # a set that is only watched trains nothing


def test_items_that_lack_a_modality_stay_in_the_task(root: Path):
    table(root / "gaps", "a,a.wav,,x,,,train,", "b,b.wav,b.png,x,,,train,", "c,c.wav,c.png,x,,,train,")
    (task,) = build(root, {"data": data("gaps"), "pairs": [["audio", "image"]]})
    assert len(task.train) == 3
    assert task.train[1].sources["image"] == ImageFile(root.resolve() / "gaps" / "b.png")


def test_a_pair_is_of_two_modalities():
    with pytest.raises(ValidationError) as caught:
        TaskData(name="t", data=data(), pairs=[["text", "text"]])  # type: ignore[arg-type]
    assert explain(caught.value) == "pairs: a pair is of two different modalities"


def test_a_task_may_be_tested_on_some_of_its_data_sets(root: Path, tmp_path: Path) -> None:
    digits = {"use": "fsdd", "root": "digits"}
    (tmp_path / "digits").mkdir()
    for name in ("0_george_0", "0_george_5", "1_theo_0", "1_theo_5"):
        (tmp_path / "digits" / f"{name}.wav").touch()
    both, mine = build(root, {"data": [data(), digits]}, {"data": [data(), digits], "test_on": ["manifest"]})
    assert {i.id.partition("/")[0] for i in both.test} == {"manifest", "fsdd"}
    assert mine.train == both.train and mine.test == tuple(i for i in both.test if i.id.startswith("manifest/"))
    with pytest.raises(UserError, match="test_on names 'fsd'; did you mean 'fsdd'"):
        build(root, {"data": [data(), digits], "test_on": ["fsd"]})
