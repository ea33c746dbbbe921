"""A finished run goes on with more tasks: as if it had had them from the beginning."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from command import command
from prompt_miniatures import PROMPTED
from small_run import small_recipe, small_root, small_run
from tiny import WORLD, tiny_recipe

import polymnia as pm
from polymnia.index.store import Index
from polymnia.index.vectors import read_vectors
from polymnia.runs import anchors
from polymnia.runs.embedding.ask import Ask
from polymnia.runs.embedding.embed import embed
from polymnia.runs.embedding.work import How as EmbedHow
from polymnia.runs.encoder import load, other_names
from polymnia.runs.extend import widened
from polymnia.runs.lookup import Encoders, Query, find
from polymnia.runs.upgrading.upgrade import How, upgrade
from polymnia.runs.weights import read_tensors
from polymnia.types import UserError

METHODS = {
    "finetune": [],
    "cassle": ["cassle"],
    "er and lwf": [{"use": "er", "budget": 40000}, {"use": "lwf", "weight": 0.3}],
    "ewc": ["ewc"],
    "lora": [{"use": "lora", "per_task": True, "modalities": ["audio"], "select": {"centres": 2}}],
    "sprompts and ewc": [{"use": "sprompts", "modalities": ["audio"], "select": {"centres": 2}, "heads": True}, "ewc"],
    "coda": [{"use": "coda", "modalities": ["audio"]}],
}


def both_ways(shared: Path, tmp_path: Path, method: list) -> tuple[Path, Path, Path]:
    """A run of two tasks, that run with a third, and one that had all three from the beginning."""
    raw = tiny_recipe(shared, tmp_path / "runs", method=method, anchors=8)
    # The sounds of the second task, now with pictures: of other items, frozen towers would encode other batches, and
    # the last bits of cached features would differ.
    last = {"name": "third", "pairs": [["audio", "image"]], "data": {**WORLD, "domains": ["animals"]}}
    short = pm.run(raw | {"tasks": raw["tasks"][:2]}).folder
    grown = pm.extend(short, {"tasks": [last]}).folder
    whole = pm.run(raw | {"tasks": [*raw["tasks"][:2], last], "out": str(tmp_path / "whole")}).folder
    return short, grown, whole


@pytest.mark.parametrize("method", METHODS)
def test_an_extended_run_ends_as_if_it_had_had_all_tasks_from_the_beginning(method, shared, tmp_path):
    short, grown, whole = both_ways(shared, tmp_path, METHODS[method])
    assert grown.name == whole.name != short.name
    for after in range(4):
        ours, theirs = (read_tensors(f / "encoders" / f"after-{after}.safetensors") for f in (grown, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), after
    ours, theirs = (json.loads((f / "matrix.json").read_text()) for f in (grown, whole))
    assert ours["rows"] == [0, 1, 2, 3] and ours["values"] == theirs["values"] and ours["summary"] == theirs["summary"]
    kept = [anchors.read(f) for f in (grown, whole)]
    assert [*kept[0].rows] == [0, 1, 2, 3] and kept[0].items == kept[1].items
    for after in range(4):
        for m, rows in kept[0].rows[after].items():
            assert torch.equal(rows.vectors, kept[1].rows[after][m].vectors)
    said = [sorted(json.dumps(x, sort_keys=True) for x in steps(f)) for f in (grown, whole)]
    assert said[0] == said[1] and {x["task"] for x in steps(grown)} == set(ours["tasks"])
    assert sorted(p.name for p in (grown / "adapters").glob("learned-*")) == sorted(
        p.name for p in (whole / "adapters").glob("learned-*")
    )
    assert json.loads((grown / "meta.json").read_text())["extends"]["run"] == short.name


@pytest.mark.parametrize("method", [["dualprompt", "ewc"], [{"use": "lpi", "select": {"centres": 2}, "heads": True}]])
def test_prompts_that_are_drawn_for_all_tasks_at_once_go_on_too(method, shared, tmp_path):
    raw = tiny_recipe(shared, tmp_path / "runs", method=method, **PROMPTED)
    short = pm.run(raw | {"tasks": raw["tasks"][:2]}).folder
    grown = pm.extend(short, {"tasks": raw["tasks"][2:]}).folder
    assert json.loads((grown / "matrix.json").read_text())["rows"] == [0, 1, 2, 3]
    then, taken, now = (
        read_tensors(f / "encoders" / f"after-{n}.safetensors") for f, n in ((short, 2), (grown, 2), (grown, 3))
    )
    own = [k for k in then if k.startswith("method.") and ".tasks." in k]
    assert own and all(torch.equal(then[k], taken[k]) for k in own)
    learned = [k for k in own if torch.equal(now[k], then[k])]
    assert len(learned) == len(own)  # finished tasks' prompts stay as they are
    words = ["a calm sea", "a slow drum"]
    assert (load(short, 2).encode_text(words) == load(grown, 2).encode_text(words)).all()


def steps(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "step"]


@pytest.fixture
def more(tmp_path: Path) -> dict:
    """What a third task of the small run may be."""
    world = small_recipe(small_root())["tasks"][0]["data"]
    return {"tasks": [{"name": "birds", "pairs": [["audio", "text"]], "data": {**world, "domains": ["animals"]}}]}


def test_an_index_of_a_run_is_upgraded_by_the_run_that_extends_it(more, tmp_path):
    first = pm.run(small_recipe(small_root(), out=str(tmp_path / "runs"))).folder
    embed(first, tmp_path / "vectors", Ask(), EmbedHow())
    read = read_vectors(tmp_path / "vectors")
    index = Index.create(tmp_path / "index", read.card)
    index.add(read, read.card)
    path = tmp_path / "more.yaml"
    path.write_text(yaml.safe_dump(more))
    said = command("extend", first, path)
    assert said.code == 0, said.err
    longer = Path(said.out.split("run: ")[-1].strip())
    assert other_names(longer, 2) == [read.card.signature]
    done = upgrade(index.uri, longer, how=How(mode="vectors", force=True))
    assert done.mapped == index.count() and done.card.task == 3
    now = Index.open(index.uri)
    assert [c.task for c in now.cards.values()] == [3]
    assert find(now, Query("a bird"), Encoders())
    # and once more: what was embedded by the first run is known to the third, too
    twice = pm.extend(longer, {"tasks": [{**more["tasks"][0], "name": "engines", "data": {**more["tasks"][0]["data"], "domains": ["machines"]}}]}).folder  # fmt: skip # noqa: E501
    assert read.card.signature in other_names(twice, 2) and len(other_names(twice, 3)) == 1
    # vectors of the shorter run, whose folder is gone, are asked by the longer one
    shutil.rmtree(first)
    old = Index.create(tmp_path / "old", read.card)
    old.add(read, read.card)
    assert find(old, Query("a calm sea"), Encoders((longer,)))


def test_extending_that_was_cut_off_goes_on_and_one_that_is_done_is_not_done_again(more, tmp_path, monkeypatch):
    first = pm.run(small_recipe(small_root(), out=str(tmp_path / "runs"))).folder
    whole = pm.extend(first, more).folder
    expected = {p.name: read_tensors(p) for p in sorted((whole / "encoders").iterdir())}
    stamp = (whole / "meta.json").stat().st_mtime_ns
    assert pm.extend(first, more).folder == whole and (whole / "meta.json").stat().st_mtime_ns == stamp
    shutil.rmtree(whole)

    def cut(*_, **__):
        raise KeyboardInterrupt

    for place in ("polymnia.runs.anchors.keep", "polymnia.train.trainer.Trainer.steps"):  # taking over; learning
        with monkeypatch.context() as m:
            m.setattr(place, cut)
            with pytest.raises(KeyboardInterrupt):
                pm.extend(first, more)
    assert pm.run(whole / "recipe.yaml").folder == whole  # as any run that was cut off
    found = {p.name: read_tensors(p) for p in sorted((whole / "encoders").iterdir())}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n][k], expected[n][k]) for n in found for k in found[n])
    assert json.loads((whole / "meta.json").read_text())["extends"]["run"] == first.name


def test_what_cannot_be_extended_is_told(more, tmp_path):
    def said(run: Path, what: dict) -> str:
        path = tmp_path / "more.yaml"
        path.write_text(yaml.safe_dump(what))
        return command("extend", run, path).error

    assert "has no tasks" in said(small_run(), {"tasks": []})
    assert "unknown key 'train'" in said(small_run(), {**more, "train": {"lr": 1}})
    assert "two tasks are called 'seas'" in said(small_run(), {"tasks": [{**more["tasks"][0], "name": "seas"}]})
    assert "is no run folder" in said(tmp_path, more)
    assert "cannot read" in command("extend", small_run(), tmp_path / "none.yaml").error
    joint = pm.run(small_recipe(small_root(), method=["joint"], out=str(tmp_path / "runs"))).folder
    assert "all its tasks at once" in said(joint, more)
    half = tmp_path / "half"
    shutil.copytree(small_run(), half)
    meta = json.loads((half / "meta.json").read_text())
    (half / "meta.json").write_text(json.dumps(meta | {"finished": None}))
    assert "is not finished" in said(half, more)
    (half / "meta.json").write_text(json.dumps(meta | {"fingerprint": "another"}))
    assert "are others now" in said(half, {**more, "watch": []})
    shutil.rmtree(half / "checkpoints")
    assert "no checkpoints" in said(half, more)


def test_a_state_is_widened_from_its_beginning():
    blank = {"centres": torch.zeros(3, 2), "square": torch.full((3, 3), 9.0), "new": torch.ones(1)}
    old = {"centres": torch.ones(2, 2), "square": torch.eye(2)}
    found = widened(old, blank)
    assert found.keys() == old.keys()
    assert found["centres"].tolist() == [[1, 1], [1, 1], [0, 0]]
    assert found["square"].tolist() == [[1, 0, 9], [0, 1, 9], [9, 9, 9]]
    for wrong in ({"other": torch.ones(1)}, {"centres": torch.ones(4, 2)}, {"centres": torch.ones(2)}):
        with pytest.raises(UserError, match="cannot be extended"):
            widened(wrong, blank)


def test_the_encoder_of_an_extended_run_is_loaded_as_any(more, tmp_path):
    first = pm.run(small_recipe(small_root(), out=str(tmp_path / "runs"))).folder
    longer = pm.extend(first, more).folder
    words = ["a calm sea", "a bird"]
    for after in (0, 1, 2):
        assert (load(first, after).encode_text(words) == load(longer, after).encode_text(words)).all()
