"""Recordings in every format: whole, in stretches, and cropped."""

import csv

import numpy as np
import pytest
import soundfile
from clips import FORMATS, noise, peak_hertz, save, sparse_wav, tone
from real import DATA, needs_data

from polymnia.data.media import MediaError, audio_length, audio_samples, decode_audio
from polymnia.types import AudioFile


@pytest.mark.parametrize(("suffix", "subtype", "rate"), FORMATS)
@pytest.mark.parametrize("wanted", [8000, 16000, 32000, 48000])
def test_a_tone_keeps_its_frequency_loudness_and_length_in_every_format(tmp_path, suffix, subtype, rate, wanted):
    source = save(tmp_path / f"tone.{suffix}", tone(rate), rate, subtype)
    x = decode_audio(source, wanted)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert len(x) == pytest.approx(2 * wanted, abs=2)
    assert len(x) == audio_samples(source, wanted)
    assert audio_length(source) == pytest.approx(2.0, abs=1e-3)
    assert peak_hertz(x, wanted) == pytest.approx(1000, abs=1)
    middle = x[wanted // 2 : -wanted // 2]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.04)  # LAME adds 3 % at 16 kHz


def test_a_wav_at_its_own_rate_is_what_was_written(tmp_path):
    written = np.random.default_rng(0).integers(-32768, 32768, 999).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", written, 16000)
    np.testing.assert_array_equal(decode_audio(AudioFile(tmp_path / "a.wav"), 16000), written / np.float32(32768))


def test_what_the_lower_rate_cannot_hold_is_filtered_out_not_folded_back(tmp_path):
    source = save(tmp_path / "high.wav", tone(44100, hertz=6000), 44100)
    assert np.abs(decode_audio(source, 8000)[400:-400]).max() < 1e-3


@pytest.mark.parametrize("channels", [2, 8])
def test_channels_are_averaged(tmp_path, channels):
    each = np.random.default_rng(1).integers(-3000, 3000, (500, channels)).astype(np.int16)
    soundfile.write(tmp_path / "many.wav", each, 16000)
    expected = each.astype(np.float64).sum(1) / channels / 32768
    np.testing.assert_allclose(decode_audio(AudioFile(tmp_path / "many.wav"), 16000), expected, atol=1e-6)


@pytest.mark.parametrize(("suffix", "subtype", "rate"), FORMATS)
@pytest.mark.parametrize("wanted", [16000, 44100])
def test_a_crop_is_the_slice_of_the_whole(tmp_path, suffix, subtype, rate, wanted):
    source = save(tmp_path / f"noise.{suffix}", noise(rate), rate, subtype)
    whole = decode_audio(source, wanted)
    for start, seconds in [(0.0, 0.5), (0.013, 1.0), (1.23456, 0.7), (2.9, 1.0), (3.5, 0.5)]:
        crop = decode_audio(source, wanted, start, seconds)
        first = round(start * wanted)
        assert len(crop) == round(seconds * wanted)
        np.testing.assert_allclose(crop, whole[first : first + len(crop)], atol=2e-6)


def test_a_crop_of_a_wav_at_its_own_rate_is_the_exact_slice(tmp_path):
    source = save(tmp_path / "noise.wav", noise(16000), 16000)
    whole, _ = soundfile.read(source.path, dtype="float32")
    np.testing.assert_array_equal(decode_audio(source, 16000, 1.5, 0.25), whole[24000:28000])


def test_a_crop_counts_from_the_begin_of_the_stretch_and_ends_with_it(tmp_path):
    path = save(tmp_path / "noise.wav", noise(16000), 16000).path
    whole, _ = soundfile.read(path, dtype="float32")
    stretch = AudioFile(path, start=1.0, seconds=2.0)
    assert audio_length(stretch) == 2.0
    np.testing.assert_array_equal(decode_audio(stretch, 16000), whole[16000:48000])
    np.testing.assert_array_equal(decode_audio(stretch, 16000, 0.5, 1.0), whole[24000:40000])
    np.testing.assert_array_equal(decode_audio(stretch, 16000, 1.5, 9.0), whole[40000:48000])


def test_a_crop_of_a_three_hour_recording_reads_only_its_surroundings(tmp_path, monkeypatch):
    source = sparse_wav(tmp_path / "long.wav", 8000, 3 * 3600, 7000.0, tone(8000, 2.0, 440))
    frames = []
    read = soundfile.SoundFile.read

    def counted(self, n=-1, **settings):
        frames.append(n)
        return read(self, n, **settings)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    assert audio_length(source) == 3 * 3600
    assert frames == []
    x = decode_audio(source, 16000, 7000.5, 1.0)
    assert len(x) == 16000
    assert peak_hertz(x, 16000) == pytest.approx(440, abs=1)
    assert sum(frames) < 8000 * 1.1


def test_more_than_four_hours_at_once_are_refused_but_a_crop_is_not(tmp_path):
    source = sparse_wav(tmp_path / "longer.wav", 1000, 5 * 3600, 16000.0, tone(1000, 1.0, 100))
    with pytest.raises(MediaError, match="5.0 h is too long to read at once: pass `seconds`"):
        decode_audio(source, 1000)
    assert peak_hertz(decode_audio(source, 1000, 16000.0, 1.0), 1000) == pytest.approx(100, abs=1)


def test_one_sample_is_a_recording(tmp_path):
    source = save(tmp_path / "one.wav", np.array([0.25]), 16000)
    assert audio_length(source) == 1 / 16000
    np.testing.assert_allclose(decode_audio(source, 16000), [0.25], atol=1e-4)
    assert len(decode_audio(source, 32000)) == 2
    with pytest.raises(MediaError, match="shorter than one sample at 4000 Hz"):
        decode_audio(source, 4000)


def test_lengths_agree_with_the_header_to_the_sample_whatever_the_rates(tmp_path):
    for rate, frames in [(44100, 1), (44100, 3), (11025, 11026), (8000, 12345), (48000, 4801), (22050, 7777)]:
        source = save(tmp_path / "a.wav", np.zeros(frames), rate)
        for wanted in (32000, 44100, 48000):
            assert len(decode_audio(source, wanted)) == audio_samples(source, wanted) == round(frames * wanted / rate)


def test_float_samples_above_one_are_clipped(tmp_path):
    source = save(tmp_path / "loud.wav", np.array([0.5, 3.0, -3.0, -0.5]), 16000, "FLOAT")
    np.testing.assert_array_equal(decode_audio(source, 16000), np.float32([0.5, 1.0, -1.0, -0.5]))


@needs_data
def test_real_clips_have_the_length_that_esc10_is_known_for():
    with (DATA / "esc10" / "meta.csv").open() as file:
        names = [row["file"] for row in csv.DictReader(file)][::40]
    for name in names:
        source = AudioFile(DATA / "esc10" / name)
        x = decode_audio(source, 16000)
        assert 3.6 <= len(x) / 16000 <= 7.3
        assert np.abs(x).max() > 1e-3
        np.testing.assert_allclose(decode_audio(source, 16000, 1.0, 1.0), x[16000:32000], atol=2e-6)
