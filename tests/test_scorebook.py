"""What a run keeps beside its matrix: ranks of single queries, ceilings, and how many items were there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny, tiny_recipe

from polymnia.data.synth import world
from polymnia.runs import ceilings, ranks
from polymnia.runs.assemble import read_tasks
from polymnia.runs.life import Session
from polymnia.runs.score import Scorebook
from polymnia.types import Item


@pytest.fixture(scope="module")
def session(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A finished run of three tiny tasks."""
    session = Session(tiny(shared, tmp_path_factory.mktemp("scorebook")))
    session.go()
    return session


def load(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "ranks.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_the_ranks_of_the_newest_row_make_up_its_recall(session: Session):
    found, matrices = load(session.folder), session.book.matrices()
    assert int(found.pop("after")) == 3
    assert {k for k in found if not k.endswith("|items")} == {
        f"{task}|{a}>{b}"
        for task, other in (("nature", "image"), ("animals", "text"), ("machines", "image"))
        for a, b in (("audio", other), (other, "audio"))
    }
    for key, values in found.items():
        if key.endswith("|items"):
            continue
        task, _, direction = key.partition("|")
        for k in (1, 5, 10):
            score = matrices["values"]["latest"][task][f"{direction}/R@{k}"][-1]
            assert 100 * np.mean(values <= k) == pytest.approx(score)
        assert values.dtype == np.int32 and len(values) == len(found[f"{key}|items"])


def test_a_caption_is_a_query_of_its_item(session: Session):
    found = load(session.folder)
    items = next(t for t, _ in session.curriculum.tasks if t.name == "animals").test
    assert found["animals|audio>text|items"].tolist() == [i.id for i in items]
    assert found["animals|text>audio|items"].tolist() == [i.id for i in items for _ in i.sources["text"].texts]


def test_a_finished_run_that_goes_on_keeps_its_ranks(session: Session):
    before = (session.folder / "ranks.npz").read_bytes()
    again = Session(session.recipe)
    again.go()
    assert again.book.rows == [0, 1, 2, 3] and (session.folder / "ranks.npz").read_bytes() == before


def test_a_task_without_retrieval_has_no_ranks(session: Session):
    task, _ = session.curriculum.tasks[0]
    assert ranks.of_task((), task, task.test, session.embedder()) == {}


def test_the_ceiling_is_that_of_the_data_set_over_the_directions_of_the_task(session: Session):
    found = session.book.matrices()["ceiling"]
    assert found["nature"] == found["machines"] == 100.0  # sounds and pictures: nothing is ambiguous
    items = next(t for t, _ in session.curriculum.tasks if t.name == "animals").test
    plain = [Item(i.id.rpartition("/")[2], i.sources, i.group, i.topic, i.split, i.labels) for i in items]
    known = world.ceiling(plain)
    pair = [known[f"{d}/R@{k}"] for d in ("audio>text", "text>audio") for k in (1, 5, 10)]
    assert found["animals"] == pytest.approx(sum(pair) / 6) and found["animals"] <= 100


def test_scores_that_a_data_set_knows_no_ceiling_of_have_none(shared: Path, tmp_path: Path):
    recipe = tiny(shared, tmp_path)
    task, cfg = read_tasks(recipe).tasks[1]
    retrieval = [f"{d}/R@{k}" for d in ("audio>text", "text>audio") for k in (1, 5, 10)]
    assert ceilings.of_task(cfg, task.test, retrieval) is not None
    one = cfg.model_copy(update={"score": ("text>audio/R@1",)})
    own = world.ceiling([Item(i.id.rpartition("/")[2], i.sources, i.group, labels=i.labels) for i in task.test])
    assert ceilings.of_task(one, task.test, retrieval) == pytest.approx(own["text>audio/R@1"])
    other = cfg.model_copy(update={"score": ("text>audio/R@1", "text>audio/class_mAP")})
    assert ceilings.of_task(other, task.test, retrieval) is None
    assert ceilings.of_task(cfg, task.test, ["zeroshot/pooled"]) is None


def test_counts_say_how_many_held_out_items_of_all_were_used(session: Session):
    used = {t.name: len(t.test) for t, _ in session.curriculum.tasks}
    written = json.loads((session.folder / "matrix.json").read_text())
    assert written["counts"] == {t: f"{n} of {n}" for t, n in used.items()}
    official = {**session.curriculum.official, "nature": {"train": 99, "valid": 0, "test": used["nature"] + 2}}
    book = Scorebook(session.recipe, replace(session.curriculum, official=official), {})
    book.restore(session.book.state())
    assert book.matrices()["counts"]["nature"] == f"{used['nature']} of {used['nature'] + 2}"


def test_a_watched_set_is_scored_with_the_head_of_the_task_that_it_tests(shared: Path, tmp_path: Path):
    nature = tiny_recipe(shared, tmp_path)["tasks"][0]
    keys = {"data": nature["data"], "pairs": nature["pairs"], "eval": ["retrieval"]}
    own = {"of": {"of": ["nature"]}, "free": {}, "last": {"rows": "last"}}
    watch = [{"name": name, **more, **keys} for name, more in own.items()]
    session = Session(tiny(shared, tmp_path, watch=watch, train__steps=30, heads__audio__init="fresh"))
    session.go()
    values = session.book.matrices()["values"]
    metric = "audio>image/mAP@10"
    latest, stored = (values[head]["nature"][metric] for head in ("latest", "stored"))
    assert latest != stored  # else it would say nothing
    assert values["latest"]["of"][metric] == values["latest"]["free"][metric] == latest
    assert values["stored"]["of"][metric] == stored and values["stored"]["free"][metric] == latest
    assert values["latest"]["last"][metric] == [None, None, None, latest[-1]]
