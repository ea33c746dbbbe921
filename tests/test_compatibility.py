"""Compatibility of encoders: measures by hand, and what a run keeps and says."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_run import small_recipe, small_root, small_run
from torch.nn.functional import normalize

import polymnia as pm
from polymnia.runs import anchors, compatibility
from polymnia.runs.adapters import read_adapter, save
from polymnia.spaces.adapter import Adapter, Chain
from polymnia.spaces.compatibility import Side, judge, measure, score, won_back
from polymnia.types import AudioFile, Captions, Item, Table, Task, UserError


def spread(n: int = 12, d: int = 12) -> torch.Tensor:
    return torch.eye(n, d)


def names(n: int, letter: str = "i") -> tuple[str, ...]:
    return tuple(f"{letter}{k}" for k in range(n))


def sides() -> dict:
    """Sounds and texts of twelve things, told apart by both encoders; the new one has turned the space round."""
    old, new = spread(), spread().roll(1, dims=1)
    return {m: Side(old, new, names(12), names(12, "g")) for m in ("audio", "text")}


def test_a_turned_space_serves_itself_but_not_its_old_vectors():
    found = measure(sides(), "audio", lambda x: x.roll(1, dims=1))
    assert set(found) == {"audio>audio", "text>audio"}
    for scores in found.values():
        assert scores == {"kept": 100.0, "stale": 0.0, "upgraded": 100.0, "self": 100.0}


def test_where_the_query_side_stays_old_vectors_can_do_better_than_new_ones():
    forgot = Side(spread(), torch.ones(12, 12) / 12**0.5, names(12), names(12, "g"))
    still = Side(spread(), spread(), names(12), names(12, "g"))
    scores = measure({"audio": forgot, "text": still}, "audio", lambda x: x)["text>audio"]
    assert scores["stale"] == scores["kept"] == 100.0 and scores["self"] == 0.0
    assert math.isnan(won_back(scores))


def test_the_share_won_back_is_that_of_the_specification():
    assert won_back({"stale": 20.0, "upgraded": 50.0, "self": 80.0, "kept": 0.0}) == 0.5
    assert won_back({"stale": 20.0, "upgraded": 10.0, "self": 40.0, "kept": 0.0}) == -0.5


def test_queries_without_a_positive_are_left_out_and_none_gives_no_score():
    one = spread(12)
    assert score(one[:2], one, ["g0", "nothing"], names(12, "g")) == 100.0
    assert math.isnan(score(one[:1], one, ["nothing"], names(12, "g")))


def test_a_score_is_the_mean_of_three_recalls():
    gallery = spread(12)
    # the true one is third: R@1 = 0, R@5 = R@10 = 1
    query = normalize(3 * gallery[5] + 2 * gallery[6] + gallery[0], dim=0)[None]
    assert score(query, gallery, ["g0"], names(12, "g")) == pytest.approx(200 / 3)


def test_a_judge_prefers_the_map_that_is_right():
    of = judge(sides(), "audio")
    assert of(spread().roll(1, dims=1)) > of(spread()) + 0.5


BOTH = ("audio", "text")


def task(number: int, train: int, group: str = "g{}") -> Task:
    def item(split: str, n: int) -> Item:
        sources = {"audio": AudioFile(Path("x")), "text": Captions(("a", "b"))}
        return Item(f"{number}-{split}-{n}", sources, group.format(n))

    return Task(
        f"t{number}",
        number,
        tuple(item("train", n) for n in range(train)),
        (),
        (item("test", 0),),
        (("audio", "text"),),
    )


def embed(items, modality, what="embedding"):
    ids = [i.id for i in items for _ in range(2 if modality == "text" else 1)]
    values = torch.tensor([[float(len(i) + int(i.split("-")[2])), 1.0] for i in ids])
    return Table(tuple(ids), normalize(values, dim=1), tuple(ids), ("",) * len(ids))


def test_what_is_kept_is_read_back_by_role_and_task(tmp_path):
    tasks = [task(1, 80), task(2, 5)]
    for after in (0, 1):
        anchors.keep(tmp_path, after, tasks, embed, BOTH, 64)
    kept = anchors.read(tmp_path)
    assert kept.tasks == ("t1", "t2") and sorted(kept.rows) == [0, 1]
    fitted, ids, _ = kept.select(1, "audio", ("fit",), (1,))
    held, others, _ = kept.select(1, "audio", ("choose",), (1,))
    assert len(ids) + len(others) == 64 and 8 <= len(others) <= 26 and not set(ids) & set(others)
    by_id = {i.id: i for i in tasks[0].train}
    torch.testing.assert_close(fitted, embed([by_id[i] for i in ids], "audio").vectors)
    texts, of, _ = kept.select(1, "text", ("test",), (1, 2))
    assert of == ("1-test-0", "1-test-0", "2-test-0", "2-test-0") and len(texts) == 4


def test_a_task_of_few_classes_holds_out_items_and_not_classes(tmp_path):
    one = task(1, 60, group="class")
    roles = [a.role for _, a in anchors.choose([one], 60)]
    assert roles.count("choose") > 5 and roles.count("fit") > 30


def test_no_anchors_are_kept_where_none_are_asked_for(tmp_path):
    anchors.keep(tmp_path, 0, [task(1, 8)], embed, BOTH, 0)
    with pytest.raises(UserError, match="no anchors"):
        anchors.read(tmp_path)


def test_what_a_model_cannot_embed_is_left_out(tmp_path):
    anchors.keep(tmp_path, 0, [task(1, 8)], embed, ("audio",), 8)
    assert list(anchors.read(tmp_path).rows[0]) == ["audio"]


def test_items_of_a_class_answer_each_other_where_a_task_is_scored_by_classes():
    assert anchors.of_classes(["audio>image/class_mAP"]) and anchors.of_classes(["zeroshot/pooled"])
    assert not anchors.of_classes(["audio>text/R@10"]) and not anchors.of_classes([])
    one = task(1, 60)
    named = one._replace(train=tuple(replace(i, topic="rain") for i in one.train))
    assert {a.group for i, a in anchors.choose([named], 60, {1}) if i.split == "train" and a.role != "test"} == {
        "rain"
    }
    assert len({a.group for _, a in anchors.choose([named], 60)}) > 50


def test_rows_are_of_the_task_whose_anchors_are_nearest(tmp_path):
    def two(items, modality, what="embedding"):
        ids = [i.id for i in items]
        at = torch.tensor([[1.0, 0.0] if i.startswith("1") else [0.0, 1.0] for i in ids])
        return Table(tuple(ids), at, tuple(ids), ("",) * len(ids))

    anchors.keep(tmp_path, 0, [task(1, 8), task(2, 8)], two, ("audio",), 8)
    asked = normalize(torch.tensor([[1.0, 0.1], [0.2, 1.0], [0.1, 1.0], [0.0, 1.0]]), dim=1)
    assert anchors.read(tmp_path).nearest_tasks(asked, 0, "audio", (1, 2)) == {1: 0.25, 2: 0.75}


def test_damaged_anchors_are_told(tmp_path):
    anchors.keep(tmp_path, 0, [task(1, 8)], embed, BOTH, 8)
    file = tmp_path / "anchors" / "after-0.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match="damaged"):
        anchors.read(tmp_path)


def test_a_run_says_how_compatible_its_encoders_are():
    said = json.loads((small_run() / "compatibility.json").read_text())
    assert {m["direction"] for m in said["measures"]} == {"audio>audio", "image>audio", "text>audio"}
    assert all(m["old"] == 1 and m["new"] == 2 and m["task"] == "seas" for m in said["measures"])
    aligned = [m for m in said["measures"] if m["kind"] == "aligned"]
    assert [m["direction"] for m in aligned] == ["image>audio"]  # the pair that the first task aligns
    assert said["summary"]["stale"] == aligned[0]["stale"]
    assert (small_run() / "adapters" / "audio-1-to-2.safetensors").exists()


def test_a_run_keeps_the_maps_that_its_method_learned(tmp_path):
    cassle = small_recipe(small_root(), method=[{"use": "cassle", "weight": 0.3}], out=str(tmp_path / "runs"))
    run = pm.run(cassle).folder
    assert [p.name for p in (run / "adapters").glob("learned-*")] == ["learned-audio-2-to-1.safetensors"]
    upgrades = compatibility.Upgrades.of(run)
    (at,) = upgrades.learned
    assert at == (2, 1, "audio")
    adapter, newer = read_adapter(run / "adapters" / "learned-audio-2-to-1.safetensors"), upgrades.anchors.rows[2]
    mapped = adapter(newer["audio"].vectors)
    torch.testing.assert_close(mapped.norm(dim=1), torch.ones(len(mapped)))
    assert not compatibility.Upgrades.of(small_run()).learned


def test_a_stored_adapter_maps_as_the_fitted_one_does(tmp_path):
    x = normalize(torch.randn(40, 12, generator=torch.Generator().manual_seed(0)), dim=1)
    ridge = Adapter("ridge", {"weight": torch.eye(12).roll(1, dims=1), "bias": torch.full((12,), 0.1)})
    turn = Adapter("orthogonal", {"weight": torch.eye(12).roll(2, dims=1)})
    for adapter in (Adapter("identity"), ridge, Chain((ridge, turn)), Chain(())):
        path = tmp_path / "audio-1-to-2.safetensors"
        save(path, adapter, {})
        torch.testing.assert_close(read_adapter(path)(x), adapter(x), atol=0, rtol=0)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(UserError, match="no adapter of a run"):
        read_adapter(path)


def test_a_frozen_gallery_needs_no_adapter():
    upgrades = compatibility.Upgrades(anchors.read(small_run()))
    assert upgrades.between(1, 2, "image").kind == "identity"
    assert upgrades.between(1, 2, "image").scores == {}


def test_an_unknown_task_is_told():
    with pytest.raises(UserError, match="no anchors were kept after task 9"):
        compatibility.Upgrades(anchors.read(small_run())).between(1, 9, "audio")
