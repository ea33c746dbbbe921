"""Stores: decoded once, found again by content; what failed is listed, and what is long is read from its file."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import soundfile
from clips import packs, recordings
from PIL import Image
from real import DATA, needs_data

from polymnia.data import store
from polymnia.data.media import MediaError, decode_image
from polymnia.data.store import open_audio_store, open_image_store
from polymnia.types import AudioFile, ImageFile


@pytest.fixture
def sources(tmp_path):
    return recordings(tmp_path)


def test_what_is_read_is_what_decoding_gives_to_sixteen_bits(tmp_path, sources):
    opened = open_audio_store(sources, 16000, tmp_path / "cache")
    assert len(opened) == 6
    assert opened.failed == {}
    for i, source in enumerate(sources):
        x, _ = soundfile.read(source.path, dtype="int16")
        assert opened.length(i) == len(x)
        read = opened.read(i)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, x / 32768, atol=1 / 32767)
        np.testing.assert_array_equal(opened.read(i, 700, 300), read[700:1000])
        np.testing.assert_array_equal(opened.read(i, 1500), read[1500:])
        np.testing.assert_array_equal(opened.read(i, 1500, 10**9), read[1500:])


def test_reading_outside_of_a_recording_is_an_error(tmp_path, sources):
    opened = open_audio_store(sources, 16000, tmp_path / "cache")
    for start, n in [(-1, None), (1600, None), (0, 0), (5, -3)]:
        with pytest.raises(IndexError, match=r"0\.wav, which has 1600"):
            opened.read(0, start, n)


def test_samples_are_written_at_full_scale_and_clipped(tmp_path):
    soundfile.write(tmp_path / "loud.wav", np.array([1.0, -1.0, 2.0, -2.0, 0.0]), 16000, subtype="FLOAT")
    opened = open_audio_store([AudioFile(tmp_path / "loud.wav")], 16000, tmp_path / "cache")
    np.testing.assert_array_equal(opened.read(0), np.float32([1, -1, 1, -1, 0]))


def test_a_second_opening_decodes_nothing(tmp_path, sources, monkeypatch):
    seen = []
    first = open_audio_store(sources, 8000, tmp_path / "cache", progress=lambda *at: seen.append(at))
    assert seen == [(i, 6) for i in range(1, 7)]
    monkeypatch.setattr(store, "decode_audio", lambda *_: pytest.fail("decoded again"))
    again = open_audio_store(sources, 8000, tmp_path / "cache", progress=lambda *_: pytest.fail("built again"))
    np.testing.assert_array_equal(again.read(3), first.read(3))
    shuffled = open_audio_store(sources[::-1], 8000, tmp_path / "cache")
    np.testing.assert_array_equal(shuffled.read(2), first.read(3))


def test_rate_stretch_and_limit_are_part_of_the_key(tmp_path, sources):
    cache = tmp_path / "cache"
    open_audio_store(sources, 16000, cache)
    open_audio_store(sources, 8000, cache)
    open_audio_store(sources, 16000, cache, limit_seconds=0.3)
    open_audio_store([AudioFile(s.path, seconds=0.05) for s in sources], 16000, cache)
    open_audio_store([AudioFile(s.path, start=0.05) for s in sources], 16000, cache)
    assert len(packs(cache)) == 5


def test_equal_contents_and_repeated_sources_are_stored_once(tmp_path, sources):
    twin = tmp_path / "twin.wav"
    twin.write_bytes(sources[2].path.read_bytes())
    opened = open_audio_store([*sources, sources[2], AudioFile(twin)], 16000, tmp_path / "cache")
    (home,) = packs(tmp_path / "cache")
    assert (tmp_path / "cache" / home / "data.bin").stat().st_size == 2 * 1600 * (1 + 2 + 3 + 4 + 5 + 6)
    np.testing.assert_array_equal(opened.read(6), opened.read(2))
    np.testing.assert_array_equal(opened.read(7), opened.read(2))


def test_files_that_moved_are_found_again_and_changed_ones_are_not(tmp_path, sources):
    cache = tmp_path / "cache"
    before = open_audio_store(sources, 16000, cache).read(0)
    moved = AudioFile(sources[0].path.rename(tmp_path / "moved.wav"))
    open_audio_store([moved, *sources[1:]], 16000, cache)
    assert len(packs(cache)) == 1
    soundfile.write(moved.path, np.zeros(1600, np.int16), 16000)  # same path, same size, other content
    after = open_audio_store([moved, *sources[1:]], 16000, cache)
    assert len(packs(cache)) == 2
    assert np.abs(before).max() > 0.5
    assert np.abs(after.read(0)).max() == 0


def test_failures_are_listed_with_file_and_reason_and_remembered(tmp_path, sources):
    (tmp_path / "bad.wav").write_bytes(b"RIFF nonsense")
    (tmp_path / "empty.wav").write_bytes(b"")
    bad = [AudioFile(tmp_path / n) for n in ("bad.wav", "empty.wav", "gone.wav")] + [AudioFile(sources[0].path, 99.0)]
    mixed = [bad[0], sources[0], bad[1], bad[2], sources[1], bad[3]]
    for _ in range(2):
        opened = open_audio_store(mixed, 16000, tmp_path / "cache")
        assert sorted(opened.failed) == [0, 2, 3, 5]
        assert str(tmp_path / "bad.wav") in opened.failed[0]
        assert "empty" in opened.failed[2]
        assert "No such file" in opened.failed[3]
        assert "stretch" in opened.failed[5]
        assert opened.length(4) == 3200
        for read in (opened.read, opened.length):
            with pytest.raises(MediaError, match=r"empty\.wav: is empty"):
                read(2)
    soundfile.write(tmp_path / "gone.wav", np.zeros(100), 16000)
    assert sorted(open_audio_store(mixed, 16000, tmp_path / "cache").failed) == [0, 2, 5]


def test_the_same_broken_content_in_a_new_place_is_listed_under_its_new_name(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF nonsense")
    open_audio_store([AudioFile(tmp_path / "a.wav")], 16000, tmp_path / "cache")
    (tmp_path / "a.wav").rename(tmp_path / "b.wav")
    opened = open_audio_store([AudioFile(tmp_path / "b.wav")], 16000, tmp_path / "cache")
    assert "b.wav" in opened.failed[0]
    assert "a.wav" not in opened.failed[0]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_long_recordings_are_read_from_their_file(tmp_path, sources, rate):
    opened = open_audio_store(sources, rate, tmp_path / "cache", limit_seconds=0.35)
    (home,) = packs(tmp_path / "cache")
    stored = sum(round(0.1 * (i + 1) * rate) for i in range(3))
    assert (tmp_path / "cache" / home / "data.bin").stat().st_size == 2 * stored
    whole = open_audio_store(sources, rate, tmp_path / "cache")
    for i in range(6):
        assert opened.length(i) == whole.length(i)
        for start, n in [(0, None), (123, 456), (opened.length(i) - 1, 1), (opened.length(i) - 5, 100)]:
            np.testing.assert_allclose(opened.read(i, start, n), whole.read(i, start, n), atol=2 / 32767)


def test_a_long_recording_that_ends_early_is_found_when_the_store_is_built(tmp_path):
    path = tmp_path / "cut.mp3"
    soundfile.write(path, np.random.default_rng(0).standard_normal(8 * 44100) * 0.1, 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 0 in open_audio_store([AudioFile(path)], 16000, tmp_path / "cache", limit_seconds=5.0).failed


def test_nothing_to_store_is_a_store(tmp_path, sources):
    assert len(open_audio_store([], 16000, tmp_path / "cache")) == 0
    assert open_audio_store(sources, 16000, tmp_path / "cache", limit_seconds=0.0).length(1) == 3200


def test_a_pickled_store_is_small_and_opens_again(tmp_path, sources):
    opened = open_audio_store(sources, 16000, tmp_path / "cache")
    opened.read(0)
    data = pickle.dumps(opened)
    assert len(data) < 3000 < opened.length(5) * 2
    np.testing.assert_array_equal(pickle.loads(data).read(5), opened.read(5))


def test_pictures_are_what_decoding_gives(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (3, 28, 28)).astype(np.uint8)
    (tmp_path / "rows.gz").write_bytes(gzip.compress(struct.pack(">4I", 0x803, 3, 28, 28) + rows.tobytes()))
    Image.fromarray(rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    sources = [ImageFile(tmp_path / "rows.gz", i) for i in range(4)]
    sources += [ImageFile(tmp_path / "a.png"), ImageFile(tmp_path / "bad.png"), ImageFile(tmp_path / "rows.gz", 1)]
    for channels in (1, 3):
        opened = open_image_store(sources, 28, channels, tmp_path / "cache")
        assert sorted(opened.failed) == [3, 5]
        assert "no row 3" in opened.failed[3]
        np.testing.assert_array_equal(opened.read(1)[0], rows[1])
        for i in (0, 1, 2, 4, 6):
            assert opened.read(i).shape == (channels, 28, 28)
            np.testing.assert_array_equal(opened.read(i), decode_image(sources[i], 28, channels))
        with pytest.raises(MediaError, match=r"bad\.png"):
            opened.read(5)
        opened.read(0)[:] = 0  # a copy: the store does not change
        np.testing.assert_array_equal(opened.read(0)[0], rows[0])
    sizes = sorted((tmp_path / "cache" / p / "data.bin").stat().st_size for p in packs(tmp_path / "cache"))
    assert sizes == [4 * 784, 4 * 784 * 3]


def test_the_size_of_pictures_is_part_of_the_key(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for size in (8, 9, 8):
        assert open_image_store([ImageFile(tmp_path / "a.png")], size, 3, tmp_path / "cache").shape == (3, size, size)
    assert len(packs(tmp_path / "cache")) == 2


@needs_data
def test_real_clips_and_digits_are_stored(tmp_path):
    clips = [AudioFile(p) for p in sorted((DATA / "esc10").rglob("*.ogg"))[::50]]
    opened = open_audio_store(clips, 32000, tmp_path / "cache")
    assert opened.failed == {}
    for i, clip in enumerate(clips):
        x, rate = soundfile.read(clip.path, dtype="float32")
        assert rate == 32000
        np.testing.assert_allclose(opened.read(i), np.clip(x, -1, 1), atol=1 / 65534 + 1e-7)
    path = next((DATA / "mnist_t10k").glob("*images-idx3-ubyte.gz"))
    rows = np.frombuffer(gzip.decompress(path.read_bytes())[16:], np.uint8).reshape(-1, 28, 28)
    digits = open_image_store([ImageFile(path, i) for i in range(0, 10000, 500)], 28, 1, tmp_path / "cache")
    np.testing.assert_array_equal(np.stack([digits.read(i)[0] for i in range(20)]), rows[::500])
