"""`polymnia embed` on a folder as folders are: nothing of it is lost, made twice, or mixed, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from command import command
from embedded_files import RATE, by_key, embed, make_sounds, noise, rows
from filelock import FileLock
from PIL import Image
from small_run import small_recipe, small_root, small_run
from videos import film

import polymnia as pm
from polymnia.data.names import unescape
from polymnia.index.vectors import parts, read_vectors
from polymnia.runs.encoder import Encoder
from polymnia.types import AudioFile, UserError, VideoFile

STRANGE = b"two\nlines 50% \xff.wav"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return pm.load(small_run())


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that may lie in a folder."""
    root = tmp_path_factory.mktemp("nasty")
    make_sounds(root / "fine", 5)
    soundfile.write(root / "fine" / "long.flac", noise(2.25, 9), RATE)
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(root / "fine" / "grey.png")
    film(root / "fine" / "film.mp4", [50] * 10 + [200] * 10, sounds=[noise(2)])
    film(root / "fine" / "silent.mp4", [120] * 5)
    (root / "fine" / "short.txt").write_text("a slow low drum")
    (root / "fine" / "book.txt").write_text(" ".join(f"word{n}" for n in range(60)))
    with open(os.fsencode(root) + b"/" + STRANGE, "wb") as file:
        file.write((root / "fine" / "0.wav").read_bytes())
    (root / "empty.wav").touch()
    (root / "torn.wav").write_bytes(b"RIFF")
    (root / "torn.png").write_bytes(b"\x89PNG nothing")
    (root / "torn.mp4").write_bytes(b"nothing")
    (root / "latin.txt").write_bytes(b"caf\xe9")
    with (root / "huge.txt").open("wb") as file:
        file.truncate(1 << 34)
    (root / "notes.pdf").write_bytes(b"x")
    (root / ".hidden.wav").write_bytes(b"x")
    (root / "loop").symlink_to(".")
    (root / "gone.wav").symlink_to("nowhere")
    os.mkfifo(root / "pipe.wav")
    listening = socket.socket(socket.AF_UNIX)
    with contextlib.chdir(root):
        listening.bind("socket.wav")
    yield root
    listening.close()


BROKEN = {
    "empty.wav": "is empty (0 bytes)",
    "pipe.wav": "is a pipe",
    "socket.wav": "is a socket",
    "torn.wav": "not a readable recording",
    "torn.png": "not a readable picture",
    "torn.mp4": "not a readable video",
    "latin.txt": "is no UTF-8",
    "huge.txt": "is larger than 16 MiB",
}


@pytest.fixture(scope="module")
def embedded(nasty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "vectors"
    done = embed(nasty, out, max_broken=0.5)
    assert done.failed == len(BROKEN) and done.made == 13
    return out


def test_what_is_broken_is_listed_with_its_reason_and_all_else_is_embedded(nasty: Path, embedded: Path):
    about = json.loads((embedded / "vectors.json").read_text())
    listed = dict(about["failed"]["listed"])
    assert about["complete"] and about["failed"]["count"] == len(BROKEN) and listed.keys() == BROKEN.keys()
    assert all(reason in listed[name] for name, reason in BROKEN.items())
    assert {why: s["count"] for why, s in about["skipped"].items()} == {"*.pdf": 1, "hidden": 1, "a link": 2}
    assert about["source"] == {"kind": "folder", "place": str(nasty)}
    found = by_key(embedded)
    whole = {r["key"] for r in found.values() if r["window"] == -1}
    assert whole == {
        *(f"fine/{n}.wav#audio" for n in range(5)),
        *("fine/long.flac#audio", "fine/grey.png#image", "fine/film.mp4#audio", "fine/film.mp4#image"),
        *("fine/silent.mp4#image", "fine/short.txt#text", "fine/book.txt#text"),
        "two%0Alines 50%25 %FF.wav#audio",
    }
    counted = {"items": 12, "rows": len(found), "audio": 8, "image": 3, "text": 2}
    assert counted.items() <= about["counts"].items()


def test_every_vector_is_that_of_the_encoder_alone(nasty: Path, embedded: Path, encoder: Encoder):
    worst = 0.0
    for row in by_key(embedded).values():
        path = Path(row["root"]) / os.fsdecode(unescape(row["source"]))
        assert path.is_relative_to(nasty) and path.exists() and row["encoder"] == encoder.signature
        seconds = None if row["end"] is None else row["end"] - row["start"]
        if row["window"] == -1 and (row["duration"] or 0) > 1.0:
            continue  # the mean of windows: the next test
        if row["modality"] == "audio":
            wanted = encoder.encode_audio([AudioFile(path, row["start"], seconds)])[0]
        elif row["modality"] == "text":
            if row["window"] == -1 and "book" in row["id"]:
                continue
            wanted = encoder.encode_text([row["caption"]])[0]
        elif path.suffix == ".mp4":
            wanted = encoder.encode_image([VideoFile(path, row["start"], seconds)])[0]
        else:
            wanted = encoder.encode_image([path])[0]
        worst = max(worst, float(np.abs(np.array(row["vector"]) - wanted).max()))
    assert worst < 1e-5


def test_long_media_have_windows_and_the_whole_is_their_normalised_mean(embedded: Path):
    found = by_key(embedded)
    spans = {
        "fine/long.flac#audio": [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (1.25, 2.25)],
        "fine/film.mp4#audio": [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)],
        "fine/film.mp4#image": [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)],
        "fine/book.txt#text": [(None, None)] * 6,
    }
    for whole, wanted in spans.items():
        windows = [found[f"{whole}#{n}"] for n in range(len(wanted))]
        assert [(w["start"], w["end"]) for w in windows] == wanted
        assert f"{whole}#{len(wanted)}" not in found
        mean = sum(np.array(w["vector"], np.float64) for w in windows) / len(windows)
        assert np.abs(mean / np.sqrt((mean**2).sum()) - found[whole]["vector"]).max() < 1e-6
    assert found["fine/book.txt#text"]["caption"].split() == [f"word{n}" for n in range(60)]
    assert found["fine/book.txt#text#5"]["caption"].split()[-1] == "word59"


def test_what_is_kept_of_a_long_text_is_bounded(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "long.txt").write_text("a bell tolls " * 400)
    embed(root, tmp_path / "v")
    captions = {r["window"]: r["caption"] for r in by_key(tmp_path / "v").values()}
    assert captions[-1] == ("a bell tolls " * 400)[:1000] and max(map(len, captions.values())) == 1000
    # windows of 19 words, nine apart
    assert captions[1].split() == ("a bell tolls " * 400).split()[9:28] and len(captions) == 1 + 133


def test_the_command_tells_what_became_of_it_and_ends_with_an_error_over_the_share(nasty: Path, tmp_path: Path):
    said = command("embed", small_run(), nasty, "--out", tmp_path / "v", "--window", "1", "--only", "audio")
    assert "5 of 14 items could not be embedded, more than --max-broken 0.1: empty.wav: is empty" in said.error
    named = [name for name in BROKEN if f"{name}: {BROKEN[name]}" in said.error]
    assert named == ["empty.wav", "pipe.wav", "socket.wav", "torn.wav", "torn.mp4"]
    assert read_vectors(tmp_path / "v").complete and len(by_key(tmp_path / "v")) > 8  # all is kept
    again = command(
        *("embed", small_run(), nasty, "--out", tmp_path / "v", "--window", "1", "--only", "audio"),
        *("--max-broken", "0.5", "--json"),
    )
    told = json.loads(again.out)
    assert again.code == 0 and (told["made"], told["kept"], told["failed"]) == (0, 8, 5)
    shown = command("embed", small_run(), nasty, "--out", tmp_path / "w", "--window", "1", "--max-broken", "1")
    assert shown.code == 0 and "12 items (8 audio, 3 image, 2 text)" in shown.out and "failed 8" in shown.out
    assert "1 x *.pdf" in shown.out


def test_the_same_files_give_the_same_bits_again_and_nearly_the_same_alone(sounds: Path, tmp_path: Path):
    embed(sounds, tmp_path / "a", workers=1)
    embed(sounds, tmp_path / "b", workers=5)
    assert rows(tmp_path / "a").equals(rows(tmp_path / "b"))
    (tmp_path / "one").mkdir()
    shutil.copy2(sounds / "3.wav", tmp_path / "one" / "3.wav")
    embed(tmp_path / "one", tmp_path / "c")
    alone, among = by_key(tmp_path / "c")["3.wav#audio"], by_key(tmp_path / "a")["3.wav#audio"]
    assert np.abs(np.array(alone["vector"]) - among["vector"]).max() < 1e-5
    assert alone | {"vector": 0, "root": 0} == among | {"vector": 0, "root": 0}


def test_a_second_time_nothing_is_made_and_no_part_is_touched(sounds: Path, tmp_path: Path):
    first = embed(sounds, tmp_path / "v")
    before = {p: p.stat().st_mtime_ns for p in parts(tmp_path / "v").values()}
    again = embed(sounds, tmp_path / "v")
    assert (first.made, first.kept, again.made, again.kept) == (8, 0, 0, 8) and len(before) == 3
    assert {p: p.stat().st_mtime_ns for p in parts(tmp_path / "v").values()} == before


def test_only_new_and_changed_files_are_made_and_what_is_gone_goes(sounds: Path, tmp_path: Path):
    out = tmp_path / "v"
    embed(sounds, out)
    before = by_key(out)
    (sounds / "1.wav").unlink()
    soundfile.write(sounds / "4.wav", noise(0.4, 44), RATE, subtype="FLOAT")
    soundfile.write(sounds / "new.wav", noise(0.4, 45), RATE, subtype="FLOAT")
    done = embed(sounds, out)
    assert (done.made, done.kept, done.removed, done.changed) == (2, 6, 1, 1)
    after = by_key(out)
    assert before.keys() - after.keys() == {"1.wav#audio", *(f"4.wav#audio#{n}" for n in range(4))}
    assert after.keys() - before.keys() == {"new.wav#audio"}
    assert after["4.wav#audio"]["vector"] != before["4.wav#audio"]["vector"]
    kept = before.keys() & after.keys() - {"4.wav#audio"}
    assert all(after[k] == before[k] for k in kept) and len(kept) == 6
    embed(sounds, tmp_path / "fresh")
    fresh = by_key(tmp_path / "fresh")
    assert fresh.keys() == after.keys()
    assert max(np.abs(np.array(after[k]["vector"]) - fresh[k]["vector"]).max() for k in fresh) < 1e-5


def test_a_file_that_broke_since_goes_and_is_listed(sounds: Path, tmp_path: Path):
    embed(sounds, tmp_path / "v")
    (sounds / "2.wav").write_bytes(b"torn")
    done = embed(sounds, tmp_path / "v", max_broken=0.5)
    assert (done.changed, done.failed, done.listed[0][0]) == (1, 1, "2.wav")
    assert "2.wav#audio" not in by_key(tmp_path / "v")


def test_a_folder_that_moved_is_not_embedded_again_and_rows_say_where_it_is(sounds: Path, tmp_path: Path):
    embed(sounds, tmp_path / "v")
    before = by_key(tmp_path / "v")
    sounds.rename(tmp_path / "elsewhere")
    done = embed(tmp_path / "elsewhere", tmp_path / "v")
    assert (done.made, done.kept, done.removed) == (0, 8, 0)
    after = by_key(tmp_path / "v")
    assert after == {k: r | {"root": str(tmp_path / "elsewhere")} for k, r in before.items()}
    assert embed(tmp_path / "elsewhere", tmp_path / "v", captions="name").made == 0
    assert by_key(tmp_path / "v")["3.wav#audio"]["caption"] == "3"


def test_another_source_does_not_sweep_away_what_is_there(sounds: Path, tmp_path: Path):
    embed(sounds, tmp_path / "v")
    before = by_key(tmp_path / "v")
    other = tmp_path / "other"
    other.mkdir()
    for source in (other, small_root() / "data"):
        with pytest.raises(UserError, match="8 of the 8 items .* are not in this source .any more.*add --prune"):
            embed(source, tmp_path / "v")
    assert by_key(tmp_path / "v") == before
    shutil.copy2(sounds / "0.wav", other / "0.wav")
    assert embed(other, tmp_path / "v", prune=True).removed == 7
    assert by_key(tmp_path / "v").keys() == {"0.wav#audio"}


def test_what_is_not_asked_for_now_or_cannot_be_read_now_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "root"
    make_sounds(root, 2)
    make_sounds(root / "far", 1)
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(root / "grey.png")
    embed(root, tmp_path / "v")
    before = by_key(tmp_path / "v")
    assert embed(root, tmp_path / "v", only=("audio",)).removed == 0 and by_key(tmp_path / "v") == before
    scandir = os.scandir

    def denied(path: bytes | Path):  # noqa: ANN202
        if os.fsencode(path).endswith(b"/far"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    done = embed(root, tmp_path / "v", max_broken=0.5)
    assert done.removed == 0 and done.listed == [("far", "the folder cannot be read: Permission denied")]
    assert by_key(tmp_path / "v") == before


def test_vectors_of_another_encoder_are_refused_with_the_way_out(sounds: Path, tmp_path: Path):
    embed(sounds, tmp_path / "v")
    before = by_key(tmp_path / "v")
    with pytest.raises(UserError, match=r"another encoder \(.*task 2, .*after task 1 .*: give another --out, or"):
        embed(sounds, tmp_path / "v", task=1)
    with pytest.raises(UserError, match=r"was made with --window 1.0 --hop 0.5: give these, or another --out"):
        embed(sounds, tmp_path / "v", window=2.0)
    assert by_key(tmp_path / "v") == before


def test_a_folder_of_other_things_a_file_and_a_later_format_are_refused(sounds: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"holds other things \('0.wav'\) and no vectors.json; give --out a new"):
        embed(sounds, sounds)
    with pytest.raises(UserError, match="cannot make the folder .*0.wav"):
        embed(sounds, sounds / "0.wav")
    embed(sounds, tmp_path / "v")
    about = json.loads((tmp_path / "v" / "vectors.json").read_text())
    (tmp_path / "v" / "vectors.json").write_text(json.dumps(about | {"format": 9}))
    with pytest.raises(UserError, match="of format 9, this version reads 1"):
        embed(sounds, tmp_path / "v")


def test_two_processes_do_not_write_one_folder(sounds: Path, tmp_path: Path):
    (tmp_path / "v").mkdir()
    with FileLock(tmp_path / "v" / "lock"), pytest.raises(UserError, match="another process embeds into"):
        embed(sounds, tmp_path / "v")
    assert embed(sounds, tmp_path / "v").made == 8


def test_a_full_disk_ends_it_with_a_word_and_the_same_command_goes_on(sounds: Path, tmp_path: Path, monkeypatch):
    write, room = pq.write_table, [2]

    def full(*args: Any, **more: Any) -> None:
        if not room[0]:
            raise OSError(28, "No space left on device")
        room[0] -= 1
        write(*args, **more)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(UserError, match="cannot write to .*: No space left on device; what is done is kept"):
        embed(sounds, tmp_path / "v")
    found = read_vectors(tmp_path / "v")
    assert len(found.parts) == 2 and not found.complete
    room[0] = 9
    done = embed(sounds, tmp_path / "v")
    assert (done.kept, done.made) == (6, 2) and read_vectors(tmp_path / "v").complete


def test_nothing_to_embed_says_what_was_found(tmp_path: Path):
    (tmp_path / "a.pdf").write_bytes(b"x")
    (tmp_path / "b.wav").touch()
    with pytest.raises(UserError, match=r"nothing to embed in .*; found: 1 x \*.pdf; b.wav: is empty"):
        embed(tmp_path, tmp_path / "v")


# --- other sources


def test_the_runs_own_items_have_captions_topics_and_tasks(tmp_path: Path, encoder: Encoder):
    done = embed(None, tmp_path / "v")
    found = by_key(tmp_path / "v")
    wholes = [r for r in found.values() if r["window"] == -1]
    assert done.made == len(wholes) == 24 and done.counts["items"] == 8
    assert {(r["topic"], r["task"]) for r in wholes} == {("nature", "seas"), ("music", "tunes")}
    assert all(r["caption"] and r["id"].startswith("soundworld/") for r in wholes)
    several = [r for r in found.values() if r["modality"] == "text" and r["window"] >= 0]
    texts = [r for r in wholes if r["modality"] == "text"]
    assert not several or all(np.abs(np.linalg.norm(r["vector"]) - 1) < 1e-5 for r in several)
    for r in several or texts:
        assert np.abs(encoder.encode_text([r["caption"]])[0] - r["vector"]).max() < 1e-5
    # two domains of four combinations, of each three scenes to learn from and one to test with
    more = embed(None, tmp_path / "v", split="all")
    assert more.kept == 24 and more.made == 3 * 24
    assert embed(None, tmp_path / "w", split="train", only=("audio",)).made == 24


def test_a_manifest_and_a_data_set_by_name_bring_their_captions_along(sounds: Path, tmp_path: Path):
    (sounds / "list.csv").write_text(
        "id,audio,text,topic,start,seconds\nfirst,0.wav,a sound,sea,,\nlast,4.wav,another,sky,0.5,1.75\n"
    )
    done = embed(sounds / "list.csv", tmp_path / "v")
    found = by_key(tmp_path / "v")
    assert done.made == 4 and {r["topic"] for r in found.values()} == {"sea", "sky"}
    long = found["manifest/last#audio"]
    assert (long["start"], long["end"], long["duration"], long["caption"]) == (0.5, 2.25, 1.75, "another")
    assert [(found[f"manifest/last#audio#{n}"]["start"]) for n in range(3)] == [0.5, 1.0, 1.25]
    assert found["manifest/last#text"]["source"] is None and found["manifest/first#audio"]["source"] == "0.wav"
    assert embed(sounds, tmp_path / "v", dataset="manifest", keys=("file=list.csv",)).kept == 4
    (sounds / "list.csv").write_text(
        "id,audio,text,topic,start,seconds\nfirst,0.wav,a sound,lake,,\nlast,4.wav,a third,sky,0.5,1.5\n"
    )
    news = embed(sounds / "list.csv", tmp_path / "v")
    assert (news.kept, news.changed, news.made) == (2, 2, 2)  # of the first only the topic is another
    assert by_key(tmp_path / "v")["manifest/first#audio"]["topic"] == "lake"


def test_a_run_that_only_hears_takes_the_sound_of_videos_and_leaves_pictures_out(tmp_path: Path):
    raw = small_recipe(small_root(), out=str(tmp_path / "runs"))
    del raw["towers"]["image"], raw["stages"]
    raw["tasks"] = raw["tasks"][1:]
    run = pm.run(raw).folder
    root = make_sounds(tmp_path / "root", 2)
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(root / "grey.png")
    film(root / "film.mkv", [50] * 5, sounds=[noise(0.5)])
    done = pm.embed_files(run, root, tmp_path / "v")
    assert done.made == 3 and {r["modality"] for r in by_key(tmp_path / "v").values()} == {"audio"}
    assert done.skipped["image, not asked for or unknown to this run"].examples == ["grey.png"]
