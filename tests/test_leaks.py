"""Recordings that are both learned and tested: found across data sets, refused, allowed or dropped, and told."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from polymnia.config import Part, parse_part
from polymnia.data import leaks
from polymnia.data.leaks import Leak
from polymnia.data.tasks import Reading
from polymnia.recipe import Recipe, override, plan, validate
from polymnia.report.page import write_report
from polymnia.runs.curriculum import read_tasks
from polymnia.runs.life import Session
from polymnia.types import AudioFile, Captions, ImageFile, Item, Source, UserError, VideoFile

PART: Part = parse_part("data.datasets", {"use": "manifest", "root": "x"})
HERE = Path("/data/here")


def item(id: str, origin: str = "", audio: Source | None = None, split: Any = "train") -> Item:
    sources = {"audio": audio} if audio else {"text": Captions((id,))}
    return Item(id, sources, id, split=split, origin=(origin,) if origin else ())  # type: ignore[arg-type]


def find(learned: list[Item], scored: list[Item], held_out: list[Item] | None = None, **roots: Path) -> list[Leak]:
    """Leaks, every set at one root unless said."""
    names = sorted({i.id.partition("/")[0] for i in learned + scored})
    readings = [
        Reading(n, PART, roots.get(n, HERE), [i for i in learned + scored if i.id.startswith(f"{n}/")]) for n in names
    ]
    return leaks.find(learned, scored, scored if held_out is None else held_out, readings)


def told(found: list[Leak]) -> list[tuple[str, str, str, int, int]]:
    return [(k.learned, k.scored, k.outcome, len(k.learned_ids), len(k.scored_ids)) for k in found]


# --- what is the same material


def test_items_of_two_sets_that_share_a_recording_are_a_leak():
    learned = [item("caps/1", "youtube:a"), item("caps/2", "youtube:b"), item("caps/3", "youtube:a"), item("caps/4")]
    scored = [item("set/1", "youtube:a"), item("set/2", "youtube:c"), item("set/3")]
    (found,) = find(learned, scored)
    assert told([found]) == [("caps", "set", "leak", 2, 1)]
    assert found.examples == (("caps/1", "set/1", "youtube:a"), ("caps/3", "set/1", "youtube:a"))


def test_leaks_are_told_a_pair_of_sets_at_a_time():
    learned = [item("fsd/1", "freesound:1"), item("wav/1", "freesound:1"), item("wav/2", "freesound:2")]
    scored = [item("esc/1", "freesound:1"), item("clotho/2", "freesound:2"), item("clotho/1", "freesound:1")]
    assert sorted(told(find(learned, scored))) == [
        ("fsd", "clotho", "leak", 1, 1),
        ("fsd", "esc", "leak", 1, 1),
        ("wav", "clotho", "leak", 2, 2),
        ("wav", "esc", "leak", 1, 1),
    ]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (AudioFile(Path("a.wav")), AudioFile(Path("a.wav")), True),
        (AudioFile(Path("a.wav")), AudioFile(Path("b.wav")), False),
        (AudioFile(Path("a.wav"), 0.0, 10.0), AudioFile(Path("a.wav"), 10.0, 10.0), False),
        (AudioFile(Path("a.wav"), 0.0, 10.0), AudioFile(Path("a.wav"), 9.5, 10.0), True),
        (AudioFile(Path("a.wav"), 20.0), AudioFile(Path("a.wav"), 0.0, 10.0), False),
        (AudioFile(Path("a.mp4"), 0.0, 5.0), VideoFile(Path("a.mp4")), True),
        (ImageFile(Path("idx"), 3), ImageFile(Path("idx"), 3), True),
        (ImageFile(Path("idx"), 3), ImageFile(Path("idx"), 4), False),
    ],
)
def test_one_file_in_two_sets_is_a_leak_where_its_stretches_overlap(one: Source, other: Source, same: bool):
    found = find([item("a/1", audio=one)], [item("b/1", audio=other)])
    assert bool(found) == same
    if same:
        assert found[0].examples[0][2].startswith("the file ")


def test_what_is_found_is_what_comparing_every_item_with_every_item_finds():
    rng = random.Random(3)

    def some(name: str, count: int) -> list[Item]:
        files = [Path(f"{rng.randrange(4)}.wav") for _ in range(count)]
        spans = [AudioFile(path, float(rng.randrange(50)), float(rng.randrange(1, 6))) for path in files]
        return [item(f"{name}/{n}", f"youtube:{rng.randrange(40)}", s) for n, s in enumerate(spans)]

    def same(a: Item, b: Item) -> bool:
        x, y = a.sources["audio"], b.sources["audio"]
        apart = x.path != y.path or x.start + x.seconds <= y.start or y.start + y.seconds <= x.start  # type: ignore
        return a.origin == b.origin or not apart

    learned, scored = some("a", 60), some("b", 60)
    (found,) = find(learned, scored)
    both = {(a.id, b.id) for a in learned for b in scored if same(a, b)}
    assert found.learned_ids == {a for a, _ in both} and found.scored_ids == {b for _, b in both}


# --- what is trusted


def test_the_official_splits_of_one_set_are_trusted_and_counted():
    found = find([item("ave/1", "youtube:a"), item("ave/2", "youtube:b")], [item("ave/9", "youtube:a")])
    assert told(found) == [("ave", "ave", "trusted", 1, 1)]


def test_two_roots_are_two_sets_even_of_one_name():
    learned, scored = [item("manifest/1", "youtube:a")], [item("manifest/9", "youtube:a")]
    readings = [Reading("manifest", PART, HERE, learned), Reading("manifest", PART, HERE / "b", scored)]
    assert told(leaks.find(learned, scored, scored, readings)) == [("manifest", "manifest", "leak", 1, 1)]


def test_an_item_that_two_tasks_split_differently_is_a_leak_and_one_that_is_looked_at_on_purpose_is_not():
    one, two = item("esc/1"), item("esc/2", split="test")
    assert told(find([one], [one, two], held_out=[one, two])) == [("esc", "esc", "leak", 1, 1)]
    assert told(find([one], [one, two], held_out=[two])) == [("esc", "esc", "trusted", 1, 1)]


# --- what becomes of it


def test_a_leak_is_refused_with_pair_count_ids_and_the_ways_out():
    learned = [item(f"fsd50k/{n}", f"freesound:{n}") for n in range(9)]
    found = find(learned, [item("esc50/x", "freesound:3"), item("esc50/y", "freesound:4")])
    with pytest.raises(UserError) as caught:
        leaks.settle(found, [], False)
    said = str(caught.value)
    assert "2 scored items of esc50 are the same material as 2 training items of fsd50k" in said
    assert "fsd50k/3 = esc50/x by freesound:3" in said and "exclusion list" in said
    assert "drop_leaks: true (trains without 2 of its items)" in said and "allow_leaks: [[fsd50k, esc50]]" in said


@pytest.mark.parametrize("pair", [("fsd50k", "esc50"), ("*", "esc50"), ("fsd50k", "*"), ("*", "*")])
def test_a_leak_is_allowed_by_the_names_of_its_sets(pair: tuple[str, str]):
    found = find([item("fsd50k/1", "freesound:1")], [item("esc50/1", "freesound:1")])
    assert [k.outcome for k in leaks.settle(found, [pair], False)] == ["allowed"]


def test_an_allowed_pair_is_a_direction_and_a_name_means_its_numbered_sets_too():
    found = find([item("manifest.2/1", "freesound:1")], [item("esc50/1", "freesound:1")])
    assert [k.outcome for k in leaks.settle(found, [("manifest", "esc50")], False)] == ["allowed"]
    for wrong in (("esc50", "manifest"), ("manifest.3", "esc50")):
        with pytest.raises(UserError, match="training and test data overlap"):
            leaks.settle(found, [wrong], False)


def test_dropping_goes_over_allowing():
    found = find([item("fsd50k/1", "freesound:1")], [item("esc50/1", "freesound:1")])
    assert [k.outcome for k in leaks.settle(found, [("*", "*")], True)] == ["dropped"]


def test_what_is_trusted_is_neither_refused_nor_dropped():
    found = find([item("ave/1", "youtube:a")], [item("ave/9", "youtube:a")])
    assert [k.outcome for k in leaks.settle(found, [], True)] == ["trusted"]


# --- in a recipe


def table(folder: Path, rows: list[tuple[str, str, str]], rate: int = 4000) -> None:
    """A set of clips: id, video, split."""
    folder.mkdir(parents=True)
    lines = ["id,audio,text,topic,split"]
    for n, (id, video, split) in enumerate(rows):
        wave = np.random.default_rng(n).uniform(-0.4, 0.4, rate // 4)
        soundfile.write(folder / f"{id}.wav", wave, rate)
        lines.append(f"{id},{id}.wav,a {id},{video},{split}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``clips`` trains on videos 0 to 7 and tests on 8 and 9; ``shots`` tests on videos 0 and 1 (and on 20 to 23)."""
    root = tmp_path_factory.mktemp("leaks")
    table(root / "clips", [(f"c{n}", f"v{n}", "train" if n < 8 else "test") for n in range(10)])
    tests = [(f"s{n}", f"v{n}", "test") for n in (0, 1, 20, 21, 22, 23)]
    table(root / "shots", [*tests, *((f"s{n}", f"v{n}", "train") for n in (30, 31, 32))])
    return root


def recipe(data: Path, **changes: Any) -> Recipe:
    small = {"seconds": 0.2, "n_mels": 8, "width": 16, "layers": 1, "out_dim": 16}
    raw: dict[str, Any] = {
        "name": "leaky",
        "data": str(data),
        "cache": str(data / "cache"),
        "out": str(data / "runs"),
        "dim": 16,
        "towers": {
            "audio": {"use": "tiny_audio", **small},
            "text": {"use": "tiny_text", "width": 16, "layers": 1, "buckets": 64, "out_dim": 16},
        },
        "train": {"steps": 2, "batch": 4},
        "eval": ["retrieval"],
        "examples": 0,
        "tasks": [{"name": "AT", "pairs": [["audio", "text"]], "data": {"use": "tube.clips", "root": "clips"}}],
        "watch": [{"name": "far", "data": {"use": "tube.shots", "root": "shots"}, "eval": ["retrieval"]}],
    }
    return validate(override(raw, {k.replace("__", "."): v for k, v in changes.items()}))


def test_a_recipe_that_trains_on_what_a_watched_set_tests_is_refused(data: Path):
    with pytest.raises(UserError, match="2 scored items of shots are the same material as 2 training items of clips"):
        read_tasks(recipe(data))


def test_leaks_that_are_allowed_change_nothing_and_are_kept(data: Path):
    found = read_tasks(recipe(data, allow_leaks=[["clips", "shots"]]))
    assert len(found.tasks[0][0].train) == 8 and [k.outcome for k in found.leaks] == ["allowed"]


def test_leaks_that_are_dropped_leave_training_and_nothing_else(data: Path):
    found = read_tasks(recipe(data, drop_leaks=True))
    task, far = found.tasks[0][0], found.watch[0]
    assert [i.id for i in task.train] == [f"clips/c{n}" for n in range(2, 8)]
    assert (len(task.test), len(far.test), len(far.train)) == (2, 6, 3)
    assert found.official["AT"] == {"train": 8, "valid": 0, "test": 2} and found.used("far") == (6, 6)


def test_too_little_left_after_dropping_is_refused(data: Path, tmp_path: Path):
    few = {"use": "tube.clips", "root": "few"}
    table(tmp_path / "few", [("c0", "v0", "train"), ("c1", "v1", "train"), ("c9", "v9", "test")])
    (tmp_path / "shots").symlink_to(data / "shots")
    with pytest.raises(UserError, match=r"task 'AT' has 0 group\(s\) with audio and text in training"):
        read_tasks(recipe(tmp_path, drop_leaks=True, tasks__0__data=few))


def test_a_task_that_trains_no_step_learns_nothing_that_could_leak(data: Path):
    assert read_tasks(recipe(data, train__steps=0)).leaks == ()


def test_a_stage_learns_too(data: Path):
    stage = {
        "name": "before",
        "learn": ["audio"],
        "pairs": [["audio", "text"]],
        "data": {"use": "tube.clips", "root": "clips"},
    }
    changes = {"tasks": [], "stages": [stage]}
    with pytest.raises(UserError, match="2 scored items of shots are the same material as 2 training items of clips"):
        read_tasks(recipe(data, **changes))
    assert read_tasks(recipe(data, tasks=[], stages=[{**stage, "train": {"steps": 0}}])).leaks == ()


def test_an_item_of_two_tasks_is_dropped_where_it_is_trained_and_stays_where_it_is_tested(data: Path):
    lines = (data / "clips" / "manifest.csv").read_text().replace("v3,train", "v3,test")
    (data / "clips" / "fold.csv").write_text(lines)
    at, two = (
        recipe(data).model_dump(mode="json")["tasks"][0],
        {"use": "tube.clips", "root": "clips", "file": "fold.csv"},
    )
    tasks = [{**at, "name": "one"}, {**at, "name": "two", "data": two}]
    with pytest.raises(UserError, match=r"1 scored items of clips .* \(such as clips/c3\)"):
        read_tasks(recipe(data, tasks=tasks, watch=[]))
    (one, _), (other, _) = read_tasks(recipe(data, tasks=tasks, watch=[], drop_leaks=True)).tasks
    assert "clips/c3" not in {i.id for i in one.train} and "clips/c3" in {i.id for i in other.test}


def test_an_evaluator_that_takes_all_items_is_compared_with_all_of_them(data: Path):
    table(data / "all", [("x", "v5", "train"), ("y", "v40", "test"), ("z", "v41", "test")])
    watch = {
        "name": "all",
        "data": {"use": "tube.shots", "root": "all"},
        "eval": [{"use": "zeroshot", "split": "all"}],
    }
    with pytest.raises(UserError, match="clips/c5 = shots/x by youtube:v5"):
        read_tasks(recipe(data, watch=[watch]))
    assert read_tasks(recipe(data, watch=[{**watch, "eval": ["zeroshot"]}])).leaks == ()
    whole = read_tasks(recipe(data, watch=[watch], allow_leaks=[["*", "shots"]]))
    assert whole.used("all") == (3, 3) and whole.used("AT") == (2, 2)


def test_a_name_that_is_no_data_set_is_refused():
    with pytest.raises(UserError, match="allow_leaks: no data set 'esc5'; did you mean 'esc50'"):
        recipe(Path("x"), allow_leaks=[["clips", "esc5"]])


@pytest.mark.parametrize(
    ("keys", "said"), [({"allow_leaks": [["clips", "*"]]}, "allowed"), ({"drop_leaks": True}, "dropped")]
)
def test_a_run_says_what_became_of_its_leaks(data: Path, tmp_path: Path, keys: dict[str, Any], said: str):
    run = Session(recipe(data, out=str(tmp_path), **keys)).go()
    meta = json.loads((run.folder / "meta.json").read_text())
    (leak,) = meta["leaks"]
    assert (leak["learned"], leak["scored"], leak["outcome"]) == ("clips", "shots", said)
    assert (leak["learned_items"], leak["scored_items"]) == (2, 2)
    assert leak["examples"][0] == ["clips/c0", "shots/s0", "youtube:v0"]
    assert meta["tasks"][0]["items"]["train"] == (8 if said == "allowed" else 6)
    text = write_report([run.folder], tmp_path / "report").markdown.read_text()
    assert "overlap of training and test data: 2 scored items of shots" in text
    assert {"allowed": "allowed by allow_leaks", "dropped": "left those out of training"}[said].replace(
        "_", "_"
    ) in text


# --- the recipes of papers

SITES = {
    "youtube": {"audioset", "vggsound", "audiocaps", "ave", "wavcaps"},
    "freesound": {"clotho", "fsd50k", "esc50", "urbansound8k"},
}
PAPERS = Path(__file__).parents[1] / "recipes/papers/audio"
ROWS = [p for p in sorted(PAPERS.glob("*.yaml")) if p.stem not in ("base", "mini", "published")]


@pytest.mark.parametrize("path", ROWS, ids=lambda p: p.stem)
def test_a_row_of_a_paper_says_of_every_pair_of_sets_that_may_overlap_what_becomes_of_it(path: Path):
    (recipe, *_) = plan(path, {})
    learned = {part.use for t in recipe.tasks for part in t.data}
    scored = {p.use for w in recipe.watch for p in w.data}
    scored |= {use for t in recipe.tasks for use in (t.test_on or [p.use for p in t.data])}
    for site, sets in SITES.items():
        for a in learned & sets:
            for b in (scored & sets) - {a}:  # what a set shares with itself is its own split's affair
                material = find([item(f"{a}/1", f"{site}:x")], [item(f"{b}/1", f"{site}:x", split="test")])
                (settled,) = leaks.settle(material, recipe.allow_leaks, False)
                assert settled.outcome == "allowed"
