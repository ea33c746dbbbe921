"""The sound of videos: which track, where time begins, and what is said of one that cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from clips import noise, peak_hertz, tone
from videos import RATE, film, levels

from polymnia.data.media import MediaError, audio_length, audio_samples, decode_audio
from polymnia.data.store import open_audio_store
from polymnia.data.video import decode_frames
from polymnia.types import AudioFile, ImageSpec, UserError, VideoFile

EXACT = (".mov", ".mkv", ".avi")  # uncompressed here
LOSSY = (".mp4", ".m4a", ".webm")
SHADES = [0, 100] * 10  # two seconds at ten a second


def kept(path: Path, wave: np.ndarray, *more: np.ndarray, rate: int = RATE, **film_settings) -> AudioFile:
    pictures = [] if path.suffix == ".m4a" else SHADES
    return AudioFile(film(path, pictures, sounds=[wave, *more], rate=rate, **film_settings))


@pytest.mark.parametrize("kind", EXACT)
def test_uncompressed_sound_comes_back_as_it_was_written(tmp_path: Path, kind: str):
    wave = noise(RATE, 2.0).astype(np.float32)
    source = kept(tmp_path / f"a{kind}", wave)
    assert audio_length(source) == pytest.approx(2.0, abs=1e-3)
    np.testing.assert_allclose(decode_audio(source, RATE), wave, atol=1 / 32768)


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("wanted", [16000, 24000])
def test_compressed_sound_keeps_its_length_pitch_and_place(tmp_path: Path, kind: str, wanted: int):
    rate = 48000
    wave = noise(rate, 2.0).astype(np.float32)
    source = kept(tmp_path / f"a{kind}", wave, rate=rate)
    x = decode_audio(source, wanted)
    assert audio_length(source) == pytest.approx(2.0, abs=0.03)  # a codec fills up its last block
    assert len(x) == pytest.approx(audio_samples(source, wanted), abs=0.002 * wanted)
    step = rate // wanted
    there = wave[2000 * step : 30000 * step : step]
    shifts = {n: float(np.dot(x[2000 + n : 30000 + n], there)) for n in range(-99, 99)}
    assert max(shifts, key=shifts.__getitem__) == 0  # to the sample, encoder delay and all
    source = kept(tmp_path / f"b{kind}", tone(rate).astype(np.float32), rate=rate)
    assert peak_hertz(decode_audio(source, wanted), wanted) == pytest.approx(1000, abs=1)


@pytest.mark.parametrize("kind", [*EXACT, *LOSSY])
def test_a_crop_of_a_video_is_the_slice_of_the_whole(tmp_path: Path, kind: str):
    source = kept(tmp_path / f"a{kind}", noise(48000, 2.0).astype(np.float32), rate=48000)
    whole = decode_audio(source, 16000)
    assert np.array_equal(decode_audio(source, 16000), whole)
    for start, seconds in ((0.0, 0.3), (0.7, 0.5), (1.25, 0.5), (1.9, 0.05)):
        first = round(start * 16000)
        crop = decode_audio(source, 16000, start, seconds)
        np.testing.assert_allclose(crop, whole[first : first + round(seconds * 16000)], atol=2e-4)
    stretch = AudioFile(source.path, 0.5, 1.0)
    assert audio_length(stretch) == 1.0
    np.testing.assert_allclose(decode_audio(stretch, 16000, 0.25), whole[12000:24000], atol=2e-4)


def test_channels_are_averaged(tmp_path: Path):
    left, right = tone(RATE), 0.5 * tone(RATE, hertz=300.0)
    source = kept(tmp_path / "a.mov", np.stack([left, right], 1))
    np.testing.assert_allclose(decode_audio(source, RATE), (left + right) / 2, atol=1e-4)


def test_of_several_tracks_the_default_one_is_heard(tmp_path: Path):
    for n, (first, second) in enumerate([(300.0, 1000.0), (1000.0, 300.0)]):  # the first is marked as the default
        source = kept(tmp_path / f"{n}.mov", tone(RATE, hertz=first), tone(RATE, hertz=second))
        assert peak_hertz(decode_audio(source, RATE), RATE) == pytest.approx(first, abs=1)


def test_sound_that_begins_late_is_silent_until_then(tmp_path: Path):
    for kind in (".mov", ".mkv"):  # so that second 1.2 is the same in sound and pictures
        source = kept(tmp_path / f"a{kind}", np.full(RATE, 0.5, np.float32), late=0.5)
        x = decode_audio(source, RATE)
        assert audio_length(source) == pytest.approx(1.5, abs=2e-3)
        assert np.abs(x[:7980]).max() == 0 and x[8020:23900].min() == pytest.approx(0.5, abs=1e-3)
        np.testing.assert_allclose(decode_audio(source, RATE, 0.25, 0.5), x[4000:12000], atol=1e-6)


def test_time_begins_with_the_container_for_pictures_and_sound_alike(tmp_path: Path):
    ramp = [10 * k for k in range(20)]
    wave = noise(RATE, 2.0).astype(np.float32)
    path = film(tmp_path / "a.mkv", ramp, sounds=[wave], times=[k + 50 for k in range(20)], late=5.0)
    np.testing.assert_allclose(decode_audio(AudioFile(path, 0.5, 1.0), RATE), wave[8000:24000], atol=1e-4)
    assert levels(decode_frames(VideoFile(path, 0.5, 1.0), ImageSpec(8, 1, fps=2.0))) == [70, 120]
    assert audio_length(AudioFile(path)) == pytest.approx(2.0, abs=2e-3)


def test_a_cut_off_video_gives_the_sound_that_is_there(tmp_path: Path):
    data = kept(tmp_path / "a.mp4", noise(RATE, 2.0).astype(np.float32)).path.read_bytes()
    (tmp_path / "torn.mp4").write_bytes(data[: round(len(data) * 0.7)])
    source = AudioFile(tmp_path / "torn.mp4")
    assert audio_length(source) == pytest.approx(2.0, abs=0.1)
    assert 0.8 < len(decode_audio(source, RATE)) / RATE < 1.8
    with pytest.raises(MediaError, match="is cut off: no audio at 1.9 s"):
        decode_audio(source, RATE, 1.9)


def test_faults_are_said_as_of_other_recordings(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.m4a").write_text("just words " * 100)
    film(tmp_path / "silent.mp4", SHADES)
    sound = film(tmp_path / "a.mp4", SHADES, sounds=[tone(RATE)])
    for source, why in (
        (AudioFile(tmp_path / "gone.mp4"), "No such file"),
        (AudioFile(tmp_path / "empty.mp4"), "is empty"),
        (AudioFile(tmp_path / "text.m4a"), "not a readable video: Invalid data"),
        (AudioFile(tmp_path / "silent.mp4"), "has no sound"),
        (AudioFile(sound, 5.0, 1.0), "is not in a recording of 2"),
    ):
        for read in (audio_length, lambda s: decode_audio(s, RATE)):
            with pytest.raises(MediaError, match=why) as caught:
                read(source)
            assert caught.value.path == source.path


def test_the_store_keeps_the_sound_of_videos_and_lists_those_without(tmp_path: Path):
    wave = noise(RATE, 2.0).astype(np.float32)
    sources = [kept(tmp_path / "a.mov", wave), AudioFile(film(tmp_path / "silent.mp4", SHADES))]
    store = open_audio_store(sources, RATE, tmp_path / "cache")
    np.testing.assert_allclose(store.read(0), wave, atol=2 / 32768)
    assert list(store.failed) == [1] and store.failed[1].endswith("silent.mp4: has no sound")
    long = open_audio_store(sources, RATE, tmp_path / "cache", limit_seconds=1.0)  # read from the file, by seeking
    assert long.length(0) == 2 * RATE
    np.testing.assert_allclose(long.read(0, 12000, 8000), wave[12000:20000], atol=1e-4)


def test_damage_ends_in_sound_or_in_a_media_error(tmp_path: Path):
    for kind in (".mp4", ".mkv", ".webm"):
        data = kept(tmp_path / f"a{kind}", noise(48000, 2.0).astype(np.float32), rate=48000).path.read_bytes()
        rng = np.random.default_rng(1)
        for _ in range(20):
            hurt = bytearray(data)
            for place in rng.integers(0, len(data), 20):
                hurt[place] = rng.integers(256)
            (tmp_path / f"hurt{kind}").write_bytes(hurt)
            try:
                x = decode_audio(AudioFile(tmp_path / f"hurt{kind}"), RATE)
                assert np.isfinite(x).all() and np.abs(x).max() <= 1
            except MediaError:
                pass


def test_without_pyav_the_run_ends_and_says_what_to_install(tmp_path: Path, monkeypatch):
    source = kept(tmp_path / "a.mp4", tone(RATE))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'polymnia\[video\]'") as caught:
        open_audio_store([source], RATE, tmp_path / "cache")
    assert not isinstance(caught.value, MediaError)
