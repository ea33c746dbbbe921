"""Recordings that are broken, cut off, hostile or not there: sound or a MediaError, never a crash."""

import os
import pickle

import numpy as np
import pytest
import soundfile
from clips import FORMATS, noise, save, tone

from polymnia.data.media import MediaError, audio_length, decode_audio
from polymnia.types import AudioFile, UserError


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38, 32768.0])
def test_samples_that_are_no_audio_are_refused(tmp_path, bad):
    x = tone(16000)
    x[20000] = bad
    source = save(tmp_path / "bad.wav", np.stack([x, tone(16000)], 1), 16000, "FLOAT")
    with pytest.raises(MediaError, match="finite values"):
        decode_audio(source, 8000)
    assert len(decode_audio(source, 8000, 0.0, 1.0)) == 8000  # the sound part is sound


def test_a_file_of_nothing_but_nan_is_refused(tmp_path):
    source = save(tmp_path / "nan.wav", np.full(1000, np.nan), 16000, "DOUBLE")
    with pytest.raises(MediaError, match=r"nan\.wav: holds samples of nan"):
        decode_audio(source, 16000)


def test_missing_empty_and_foreign_files_say_which_and_why(tmp_path):
    soundfile.write(tmp_path / "noframes.wav", np.zeros(0), 16000)
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is not sound " * 100)
    (tmp_path / "samples.raw").write_bytes(bytes(1000))
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    reasons = {
        "noframes.wav": "no audio frames",
        "zero.wav": "empty",
        "text.wav": "Format not recognised",
        "samples.raw": "no header",
        "folder.wav": "not a regular file",
        "pipe.wav": "not a regular file",
        "nowhere.wav": "No such file",
    }
    for name, reason in reasons.items():
        for read in (audio_length, lambda s: decode_audio(s, 16000)):
            with pytest.raises(MediaError, match=f"{name}: .*{reason}"):
                read(AudioFile(tmp_path / name))


@pytest.mark.parametrize(("suffix", "subtype", "rate"), FORMATS)
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9])
def test_a_file_cut_off_anywhere_gives_what_is_there_or_an_error_never_a_crash(tmp_path, suffix, subtype, rate, keep):
    source = save(tmp_path / f"cut.{suffix}", tone(rate), rate, subtype)
    data = source.path.read_bytes()
    source.path.write_bytes(data[: int(len(data) * keep)])
    try:
        x = decode_audio(source, 16000)
    except MediaError as error:
        assert f"cut.{suffix}" in str(error)
    else:
        assert 0 < len(x) <= 32000
        assert np.isfinite(x).all()


@pytest.mark.parametrize(("suffix", "subtype", "rate"), FORMATS)
def test_damaged_bytes_give_sound_or_an_error_never_a_crash(tmp_path, suffix, subtype, rate):
    data = save(tmp_path / f"good.{suffix}", tone(rate), rate, subtype).path.read_bytes()
    rng = np.random.default_rng(0)
    source = AudioFile(tmp_path / f"damaged.{suffix}")
    for _ in range(10):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, len(data), 20)] = rng.integers(0, 256, 20)
        source.path.write_bytes(damaged.tobytes())
        try:
            assert np.abs(decode_audio(source, 16000, 0.0, 2.0)).max() <= 1
        except MediaError as error:
            assert str(source.path) in str(error)


def test_an_mp3_cut_in_half_has_no_sound_where_its_header_promises_some(tmp_path):
    source = save(tmp_path / "cut.mp3", noise(44100, 8.0), 44100)
    data = source.path.read_bytes()
    source.path.write_bytes(data[: len(data) // 2])
    assert audio_length(source) == pytest.approx(8.0, abs=0.1)
    assert 3 < len(decode_audio(source, 16000)) / 16000 < 5
    with pytest.raises(MediaError):
        decode_audio(source, 16000, 7.0, 0.5)


def test_a_stretch_beyond_the_end_is_an_error_but_rounded_tables_are_forgiven(tmp_path):
    path = save(tmp_path / "two.wav", tone(16000), 16000).path
    for stretch in [
        AudioFile(path, 2.0),
        AudioFile(path, 5.0, 1.0),
        AudioFile(path, 1.5, 1.0),
        AudioFile(path, -0.5),
        AudioFile(path, 1.0, 0.0),
        AudioFile(path, 1.0, -0.5),
        AudioFile(path, float("nan")),
        AudioFile(path, 0.0, float("nan")),
    ]:
        with pytest.raises(MediaError, match=r"two\.wav: the stretch"):
            audio_length(stretch)
        with pytest.raises(MediaError, match=r"two\.wav: the stretch"):
            decode_audio(stretch, 16000)
    assert len(decode_audio(AudioFile(path, 1.5, 0.55), 16000)) == 8000
    for start, seconds in [(2.0, 1.0), (-1.0, 1.0), (0.5, 0.0), (0.5, -1.0)]:
        with pytest.raises(MediaError, match="nothing to read"):
            decode_audio(AudioFile(path), 16000, start, seconds)


def test_a_media_error_crosses_a_process_border(tmp_path):
    error = pickle.loads(pickle.dumps(MediaError(tmp_path / "a.wav", "is empty")))
    assert isinstance(error, UserError)
    assert (error.path, error.reason, str(error)) == (
        tmp_path / "a.wav",
        "is empty",
        f"{tmp_path / 'a.wav'}: is empty",
    )
