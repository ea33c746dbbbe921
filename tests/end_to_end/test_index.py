"""An index by its commands: made, searched, killed and resumed, added to by two at once, and refused what is wrong."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from command import command
from index_rows import card, rows, sounds, unit, write_vectors
from small_run import small_root, small_run

import polymnia as pm
from polymnia.index.store import Index
from polymnia.index.vectors import read_vectors

ALONE = """
import resource, sys
from polymnia.index import rows
rows.MOST, limit = int(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.argv = ["polymnia", *sys.argv[3:]]
from polymnia.cli import main
main()
"""


def alone(*words: object, commit: int = 20, limit: int = 0) -> subprocess.Popen[str]:
    """``polymnia index WORDS`` in a process of its own, ``commit`` rows at a time, no file larger than ``limit``."""
    said = [sys.executable, "-c", ALONE, str(commit), str(limit), "index", *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(said, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def content(index: Path) -> dict[str, list[float]]:
    """The vectors by their keys; no key twice."""
    opened = Index.open(index)
    found = [row for batch in opened.rows(["key", "vector"]) for row in batch.to_pylist()]
    assert len(found) == len({row["key"] for row in found}) == opened.count()
    return {row["key"]: row["vector"] for row in found}


def wanted(*batches: Any) -> dict[str, list[float]]:
    return {row["key"]: row["vector"] for batch in batches for row in batch.to_pylist()}


# --- with a run


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors of a small run's own items."""
    folder = tmp_path_factory.mktemp("embedded") / "vectors"
    assert command("embed", small_run(), "--out", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def index(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made") / "index"
    assert command("index", "create", place, vectors).code == 0
    return place


def test_what_a_run_embedded_is_searched_by_words_by_a_file_and_by_its_own_items(index: Path, vectors: Path):
    encoder, query = pm.load(small_run()), "a slow low drum that fades away"
    table = {row["key"]: row for batch in read_vectors(vectors) for row in batch.to_pylist()}
    sounds_only = {k: r for k, r in table.items() if r["modality"] == "audio"}

    def nearest(vector: Any, among: dict[str, Any]) -> list[str]:
        scored = sorted(((-float(vector @ r["vector"]), k) for k, r in among.items()))
        return [among[k]["id"] for _, k in scored]

    said = command("search", index, query, "-k", "3", "--in", "audio", "--json")
    hits = json.loads(said.out)
    words = encoder.encode_text([query])[0]
    assert [h["id"] for h in hits] == nearest(words, sounds_only)[:3] and said.err == ""
    assert all(Path(h["root"], h["source"]).is_file() and h["path"].endswith(".wav") for h in hits)
    shown = command("search", index, query, "-k", "3", "--in", "audio").out
    assert all(f"{h['score']:.3f}" in shown for h in hits)
    # A file finds itself; an item that is named finds others.
    path = Path(hits[0]["root"], hits[0]["source"])
    best = json.loads(command("search", index, path, "-k", "1", "--in", "audio", "--json").out)[0]
    assert best["id"] == hits[0]["id"] and best["cosine"] == pytest.approx(1, abs=1e-4)
    like = json.loads(command("search", index, "--like", best["id"], "-k", "9", "--in", "audio", "--json").out)
    others = {k: r for k, r in sounds_only.items() if r["id"] != best["id"]}
    mean = sum(unit_of(r["vector"]) for r in table.values() if r["id"] == best["id"] and r["window"] == -1)
    assert [h["id"] for h in like] == nearest(mean, others)
    # Words, more like a file, less like an item: Rocchio's rule.
    picture = next(r for r in table.values() if r["modality"] == "image" and r["id"] != best["id"])
    place = Path(picture["root"], picture["source"])
    mixed = command("search", index, query, "--like", place, "--unlike", best["id"], "--unlike-weight", "0.5",
                    "--in", "audio", "--json")  # fmt: skip
    vector = words + 0.75 * encoder.encode_image([place])[0] - 0.5 * unit_of(mean)
    found = json.loads(mixed.out)
    assert [h["id"] for h in found] == nearest(vector, others)
    assert found[0]["cosine"] == pytest.approx(
        float(unit_of(vector) @ sounds_only[f"{found[0]['id']}#audio"]["vector"]), abs=1e-4
    )


def unit_of(vector: Any) -> Any:
    import numpy as np

    return np.asarray(vector) / np.linalg.norm(vector)


def test_words_find_sounds_and_pictures_unless_texts_are_asked_for(index: Path):
    kinds = {
        asked: {h["modality"] for h in json.loads(command("search", index, "a drum", *words, "--json").out)}
        for asked, words in {"": (), "text": ("--in", "text"), "any": ("--in", "any", "--windows", "-k", "99")}.items()
    }
    assert kinds[""] <= {"audio", "image"} and kinds["text"] == {"text"} and kinds["any"] == {"audio", "image", "text"}


def test_a_filter_and_a_version_are_what_is_searched(index: Path, tmp_path: Path):
    own = shutil.copytree(index, tmp_path / "index")
    found = json.loads(command("search", own, "a drum", "--where", "task = 'seas'", "-k", "99", "--json").out)
    assert {h["task"] for h in found} == {"seas"}
    said = command("index", "delete", own, "--where", "task = 'seas'", "--json")
    assert json.loads(said.out)["deleted"] > 0
    assert {h["task"] for h in json.loads(command("search", own, "a drum", "-k", "99", "--json").out)} == {"tunes"}
    again = command("search", own, "a drum", "--where", "task = 'seas'", "-k", "99", "--at", "2", "--json")
    assert json.loads(again.out) == found
    assert [v["rows"] for v in json.loads(command("index", "versions", own, "--json").out)][0] == 0
    assert command("index", "restore", own, "2").code == 0
    assert json.loads(command("search", own, "a drum", "--where", "task = 'seas'", "-k", "99", "--json").out) == found


def test_a_run_that_moved_is_told_and_one_that_is_another_is_refused(index: Path, tmp_path: Path):
    hits = command("search", index, "a drum", "--json").out
    own = shutil.copytree(index, tmp_path / "index")
    moved = shutil.copytree(small_run(), tmp_path / "run")
    opened = Index.open(own)
    gone = opened.cards[next(iter(opened.cards))].to_json().replace(str(small_run()), "/gone/run")
    told = {f"polymnia.encoder.{json.loads(gone)['signature']}": gone}
    opened.table.update_field_metadata({"path": "vector", "metadata": told})
    assert "the run /gone/run of the index's encoder is not there" in command("search", own, "a drum").error
    assert command("search", own, "a drum", "--run", moved, "--json").out == hits
    shutil.copy(moved / "encoders" / "after-1.safetensors", moved / "encoders" / "after-2.safetensors")
    assert re.search(r"run after task 2 is the encoder \w+; the index needs \w+", command(
        "search", own, "a drum", "--run", moved).error)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [(["search", "{index}"], "nothing is asked"), (["search", "{index}", "gone.wav"], "no file 'gone.wav'"),
     (["search", "{index}", "--like", "nobody"], "'nobody' is neither the id of an item of"),
     (["search", "{index}", "{root}/notes.txt"], "is a file, but its name says neither"),
     (["search", "{index}", "{root}/torn.wav"], "torn.wav: not a readable recording"),
     (["search", "{index}", "a drum", "--where", "dur < 3"], "did you mean 'duration'?"),
     (["search", "{index}", "a drum", "--where", "id = 'a') OR (id = 'b'"], "cannot be read"),
     (["search", "{index}", "a drum", "--where", "id = 'a'; drop table items"], "cannot be read"),
     (["search", "{index}", "a drum", "--task", "1"], "--task goes with a run"),
     (["search", "{index}", "a drum", "--at", "99"], "has no version 99"),
     (["search", "{run}", "a drum", "--where", "id = 'a'"], "--where need an index"),
     (["search", "{run}", "a drum", "--in", "any"], "--in any needs an index"), (["search", "{run}"], "nothing is"),
     (["search", "{root}/gone", "a drum"], "is no run folder"), (["index", "info", "{run}"], "is a run, no index"),
     (["index", "create", "{index}", "{root}"], "holds no vectors"), (["index", "info", "{root}"], "is no index"),
     (["index", "add", "{root}/gone", "{vectors}"], "no index at"), (["index", "delete", "{index}"], "say what to"),
     (["index", "compact", "{index}", "--keep-days", "1", "--keep-versions", "1"], "not both")],
)  # fmt: skip
def test_what_is_wrong_is_one_line(index: Path, vectors: Path, tmp_path: Path, words: list[str], message: str):
    (tmp_path / "notes.txt").write_text("a note")
    (tmp_path / "torn.wav").write_bytes(b"RIFF")
    said = command(*(w.format(index=index, vectors=vectors, run=small_run(), root=tmp_path) for w in words))
    assert message in said.error and said.out == ""
    assert small_root().exists()


# --- without one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Vectors of six hundred sounds in three parts."""
    return write_vectors(tmp_path / "vectors", [sounds(n, n + 200) for n in (0, 200, 400)], card())


def test_the_commands_say_what_they_did(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = tmp_path / "index"
    said = command("index", "create", place, folder, "--exact-below", "5000", "--json")
    assert json.loads(said.out) | {"version": 0} == {
        "index": str(place), "new": 600, "replaced": 0, "same": 0, "removed": 0, "rows": 600, "version": 0,
    }  # fmt: skip
    again = write_vectors(tmp_path / "more", [sounds(590, 605, topic="rain")], card(), complete=False)
    said = command("index", "add", place, again)
    assert "5 rows new, 10 replaced, 0 there already, 0 removed; 605 rows" in said.out
    assert "has not come to its end there" in said.err
    assert "1 rows deleted; 604 rows" in command("index", "delete", place, "--id", "s00003").out
    shown = " ".join(command("index", "info", place).out.split())
    assert "604 items, 604 rows" in shown and "search: exact (approximate from 5,000 rows" in shown
    told = json.loads(command("index", "info", place, "--json").out)
    assert told["spaces"][0]["rows"] == {"audio": 604} and told["tuned"] is None
    assert json.loads(command("index", "info", place, "--at", "2", "--json").out)["rows"] == 600
    before = told["bytes"]
    monkeypatch.setattr("polymnia.index.versions.SLACK", timedelta(milliseconds=1))
    said = json.loads(command("index", "compact", place, "--keep-days", "0", "--json").out)
    assert said["bytes"][0] == before and said["versions"][0] == 4 and said["versions"][1] < 4
    assert len(command("index", "versions", place).out.splitlines()) == 1 + said["versions"][1]


def test_approximate_search_is_chosen_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from polymnia.index import ann

    monkeypatch.setattr(ann, "KINDS", ("IVF_FLAT",))
    monkeypatch.setattr(ann, "_milliseconds", lambda _, __, tuned, ___: 1.0 if tuned else 9.0)
    monkeypatch.chdir(tmp_path)
    who = card(run="/nowhere")
    write_vectors(tmp_path / "vectors", [sounds(0, 600, topic="rain")], who)
    said = command("index", "create", "index", "vectors", "--exact-below", "300", "--recall", "0.9")
    assert said.code == 0 and "no texts as queries: the run /nowhere" in said.err
    shown = " ".join(command("index", "info", "index").out.split())
    assert "search: IVF_FLAT" in shown and "audio>all" in shown and "exact 9.0 ms" in shown
    told = json.loads(command("index", "info", "index", "--json").out)["tuned"]
    assert told["recall"] >= 0.9 and told["rows"] == 600 and told["kind"] == "IVF_FLAT"
    # What a kill while it was chosen leaves behind.
    Index.open("index").table.update_field_metadata({"path": "vector", "metadata": {"polymnia.tuned": None}})
    assert "search: exact, until `polymnia index compact`" in " ".join(command("index", "info", "index").out.split())
    assert command("index", "compact", "index").code == 0
    assert json.loads(command("index", "info", "index", "--json").out)["tuned"]["kind"] == "IVF_FLAT"


def test_adding_that_is_killed_anywhere_loses_nothing_and_goes_on(folder: Path, tmp_path: Path):
    place, full = tmp_path / "index", wanted(*read_vectors(folder))
    draw, before = random.Random(), 0  # another place every time
    for _ in range(2):
        process = alone("create", place, folder)
        commits = before // 20 + draw.randint(0, 8)
        while process.poll() is None and len(list(place.glob("items.lance/_versions/*.manifest"))) < commits:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if list(place.glob("items.lance/_versions/*.manifest")):
            there = content(place)
            assert len(there) >= before and len(there) % 20 == 0 and there.items() <= full.items()
            before = len(there)
    said, error = alone("create", place, folder).communicate()
    assert f"{600 - before:,} rows new, 0 replaced, {before:,} there already" in said, error
    assert content(place) == full


def test_two_that_add_at_once_lose_nothing_and_leave_each_row_once(folder: Path, tmp_path: Path):
    place = tmp_path / "index"
    other = write_vectors(tmp_path / "other", [sounds(500, 700), sounds(700, 900)], card())
    assert command("index", "create", place, write_vectors(tmp_path / "few", [sounds(0, 10)], card())).code == 0
    both = [alone("add", place, folder), alone("add", place, other)]
    for process in both:
        _, error = process.communicate()
        assert process.returncode == 0, error
    assert content(place) == wanted(sounds(0, 900))


def test_a_disk_that_is_full_loses_nothing(tmp_path: Path):
    """No file may grow beyond a limit, which is how the system tells a full disk apart only by the number."""
    place = tmp_path / "index"
    assert command("index", "create", place, write_vectors(tmp_path / "few", [sounds(0, 50)], card())).code == 0
    large = write_vectors(tmp_path / "large", [rows([f"x{n:05d}" for n in range(6000)], unit(6000))], card())
    process = alone("add", place, large, commit=10_000, limit=200_000)
    said, error = process.communicate()
    assert process.returncode == 2 and said == "" and "Traceback" not in error
    assert re.search(r"^error: .*index: no room left to write; what was committed before is kept", error, re.M)
    assert content(place) == wanted(sounds(0, 50))
    assert "6,000 rows new" in command("index", "add", place, large).out and len(content(place)) == 6050


def test_an_index_of_another_encoder_or_of_a_later_version_is_left_as_it_is(folder: Path, tmp_path: Path):
    place = tmp_path / "index"
    assert command("index", "create", place, folder).code == 0
    before = content(place)
    other = write_vectors(tmp_path / "other", [sounds(0, 5, "second")], card("second", run="runs/later", task=2))
    said = command("index", "add", place, other).error
    assert (
        "of the encoder second (runs/later, task 2)" in said and f"polymnia index upgrade {place} runs/later" in said
    )
    assert "is an index of another encoder already" in command("index", "create", place, other).error
    assert content(place) == before
    later = {"polymnia.format": "99"}
    Index.open(place).table.update_field_metadata({"path": "vector", "metadata": later})
    for words in (["info", place], ["add", place, folder], ["create", place, folder], ["delete", place, "--id", "a"]):
        assert "is of format 99, this version reads 1: install a newer polymnia" in command("index", *words).error
    assert "is of format 99" in command("search", place, "a drum").error
