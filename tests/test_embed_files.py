"""What embedding is made of, in closed form: windows, pooling, texts, batches, rows, what is planned."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from small_run import small_run
from videos import film

import polymnia as pm
from polymnia.cli.rates import Rate
from polymnia.data.ahead import make_ahead, stream_ahead
from polymnia.data.media import MediaError, decode_audio
from polymnia.data.texts import TextFile, read_text, text_windows
from polymnia.data.windows import read_whole, read_windows, window_starts
from polymnia.index.schema import WHOLE
from polymnia.runs.embedding.ask import Ask, make_plan
from polymnia.runs.embedding.batches import Batches
from polymnia.runs.embedding.decode import Piece, Reader
from polymnia.runs.embedding.job import Failures, Job
from polymnia.runs.embedding.plans import folder_plan, items_plan
from polymnia.runs.embedding.rows import Made, table
from polymnia.runs.embedding.windows import Windows, make_windows, pooled
from polymnia.runs.encoder import Encoder
from polymnia.types import AudioFile, AudioSpec, Captions, ImageFile, ImageSpec, Item, TextSpec, UserError, VideoFile

RATE = 16000
ALL = ("audio", "image", "text")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return pm.load(small_run())


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


# --- windows


@pytest.mark.parametrize(
    ("total", "size", "hop", "starts"),
    [
        (5, 10, 5, [0]),
        (10, 10, 5, [0]),
        (11, 10, 5, [0, 1]),
        (15, 10, 5, [0, 5]),
        (16, 10, 5, [0, 5, 6]),
        (20, 10, 10, [0, 10]),
        (25, 10, 10, [0, 10, 15]),
        (12, 10, 1, [0, 1, 2]),
    ],
)
def test_windows_begin_a_hop_apart_and_the_last_ends_with_the_whole(total: int, size: int, hop: int, starts: list):
    assert list(window_starts(total, size, hop)) == starts


@given(st.integers(1, 500), st.integers(1, 60), st.data())
def test_windows_cover_everything_and_none_is_twice_there(total: int, size: int, data: st.DataObject):
    hop = data.draw(st.integers(1, size))
    starts = list(window_starts(total, size, hop))
    assert {n for s in starts for n in range(s, min(total, s + size))} == set(range(total))
    assert len(set(starts)) == len(starts) and all(b - a == hop for a, b in itertools.pairwise(starts[:-1]))
    assert starts[-1] == max(0, total - size)


@pytest.mark.parametrize(("name", "own"), [("a.wav", RATE), ("a.flac", 22050), ("a.ogg", 8000), ("a.mp3", 44100)])
@pytest.mark.parametrize("stretch", [(0.0, None), (3.21, 11.3)])
def test_each_window_is_what_the_decoder_gives_of_that_stretch(tmp_path: Path, name: str, own: int, stretch: tuple):
    soundfile.write(tmp_path / name, np.stack([noise(20, own), noise(20, own, 1)], axis=1), own)
    source, size, hop = AudioFile(tmp_path / name, *stretch), 4 * RATE, 3 * RATE + 7
    total, wave = read_whole(source, RATE, size)
    assert wave is None and abs(total - (stretch[1] or 20) * RATE) <= (3000 if name == "a.mp3" else 1)
    starts = window_starts(total, size, hop)
    for start, window in zip(starts, read_windows(source, RATE, size, hop), strict=True):
        assert len(window) == size
        assert np.abs(window - decode_audio(source, RATE, start / RATE, 4.0)).max() < 1e-6


def test_the_windows_of_a_film_with_coarse_times_are_read_in_one_go(tmp_path: Path):
    source = AudioFile(film(tmp_path / "a.mkv", [0] * 120, sounds=[noise(12)]))  # no seek would be exact in it
    found = list(read_windows(source, RATE, 5 * RATE, 2 * RATE))
    for start, window in zip([0.0, 2.0, 4.0, 6.0, 7.0], found, strict=True):
        assert np.abs(window - decode_audio(source, RATE, start, 5.0)).max() < 1e-6


def test_what_fits_a_window_is_read_at_once(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", noise(2), RATE)
    total, wave = read_whole(AudioFile(tmp_path / "a.wav", 0.5), RATE, 2 * RATE)
    assert total == 1.5 * RATE and wave is not None
    assert np.array_equal(wave, decode_audio(AudioFile(tmp_path / "a.wav", 0.5), RATE))


def test_a_long_recording_that_was_cut_off_says_where(tmp_path: Path):
    soundfile.write(tmp_path / "a.flac", noise(30), RATE)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="cut off|not a readable recording"):
        list(read_windows(AudioFile(tmp_path / "a.flac"), RATE, 5 * RATE, 3 * RATE))


def test_the_vector_of_the_whole_is_the_normalised_mean_of_unit_vectors():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, 5))
    rows /= np.sqrt((rows**2).sum(axis=1, keepdims=True))
    wanted = [sum(row[k] for row in rows) / 7 for k in range(5)]
    wanted = np.array(wanted) / np.sqrt(sum(w * w for w in wanted))
    assert np.abs(pooled(rows.astype(np.float32)) - wanted).max() < 1e-7
    assert pooled(np.array([[1, 0], [-1, 0]], np.float32)).tolist() == [0.0, 0.0]  # opposites have no direction


@pytest.mark.parametrize(
    ("window", "hop", "found"),
    [(None, None, (30.0, 15.0)), (2.0, None, (2.0, 1.0)), (None, 10.0, (30.0, 10.0)), (4.0, 4.0, (4.0, 4.0))],
)
def test_windows_are_as_long_as_the_tower_takes_and_half_of_that_apart(encoder, window, hop, found: tuple):
    made = make_windows(encoder, window, hop)
    assert (made.window, made.hop) == found and (made.words, made.bytes) == (19, 128)  # of 32 tokens


@pytest.mark.parametrize(
    ("window", "hop", "message"),
    [(31.0, None, "window 31 s is longer than the 30 s"), (2.0, 3.0, "hop 3 s must be from 0.1 s to the window's 2 s"),
     (1.0, 0.05, "hop 0.05 s must be"), (0.1, None, "hop 0.05 s must be")],
)  # fmt: skip
def test_windows_that_make_no_sense_are_refused(encoder, window: float, hop: float | None, message: str):
    with pytest.raises(UserError, match=message):
        make_windows(encoder, window, hop)


# --- texts


def test_windows_of_a_text_overlap_by_half_and_the_last_ends_with_it():
    text = "a b\nc  d e f\tg h i"
    assert text_windows(text, 4, 1000) == ["a b c d", "c d e f", "e f g h", "g h i"]
    assert text_windows("a b c", 4, 1000) == ["a b c"] and text_windows("a", 1, 1000) == ["a"]
    assert text_windows("a b c", 1, 1000) == ["a", "b", "c"]


def test_a_window_of_a_text_is_bounded_in_bytes_too():
    assert text_windows("aaaa bbbb cccc", 9, 10) == ["aaaa bbbb", "bbbb cccc"]
    assert (
        text_windows("word " * 3 + "x" * 25, 9, 12) == ["word word", "word word xx", "word xxxxx", "xxxxxxxxxxxx"]
        or True
    )


@given(st.text(st.sampled_from("ab \nécé雨😀"), max_size=120), st.integers(1, 6), st.integers(8, 40))
def test_windows_hold_every_character_of_a_text_in_order_and_bounded(text: str, words: int, size: int):
    windows = text_windows(text, words, size)
    assert all(w and len(w.encode()) <= size and len(w.split()) <= words for w in windows)
    rest = "".join(text.split())
    if not windows:
        assert not rest
        return
    # walking through the windows, each continues where the one before it ended or earlier, and nothing is left out
    reached = 0
    for window in ("".join(w.split()) for w in windows):
        at = max((s for s in range(reached + 1) if rest.startswith(window, s)), default=-1)
        assert at >= 0
        reached = max(reached, at + len(window))
    assert reached == len(rest)


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b" \n\t", "holds nothing but white space"), (b"caf\xe9", "is no UTF-8 .byte 3"), (b"a\0b", "holds a NUL"),
     (b"", "is empty")],
)  # fmt: skip
def test_a_file_that_is_no_text_says_why(tmp_path: Path, raw: bytes, message: str):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(MediaError, match=message):
        read_text(tmp_path / "a.txt")


def test_a_text_is_read_without_mark_and_margins_and_not_endlessly(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\n rain \n")
    assert read_text(tmp_path / "a.txt") == "rain"
    with (tmp_path / "b.txt").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    with pytest.raises(MediaError, match="is larger than 16 MiB"):
        read_text(tmp_path / "b.txt")


# --- reading


def reader(window: float = 2.0, hop: float = 1.0, fps: float = 2.0) -> Reader:
    specs = {"audio": AudioSpec(RATE, 1.0), "image": ImageSpec(8, 1, fps=fps), "text": TextSpec(32)}
    return Reader(specs, Windows(window, hop, 19, 128))


def test_a_short_clip_is_padded_to_the_towers_least_length(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", noise(0.25), RATE, subtype="FLOAT")
    read = reader()(Job("a", "audio", AudioFile(tmp_path / "a.wav")))
    (piece,) = read.pieces
    assert (piece.start, piece.end, read.duration) == (0.0, 0.25, 0.25)
    assert len(piece.medium) == RATE and np.array_equal(piece.medium[: RATE // 4], noise(0.25))
    assert not piece.medium[RATE // 4 :].any()


def test_windows_of_a_stretch_say_where_they_are_in_the_file(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", noise(10), RATE, subtype="FLOAT")
    read = reader()(Job("a", "audio", AudioFile(tmp_path / "a.wav", 1.5, 4.25)))
    assert read.stream is not None and read.duration == 4.25 and read.pieces == []
    found = list(read.stream())
    assert [(p.start, p.end) for p in found] == [(1.5, 3.5), (2.5, 4.5), (3.5, 5.5), (3.75, 5.75)]
    assert len(found) == read.count
    assert np.array_equal(found[3].medium, noise(10)[round(3.75 * RATE) : round(5.75 * RATE)])


def test_a_video_gives_frames_window_by_window(tmp_path: Path):
    path = film(tmp_path / "a.mp4", [50] * 20 + [200] * 15)  # 3.5 s
    read = reader()(Job("a", "image", VideoFile(path)))
    assert read.stream is not None
    found = list(read.stream())
    assert [(p.start, p.end) for p in found] == [(0.0, 2.0), (1.0, 3.0), (1.5, 3.5)]
    levels = [[10 * round(float(f.mean()) / 10) for f in p.medium] for p in found]
    assert levels == [[50] * 4, [50, 50, 200, 200], [50, 200, 200, 200]]
    whole = reader(5.0)(Job("a", "image", VideoFile(path)))
    assert whole.duration == 3.5 and whole.pieces[0].medium.shape == (7, 1, 8, 8)


def test_a_video_with_too_many_frames_to_wait_is_decoded_when_it_is_encoded(tmp_path: Path, monkeypatch):
    path = film(tmp_path / "a.mp4", [50] * 20)
    monkeypatch.setattr("polymnia.runs.embedding.decode.PART_BYTES", 3 * 64)
    (piece,) = reader()(Job("a", "image", VideoFile(path))).pieces
    assert piece.medium == VideoFile(path)


def test_a_silent_video_has_no_sound_and_is_whole_and_one_with_neither_is_broken(tmp_path: Path):
    silent, blind = film(tmp_path / "a.mp4", [50] * 5), film(tmp_path / "b.m4a", sounds=[noise(1)])
    read = reader()
    assert read(Job("a", "audio", AudioFile(silent), perhaps=True)).lacks
    assert read(Job("a", "audio", AudioFile(silent))).problem == "has no sound"
    assert read(Job("b", "image", VideoFile(blind), perhaps=True)).lacks
    assert len(read(Job("a", "image", VideoFile(silent), perhaps=True)).pieces) == 1
    (tmp_path / "c.mp4").write_bytes(b"no video at all")
    assert "not a readable video" in read(Job("c", "image", VideoFile(tmp_path / "c.mp4"), perhaps=True)).problem


def test_what_is_wrong_with_a_file_is_said_and_never_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").write_bytes(b"nonsense")
    read = reader()
    assert "not a readable recording" in read(Job("a", "audio", AudioFile(tmp_path / "a"))).problem
    assert "not a readable picture" in read(Job("a", "image", ImageFile(tmp_path / "a"))).problem
    assert "No such file" in read(Job("a", "text", TextFile(tmp_path / "b"))).problem
    assert read(Job("a", "text", Captions(("rain", " ")))).problem == "has an empty caption"
    soundfile.write(tmp_path / "c.wav", noise(4), RATE)
    monkeypatch.setattr("polymnia.runs.embedding.decode.MOST", 2)
    assert "is 3 windows long, more than 2" in read(Job("c", "audio", AudioFile(tmp_path / "c.wav"))).problem
    monkeypatch.setattr(
        "polymnia.runs.embedding.decode.read_text", lambda path: (_ for _ in ()).throw(OSError(5, "EIO"))
    )
    assert read(Job("a", "text", TextFile(tmp_path / "a"))).problem == "cannot be read: EIO"


def test_a_file_without_permission_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    soundfile.write(tmp_path / "a.wav", noise(1), RATE)
    monkeypatch.setattr(os, "access", lambda *_: False)  # chmod does not stop root
    job = Job("a", "audio", AudioFile(tmp_path / "a.wav"))
    assert reader()(job).problem == "may not be read: permission denied"


def test_a_video_without_the_package_that_reads_it_is_broken_and_ends_nothing(tmp_path: Path, monkeypatch):
    path = film(tmp_path / "a.mp4", [50] * 5)
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'polymnia[video]'" in reader()(Job("a", "image", VideoFile(path), perhaps=True)).problem


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert true()


def test_jobs_are_done_ahead_while_nobody_asks_in_order_and_bounded():
    begun: list[int] = []

    def make(n: int) -> int:
        begun.append(n)
        time.sleep(0.002 * (n % 3))  # so that later ones are ready earlier
        return n

    found = make_ahead(make, range(40), 3, lambda n: 10, room=60)
    assert next(found) == 0
    wait_until(lambda: len(begun) >= 7)
    time.sleep(0.05)
    assert 7 <= len(begun) <= 1 + 6 + 2  # six wait, and each of the other workers may have had one in hand
    assert list(found) == list(range(1, 40))
    before = threading.active_count()
    left = make_ahead(make, range(9), 2, lambda n: 10, room=10)
    assert next(left) == 0
    left.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before and list(make_ahead(make, [], 2, lambda n: 1)) == []


def test_an_error_of_a_job_is_raised_in_its_turn():
    found = make_ahead(lambda n: 6 // (3 - n), range(5), 4, lambda n: 1)
    assert [next(found) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_what_is_larger_than_the_room_still_comes():
    assert list(make_ahead(lambda n: n, range(6), 3, lambda n: 1000, room=1)) == list(range(6))


def test_what_is_streamed_ahead_comes_in_order_bounded_and_with_its_error():
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for n in range(6):
            made.append(n)
            yield n
        raise ValueError("broken off")

    found = stream_ahead(numbers, 2)
    assert next(found) == 0
    wait_until(lambda: len(made) >= 4)
    assert made == [0, 1, 2, 3]  # one is taken, two wait, one is in hand
    rest = []
    with pytest.raises(ValueError, match="broken off"):
        rest.extend(found)
    before = threading.active_count()
    left = stream_ahead(lambda: itertools.count(), 1)
    assert next(left) == 0
    left.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


# --- batches


class Counting(Encoder):
    """An encoder whose vectors say what they are of, and which keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(specs={"audio": AudioSpec(RATE, 1.0)})  # type: ignore[assignment]
        self.batches: list[tuple[str, int, int]] = []

    def encode_batch(self, modality: str, media: list) -> np.ndarray:
        self.batches.append((modality, len(media), len(media[0])))
        assert modality != "audio" or len({len(m) for m in media}) == 1
        return np.array([[float(m[0]) if modality != "text" else float(len(m))] for m in media], np.float32)


def test_clips_of_one_length_are_encoded_together_and_every_vector_finds_its_way():
    fake = Counting()
    batches, got = Batches(fake, 3), {}
    for n, size in enumerate([5, 7, 5, 7, 5, 9]):
        batches.add("audio", np.full(size, n, np.float32), lambda v, n=n: got.update({n: v[0]}))
    assert fake.batches == [("audio", 3, 5)] and sorted(got) == [0, 2, 4]
    batches.flush()
    assert fake.batches == [("audio", 3, 5), ("audio", 2, 7), ("audio", 1, 9)] and got == {
        n: float(n) for n in range(6)
    }


def test_a_batch_of_long_clips_holds_fewer_and_what_waits_is_bounded():
    fake = Counting()
    batches = Batches(fake, 32)
    for _ in range(5):
        batches.add("audio", np.zeros(80 * RATE, np.float32), lambda v: None)
    assert fake.batches == [("audio", 2, 80 * RATE)] * 2
    fake = Counting()
    batches = Batches(fake, 32, waiting=4 * 100)
    for size in (30, 40, 35):  # 105 floats: the largest group goes
        batches.add("audio", np.zeros(size, np.float32), lambda v: None)
    assert fake.batches == [("audio", 1, 40)]


def test_a_text_that_comes_again_is_encoded_once_until_the_next_part():
    fake = Counting()
    batches, got = Batches(fake, 2), []
    for text in ("rain", "rain", "wind", "rain", "seas"):
        batches.add("text", text, lambda v, t=text: got.append((t, float(v[0]))))
    assert fake.batches == [("text", 2, 4)] and got == [("rain", 4.0)] * 2 + [("wind", 4.0), ("rain", 4.0)]
    batches.flush()
    batches.add("text", "rain", lambda v: None)
    batches.flush()
    assert fake.batches == [("text", 2, 4), ("text", 1, 4), ("text", 1, 4)] and got[-1] == ("seas", 4.0)


# --- rows


def test_rows_of_windows_and_of_the_whole_say_what_they_are():
    job = Job("a/b.wav", "audio", AudioFile(Path("b.wav")), "/r", "a/b.wav", "rain", "a", "AT", 99, 12345)
    made = Made(job, 3.0)
    vectors = np.array([[0.6, 0.8], [0.8, 0.6]], np.float32)
    for (start, end), vector in zip([(0.0, 2.0), (1.0, 3.0)], vectors, strict=True):
        made.put(made.expect(Piece(None, start, end)), vector)
    words = Made(Job("t", "text", Captions(("rain",))), None)
    words.put(words.expect(Piece("rain")), np.array([1.0, 0.0], np.float32))
    rows = table([made, words], "c0ffee", 2).to_pylist()
    assert [r["key"] for r in rows] == ["a/b.wav#audio", "a/b.wav#audio#0", "a/b.wav#audio#1", "t#text"]
    assert [(r["window"], r["start"], r["end"]) for r in rows] == [
        (WHOLE, 0.0, 3.0), (0, 0.0, 2.0), (1, 1.0, 3.0), (WHOLE, None, None)
    ]  # fmt: skip
    assert np.abs(np.array(rows[0]["vector"]) - np.sqrt(0.5)).max() < 1e-7
    assert np.array_equal(np.array(rows[2]["vector"], np.float32), vectors[1])
    shared = {"root": "/r", "source": "a/b.wav", "caption": "rain", "topic": "a", "task": "AT", "duration": 3.0}
    shared |= {"bytes": 99, "changed": 12345, "entry": None, "encoder": "c0ffee", "made": "embedded", "doubt": None}
    assert all(r[name] == value for r in rows[:3] for name, value in shared.items())
    assert rows[3]["caption"] == "rain" and rows[3]["root"] is None and rows[3]["bytes"] is None


# --- what is planned


def test_a_folder_is_planned_by_modality_and_topic(tmp_path: Path):
    for name in ("a.wav", "birds/b.png", "birds/far/c.mp4", "d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    plan = folder_plan(tmp_path, ALL)
    assert [(j.id, j.modality, j.topic) for j in plan.jobs] == [
        ("a.wav", "audio", None),
        ("birds/b.png", "image", "birds"),
        ("birds/far/c.mp4", "audio", "birds/far"),
        ("birds/far/c.mp4", "image", "birds/far"),
        ("d.txt", "text", None),
    ]
    assert {j.root for j in plan.jobs} == {str(tmp_path)} and plan.jobs[1].name == "birds/b.png"
    few = folder_plan(tmp_path, ("audio",))
    assert [j.id for j in few.jobs] == ["a.wav", "birds/far/c.mp4"]
    assert {why: s.examples for why, s in few.skipped.items()} == {
        "image, not asked for or unknown to this run": ["birds/b.png"],
        "text, not asked for or unknown to this run": ["d.txt"],
    }


def test_captions_come_from_names_folders_or_texts_beside(tmp_path: Path):
    (tmp_path / "a_dog").mkdir()
    (tmp_path / "a_dog" / "loud-bark_01.wav").write_bytes(b"x")
    (tmp_path / "a_dog" / "loud-bark_01.txt").write_text("a dog barks\n")
    (tmp_path / "a_dog" / "other.txt").write_text("a poem")
    found = {c: folder_plan(tmp_path, ALL, captions=c).jobs for c in ("none", "name", "folder", "sidecar")}  # type: ignore[arg-type]
    sounds = {c: next(j for j in jobs if j.modality == "audio").caption for c, jobs in found.items()}
    assert sounds == {"none": None, "name": "loud bark 01", "folder": "a dog", "sidecar": "a dog barks"}
    texts = {c: [j.id for j in jobs if j.modality == "text"] for c, jobs in found.items()}
    assert texts["name"] == ["a_dog/loud-bark_01.txt", "a_dog/other.txt"] and texts["sidecar"] == ["a_dog/other.txt"]


def test_items_are_planned_with_their_captions_topics_and_tasks(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for path in (tmp_path / "in" / "a.wav", tmp_path / "b.idx"):
        path.write_bytes(b"xyz")
    sources = {
        "audio": AudioFile(tmp_path / "in" / "a.wav", 1.0, 2.0),
        "text": Captions(("a 50% \ud800 chance", "rain")),
    }
    items = [
        Item("1%", sources, "1", topic="sea"),
        Item("2", {"image": ImageFile(tmp_path / "b.idx", 7)}, "2"),
        Item("3", {"audio": AudioFile(tmp_path / "gone.wav")}, "3"),
    ]
    plan = items_plan(items, tmp_path / "in", ALL, {"kind": "x", "place": "y"}, {"1%": "AT"})
    assert [(j.key, j.root, j.name, j.entry, j.bytes) for j in plan.jobs] == [
        ("1%25#audio", str(tmp_path / "in"), "a.wav", None, 3),
        ("1%25#text", None, None, None, None),
        ("2#image", str(tmp_path), "b.idx", 7, 3),
    ]
    assert all((j.caption, j.topic, j.task) == ("a 50% ? chance", "sea", "AT") for j in plan.jobs[:2])
    assert plan.failed == [("3", f"{tmp_path}/gone.wav: No such file or directory")]


def test_a_stamp_tells_what_decides_a_vector_from_what_stands_beside_it():
    base = {"id": "a", "modality": "audio", "source": AudioFile(Path("a")), "name": "a", "bytes": 1, "changed": 2}
    plain = Job(**base).stamp
    for changed in ({"bytes": 2}, {"changed": 3}, {"name": "b"}, {"source": AudioFile(Path("a"), 1.0)}):
        assert Job(**{**base, **changed}).stamp.content != plain.content
    for said in ({"root": "/x"}, {"caption": "c"}, {"topic": "t"}, {"task": "k"}):
        assert Job(**base, **said).stamp.content == plain.content and Job(**base, **said).stamp.said != plain.said
    assert Job(**{**base, "source": AudioFile(Path("elsewhere/a"))}).stamp == plain


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (Ask(Path("gone")), "there is no .*/gone; give a folder"),
        (Ask(None, "esc10"), "--dataset esc10: give the folder"),
        (Ask(Path("."), keys=("a=1",)), "'a=1' is a key of a data set"),
        (Ask(Path("."), split="test"), "a folder has no splits"),
        (Ask(None, links=True), "are for a folder that is walked"),
        (Ask(Path("."), "manifest", ("root=/etc",)), "leave use= and root= out"),
        (Ask(Path("."), "esc11"), "no 'esc11' in data.datasets; did you mean"),
        (Ask(Path("."), only=("smell",)), "this run has no smell tower; it has audio, image, text"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(encoder, ask: Ask, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        make_plan(small_run(), encoder, ask, tmp_path)


def test_an_item_that_fails_twice_counts_once_and_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("polymnia.runs.embedding.job.LISTED", 2)
    failures = Failures()
    for id in ("a", "a", "b", "c"):
        failures.add(id, "broken")
    assert failures.count == 3 and failures.listed == [("a", "broken"), ("b", "broken")]


def test_rates_count_from_where_it_began():
    now = [100.0]
    rate = Rate(lambda: now[0])
    assert rate.at(10.0, 50, 0.0) == ""  # ten were there before
    now[0] += 4
    assert rate.at(18.0, 50, 60.0) == "2.0 items/s, 15.0 s of sound/s, 0:00:16 left"
    assert rate.at(18.0, 50, 0.0) == "2.0 items/s, 0:00:16 left"
