"""``polymnia data check``: what is present, missing, unreadable and too short, and a manifest that goes on."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from command import Said, command
from PIL import Image

from polymnia.config import parse_part
from polymnia.doctor import clips, collection, listing
from polymnia.doctor.collection import Checking, check_set
from polymnia.types import UserError

RATE = 4000
HEADER = "id,audio,image,text,text_2,labels,split,start,seconds"


def sound(path: Path, seconds: float) -> None:
    soundfile.write(path, np.random.default_rng(7).uniform(-0.3, 0.3, round(seconds * RATE)), RATE)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A collection with something of everything; the working folder is another one."""
    root = tmp_path / "mine"
    (root / "sub").mkdir(parents=True)
    sound(root / "good.wav", 1.5)
    sound(root / "sub" / "tiny.wav", 0.25)
    (root / "bad.wav").write_bytes(b"RIFF and garbage")
    (root / "empty.wav").touch()
    (root / "nowhere.wav").symlink_to(root / "away" / "x.wav")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(root / "p.png")
    (root / "torn.png").write_bytes((root / "p.png").read_bytes()[:40])
    rows = [
        "good,good.wav,p.png,a dog,it barks,dog,train,,",
        "tiny,sub/tiny.wav,p.png,a cat,,cat,train,,",
        "gone,gone.wav,p.png,a cow,,cow;animal,train,,",
        "torn,good.wav,torn.png,a pig,,pig,train,,",
        "bad,bad.wav,p.png,a hen,,hen,test,,",
        "empty,empty.wav,p.png,a fox,,hen,test,,",
        "nowhere,nowhere.wav,p.png,an owl,,hen,test,,",
        "part,good.wav,,a part,,hen,test,0.5,0.75",
    ]
    (root / "manifest.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settle(root)
    return root


def settle(folder: Path) -> None:
    """As if nothing had been written in the last hour."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        hour = path.stat().st_mtime_ns - 3600 * 10**9
        os.utime(path, ns=(hour, hour))


def check(*words: object) -> Said:
    return command("data", "check", *words)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_split_is_counted_by_the_worst_of_an_items_media(root: Path):
    said = check("manifest", root, "--json")
    (found,) = json.loads(said.out)
    train, test = found["splits"]["train"], found["splits"]["test"]
    kinds = ("rows", "present", "missing", "unreadable", "short", "captions", "classes")
    assert [train[k] for k in kinds] == [4, 3, 1, 1, 1, 5, 5]
    assert [test[k] for k in kinds] == [4, 3, 1, 2, 0, 4, 1]
    assert train["examples"]["missing"] == ["gone: gone.wav"]
    assert train["examples"]["short"] == ["tiny: sub/tiny.wav: 0.25 s"]
    assert test["examples"]["unreadable"][1] == "empty: empty.wav: is empty (0 bytes)"
    assert test["examples"]["missing"] == ["nowhere: nowhere.wav"]
    assert said.code == 1 and not found["ok"]
    assert found["faults"] == [
        "train: 1 unreadable",
        "test: 2 unreadable",
        "train: 1 of 4 missing, more than 5%",
        "test: 1 of 4 missing, more than 5%",
    ]


def test_the_manifest_has_a_line_a_medium_with_the_hash_of_its_content(root: Path):
    assert check("manifest", root).code == 1
    found = {(r["id"], r["modality"]): r for r in rows(Path("mine-manifest-check.csv"))}
    assert len(found) == 8 + 7
    good = found["good", "audio"]
    content = (root / "good.wav").read_bytes()
    assert good["blake2b"] == hashlib.blake2b(content, digest_size=16).hexdigest()
    assert (good["path"], good["split"], good["seconds"], good["status"]) == ("good.wav", "train", "1.500", "ok")
    assert int(good["bytes"]) == len(content)
    assert found["tiny", "audio"]["path"] == "sub/tiny.wav" and found["tiny", "audio"]["status"] == "short"
    assert (found["part", "audio"]["path"], found["part", "audio"]["seconds"]) == ("good.wav#t=0.5,1.25", "0.750")
    assert found["part", "audio"]["blake2b"] == good["blake2b"]
    assert found["gone", "audio"]["status"] == "missing" and found["gone", "audio"]["blake2b"] == ""
    assert found["bad", "audio"]["status"] == "unreadable" and "not a readable" in found["bad", "audio"]["reason"]
    assert found["torn", "image"]["status"] == "unreadable" and found["good", "image"]["seconds"] == ""


def test_the_end_of_a_recording_is_decoded(root: Path):
    wave = np.zeros(3 * RATE, np.float32)
    for name, broken in (("begin", 0), ("end", -1)):
        wave[:], wave[broken] = 0, np.nan
        soundfile.write(root / f"{name}.wav", wave, RATE, subtype="FLOAT")
    (root / "long.csv").write_text("id,audio\nbegin,begin.wav\nend,end.wav\n")
    (found,) = json.loads(check("manifest", root, "file=long.csv", "--json").out)
    (said,) = found["splits"]["train"]["examples"]["unreadable"]
    assert said.startswith("end: end.wav: holds samples of nan") and found["splits"]["train"]["rows"] == 2


def test_what_is_fit_for_use_ends_well_and_without_hashes_if_asked(root: Path):
    (root / "manifest.csv").write_text(f"{HEADER}\ngood,good.wav,p.png,a dog,,dog,train,,\n")
    said = check("manifest", root, "--no-hash", "--min-seconds", "1.5", "--out", "list.csv")
    assert said.code == 0 and "manifest: fit for use" in said.out and "manifest: list.csv" in said.out
    assert [r["blake2b"] for r in rows(Path("list.csv"))] == ["", ""]


def test_keys_of_the_data_set_are_taken_and_wrong_ones_refused(root: Path):
    (root / "other.csv").write_text("id,audio\none,good.wav\n")
    (found,) = json.loads(check("manifest", root, "file=other.csv", "test_share=1.0", "--json").out)
    assert found["splits"]["test"]["rows"] == 1
    assert "unknown key 'fill'; did you mean 'file'?" in check("manifest", root, "fill=x").error
    assert "no 'manifesto' in data.datasets; did you mean 'manifest'?" in check("manifesto", root).error
    assert "does not exist" in check("manifest", root / "no").error
    assert "give the name of a data set and the folder" in check("manifest").error


def test_online_clips_may_be_missing_up_to_their_share(root: Path):
    keep = [r for r in (root / "manifest.csv").read_text().splitlines() if r.split(",")[0] in ("id", "good", "gone")]
    (root / "manifest.csv").write_text("\n".join(keep) + "\n")
    assert check("tube.clips", root).code == 0  # one of two, and 50 % are allowed
    said = check("tube.clips", root, "max_missing=0.4")
    assert said.code == 1 and "train: 1 of 2 missing, more than 40%" in said.out


def test_nothing_is_written_into_the_data_set(root: Path, monkeypatch: pytest.MonkeyPatch):
    before = sorted(root.rglob("*"))
    assert "would lie inside the data set" in check("manifest", root, "--out", root / "sub" / "list.csv").error
    monkeypatch.chdir(root)
    assert "give --out another place" in check("manifest", ".").error
    assert sorted(root.rglob("*")) == before


def test_all_data_sets_of_a_recipe_are_checked_each_once(root: Path, tmp_path: Path):
    rest = tmp_path / "rest"
    rest.mkdir()
    sound(rest / "a.wav", 1.0)
    (rest / "manifest.csv").write_text("id,audio,text,split\n1,a.wav,x,train\n2,a.wav,y,test\n")
    small = {"width": 16, "layers": 1, "out_dim": 16}
    mine = {"use": "manifest", "root": "mine"}
    recipe = {
        "name": "r", "dim": 16, "data": "nowhere", "train": {"steps": 1},
        "towers": {"text": {"use": "tiny_text", **small}},
        "watch": [
            {"name": "a", "data": [mine, {"use": "manifest", "root": "rest"}], "eval": ["retrieval"]},
            {"name": "b", "data": {**mine, "file": "manifest.csv"}, "eval": ["retrieval"]},
        ],
    }  # fmt: skip
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    said = check("--recipe", path, f"data={tmp_path}", "--json")
    assert [(f["name"], f["ok"], f["splits"]["train"]["rows"]) for f in json.loads(said.out)] == [
        ("manifest", False, 4),
        ("manifest", True, 1),
    ]
    assert {p.name for p in Path().iterdir()} == {"mine-manifest-check.csv", "rest-manifest-check.csv"}


# --- going on


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened and hashed."""
    done: list[str] = []
    opened, hashed = clips._opened, clips.file_digest
    monkeypatch.setattr(clips, "_opened", lambda s, c: done.append(f"open {s.path.name}") or opened(s, c))
    monkeypatch.setattr(clips, "file_digest", lambda p: done.append(f"hash {p.name}") or hashed(p))
    return done


def once(root: Path, **keys: Any) -> None:
    check_set(parse_part("data.datasets", {"use": "manifest", "root": root}), Checking(workers=1, **keys))


def test_files_that_have_not_changed_are_not_read_again(root: Path, work: list[str]):
    once(root)
    assert "hash good.wav" in work and work.count("hash p.png") == 1  # one file of many items
    before = Path("mine-manifest-check.csv").read_bytes()
    work.clear()
    once(root)
    assert set(work) == {f"{what} {f}" for f in ("bad.wav", "empty.wav", "torn.png") for what in ("open", "hash")}
    assert Path("mine-manifest-check.csv").read_bytes() == before
    sound(root / "sub" / "tiny.wav", 0.26)
    settle(root / "sub")
    work.clear()
    once(root)
    assert {"open tiny.wav", "hash tiny.wav"} <= set(work) and "open good.wav" not in work


def test_a_file_that_was_just_written_is_read_again(root: Path, work: list[str]):
    sound(root / "good.wav", 1.5)  # its time of change may not tell a further change within the same clock tick
    once(root)
    work.clear()
    once(root)
    assert "hash good.wav" in work and "hash p.png" not in work


def test_hashes_are_added_to_a_manifest_without_them(root: Path, work: list[str]):
    once(root, hashed=False)
    assert not any(w.startswith("hash") for w in work)
    work.clear()
    once(root)
    assert "hash good.wav" in work and "open good.wav" not in work


def test_a_check_that_was_killed_goes_on_and_leaves_no_half_a_manifest(
    root: Path, work: list[str], monkeypatch: pytest.MonkeyPatch
):
    many = [f"m{n},good.wav,,x,,,train,{n / 100},1.0" for n in range(40)]
    (root / "manifest.csv").write_text("\n".join([HEADER, *many]) + "\n")
    count = collection.SplitCheck.count

    def dying(self: collection.SplitCheck, *what: Any) -> None:
        count(self, *what)
        if self.rows == 30:
            (journal,) = Path().glob("*.journal")
            assert len(journal.read_text().splitlines()) == 24  # of 29: what a process that is shot leaves
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(collection.SplitCheck, "count", dying)
        patch.setattr(listing, "FLUSHED", 8)
        with pytest.raises(KeyboardInterrupt):
            once(root)
    (journal,) = Path().iterdir()
    journal.write_text(journal.read_text() + "m31,train,audio,good.wav#t=0.3")  # a line that was cut off
    work.clear()
    once(root)
    assert work.count("open good.wav") == 40 - 29  # the line of the thirtieth was never written
    assert [p.name for p in Path().iterdir()] == ["mine-manifest-check.csv"]
    assert [r["id"] for r in rows(Path("mine-manifest-check.csv"))] == [f"m{n}" for n in range(40)]


def test_names_that_are_no_utf8_and_ids_with_a_dash_go_through(root: Path):
    name = os.fsdecode(b"-caf\xe9.wav")
    sound(root / "good.wav", 1.0)
    (root / "good.wav").rename(root / name)
    (root / "list.jsonl").write_text(json.dumps({"id": "-Qx", "audio": name}) + "\n")
    part = parse_part("data.datasets", {"use": "manifest", "root": root, "file": "list.jsonl"})
    for _ in range(2):
        found = check_set(part, Checking(Path("odd.csv")))
        assert not found.faults and found.splits["train"].ok == 1
    said = check("manifest", root, "file=list.jsonl", "--min-seconds", "2", "--out", "odd.csv", "--json").out
    assert json.loads(said)[0]["splits"]["train"]["examples"] == {"short": ["-Qx: -caf?.wav: 1 s"]}
    assert b"-caf\xe9.wav" in Path("odd.csv").read_bytes()


def test_memory_holds_a_few_items_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch):
    ahead: list[int] = []
    looked = done = 0
    look, count = clips.Examiner.look, collection.SplitCheck.count

    def looking(self: clips.Examiner, *what: Any) -> clips.Clip:
        nonlocal looked
        looked += 1
        ahead.append(looked - done)
        return look(self, *what)

    def counting(self: collection.SplitCheck, *what: Any) -> None:
        nonlocal done
        done += 1
        count(self, *what)

    monkeypatch.setattr(clips.Examiner, "look", looking)
    monkeypatch.setattr(collection.SplitCheck, "count", counting)
    (root / "many.csv").write_text("id,audio\n" + "".join(f"{n},good.wav\n" for n in range(500)))
    check_set(parse_part("data.datasets", {"use": "manifest", "root": root, "file": "many.csv"}), Checking(workers=2))
    assert done == 500 and max(ahead) < 20


def test_a_manifest_that_cannot_be_written_is_told(root: Path):
    Path("file").touch()
    with pytest.raises(UserError, match="cannot write the manifest file/x.csv"):
        once(root, out=Path("file/x.csv"))
