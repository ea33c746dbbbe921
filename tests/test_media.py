"""Recordings and pictures in every format, whole, cropped, broken and hostile."""

import csv
import gzip
import os
import pickle
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from polymnia.data import media
from polymnia.data.media import MediaError, audio_length, audio_samples, decode_audio, decode_image
from polymnia.types import AudioFile, ImageFile, UserError

DATA = Path(__file__).parents[1].parent / "shared" / "data"
MNIST = DATA / "mnist_t10k"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the real data sets are not beside this checkout")

FORMATS = [
    ("wav", "PCM_U8", 44100),
    ("wav", "PCM_16", 8000),
    ("wav", "PCM_24", 96000),
    ("wav", "FLOAT", 22050),
    ("wav", "DOUBLE", 44100),
    ("flac", "PCM_24", 44100),
    ("ogg", "VORBIS", 32000),
    ("mp3", "MPEG_LAYER_III", 44100),
    ("mp3", "MPEG_LAYER_III", 16000),
    ("opus", "OPUS", 48000),
]


def tone(rate, seconds=2.0, hertz=1000.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def noise(rate, seconds=4.0):
    """Noise below 3 kHz, which every codec keeps, and which looks different at every instant."""
    rng = np.random.default_rng(7)
    spectrum = np.fft.rfft(rng.standard_normal(round(rate * seconds)))
    spectrum[round(3000 * seconds) :] = 0
    x = np.fft.irfft(spectrum, round(rate * seconds))
    return 0.5 * x / np.abs(x).max()


def save(path, x, rate, subtype=None):
    container = "OGG" if path.suffix == ".opus" else None
    soundfile.write(path, x, rate, subtype=subtype, format=container)
    return AudioFile(path)


def sparse_wav(path, rate, seconds, at, x):
    """A 16-bit wav of silence, ``x`` at second ``at``; the silence takes no room on disk."""
    size = round(rate * seconds) * 2
    head = (
        b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * 2, 2, 16)
    )
    with path.open("wb") as file:
        file.write(head + b"data" + struct.pack("<I", size))
        file.seek(44 + round(at * rate) * 2)
        file.write((np.asarray(x) * 32767).astype("<i2").tobytes())
        file.truncate(44 + size)
    return AudioFile(path)


def peak_hertz(x, rate):
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x))))
    return spectrum.argmax() * rate / len(x)


# ---------------------------------------------------------------------------------------------------------- recordings


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


# ------------------------------------------------------------------------------------------------------------ pictures


def corners(width=64, height=64):
    """Red, green / blue, white quarters."""
    x = np.zeros((height, width, 3), np.uint8)
    x[: height // 2, : width // 2, 0] = 255
    x[: height // 2, width // 2 :, 1] = 255
    x[height // 2 :, : width // 2, 2] = 255
    x[height // 2 :, width // 2 :] = 255
    return Image.fromarray(x)


def quarters(x):
    """The value in the middle of each quarter, rounded to 0 or 1."""
    q = x.shape[1] // 4
    return [tuple((x[:, i, j] > 127).astype(int)) for i in (q, 3 * q) for j in (q, 3 * q)]


COLOURS = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tif", "a.ppm"])
@pytest.mark.parametrize("size", [16, 100])
def test_every_format_gives_the_same_picture(tmp_path, name, size):
    corners().save(tmp_path / name)
    x = decode_image(ImageFile(tmp_path / name), size, 3)
    assert (x.shape, x.dtype) == ((3, size, size), np.uint8)
    assert x.flags.c_contiguous
    assert quarters(x) == COLOURS


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_gives_three_channels_or_one(tmp_path, mode):
    name = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    picture = corners().convert(mode)
    picture.save(name)
    x = decode_image(ImageFile(name), 32, 3)
    if mode in ("P", "RGBA", "CMYK", "YCbCr"):
        assert quarters(x) == COLOURS
    grey = decode_image(ImageFile(name), 32, 1)
    assert grey.shape == (1, 32, 32)
    assert grey[0, 24, 24] > 250
    assert grey[0, 24, 8] < grey[0, 8, 24]  # blue is darker than green


def test_the_centre_is_kept_and_a_resize_to_the_same_size_changes_nothing(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    Image.fromarray(x).save(tmp_path / "wide.png")
    Image.fromarray(x.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    expected = x[:, 10:40]
    np.testing.assert_array_equal(decode_image(ImageFile(tmp_path / "wide.png"), 30, 3), expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(decode_image(ImageFile(tmp_path / "tall.png"), 30, 3), expected.transpose(2, 1, 0))


def test_the_square_is_what_resizing_and_then_cropping_gives(tmp_path):
    x = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 450, 3)).astype(np.uint8))
    x.save(tmp_path / "a.png")
    expected = x.resize((144, 96), Image.Resampling.BICUBIC).crop((24, 0, 120, 96))
    np.testing.assert_array_equal(
        decode_image(ImageFile(tmp_path / "a.png"), 96, 3), np.asarray(expected).transpose(2, 0, 1)
    )


def test_fine_detail_is_averaged_not_sampled(tmp_path):
    stripes = np.tile(np.uint8([0, 255]), (256, 128))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    x = decode_image(ImageFile(tmp_path / "stripes.png"), 16, 1)
    assert np.abs(x.astype(int) - 127).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright_whatever_its_exif_says(tmp_path, orientation):
    stored = {  # how a camera of each orientation stores the upright picture (EXIF 2.3, tag 0x0112)
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored[orientation](np.asarray(corners()))))
    picture.save(tmp_path / "photo.jpg", exif=exif)
    assert quarters(decode_image(ImageFile(tmp_path / "photo.jpg"), 32, 3)) == COLOURS


def test_sixteen_bits_are_scaled_and_thirty_two_refused(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "deep.png")
    x = decode_image(ImageFile(tmp_path / "deep.png"), 64, 1)
    np.testing.assert_allclose(x[0], ramp / 257, atol=1)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(MediaError, match="no agreed range"):
        decode_image(ImageFile(tmp_path / "float.tif"), 64, 1)


def test_a_palette_with_transparency_is_no_warning(tmp_path):
    picture = corners().convert("P")
    picture.save(tmp_path / "p.png", transparency=bytes(range(256)))
    assert quarters(decode_image(ImageFile(tmp_path / "p.png"), 32, 3)) == COLOURS


@pytest.mark.parametrize("shape", [(1, 1), (20000, 1), (1, 20000), (20000, 100)])
def test_a_pixel_and_long_strips_are_pictures(tmp_path, shape):
    Image.new("RGB", shape, (10, 200, 30)).save(tmp_path / "strip.png")
    x = decode_image(ImageFile(tmp_path / "strip.png"), 224, 3)
    assert (x == np.uint8([10, 200, 30])[:, None, None]).all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("shape", [(20000, 20000), (20000, 6000), (9460, 9460)])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch, shape):
    Image.new("1", shape).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(MediaError, match=r"bomb\.png"):
        decode_image(ImageFile(tmp_path / "bomb.png"), 32, 3)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif"])
def test_pictures_cut_off_empty_or_damaged_are_errors(tmp_path, name):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    noise.save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for keep in (0, 1, 10, len(data) // 3, len(data) * 2 // 3):
        (tmp_path / name).write_bytes(data[:keep])
        with pytest.raises(MediaError, match=name):
            decode_image(ImageFile(tmp_path / name), 32, 3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, len(data), 20)] = rng.integers(0, 256, 20)
        (tmp_path / name).write_bytes(damaged.tobytes())
        try:
            assert decode_image(ImageFile(tmp_path / name), 32, 3).shape == (3, 32, 32)
        except MediaError as error:
            assert name in str(error)


def test_what_is_no_picture_is_an_error(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    for name in ("folder.png", "text.png", "nowhere.png", "page.eps"):
        with pytest.raises(MediaError, match=name):
            decode_image(ImageFile(tmp_path / name), 32, 3)
    with pytest.raises(UserError, match="channels"):
        decode_image(ImageFile(tmp_path / "text.png"), 32, 4)


@needs_data
def test_a_draft_of_a_real_photograph_is_close_to_the_full_decode():
    path = DATA / "coco_mini" / "val2017" / "000000012280.jpg"
    with Image.open(path) as image:
        full = np.asarray(image.convert("RGB"))
    height, width, _ = full.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(full[top : top + side, left : left + side]).resize((32, 32), Image.Resampling.BICUBIC)
    x = decode_image(ImageFile(path), 32, 3)
    assert np.abs(x.transpose(1, 2, 0).astype(int) - np.asarray(square)).mean() < 3


# ------------------------------------------------------------------------------------------------------ IDX containers


def write_idx(path, rows, head=None):
    head = head or struct.pack(">4I", 0x803, *rows.shape)
    path.write_bytes(gzip.compress(head + rows.tobytes()) if path.suffix == ".gz" else head + rows.tobytes())


@pytest.mark.parametrize("name", ["rows.gz", "rows-idx3-ubyte"])
def test_rows_of_an_idx_container_are_pictures(tmp_path, name):
    rows = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    write_idx(tmp_path / name, rows)
    for i in range(5):
        np.testing.assert_array_equal(decode_image(ImageFile(tmp_path / name, i), 28, 1)[0], rows[i])
        np.testing.assert_array_equal(decode_image(ImageFile(tmp_path / name, i), 28, 3)[2], rows[i])
    for i in (-1, 5):
        with pytest.raises(MediaError, match=f"no row {i}: it holds 5"):
            decode_image(ImageFile(tmp_path / name, i), 28, 1)


def test_a_container_is_unpacked_once_even_if_it_is_broken(tmp_path, monkeypatch):
    rows = np.zeros((3, 4, 4), np.uint8)
    write_idx(tmp_path / "good.gz", rows)
    write_idx(tmp_path / "bad.gz", rows[:2], struct.pack(">4I", 0x803, 3, 4, 4))
    opened = []
    unpack = gzip.open
    monkeypatch.setattr(media.gzip, "open", lambda path: opened.append(path.name) or unpack(path))
    for i in range(3):
        decode_image(ImageFile(tmp_path / "good.gz", i), 4, 1)
        with pytest.raises(MediaError, match="claims 3 x 4 x 4 bytes, but holds 32"):
            decode_image(ImageFile(tmp_path / "bad.gz", i), 4, 1)
    assert sorted(opened) == ["bad.gz", "good.gz"]


def test_containers_that_lie_are_refused(tmp_path):
    rows = np.zeros((2, 4, 4), np.uint8)
    cases = {
        "labels.gz": (struct.pack(">2I", 0x801, 32), "not an IDX container"),
        "huge.gz": (struct.pack(">4I", 0x803, 2**31, 2**15, 2**15), "more than"),
        "none.gz": (struct.pack(">4I", 0x803, 0, 28, 28), "not an IDX container"),
        "longer.gz": (struct.pack(">4I", 0x803, 1, 4, 4), "holds more"),
    }
    for name, (head, reason) in cases.items():
        write_idx(tmp_path / name, rows, head)
        with pytest.raises(MediaError, match=f"{name}: .*{reason}"):
            decode_image(ImageFile(tmp_path / name, 0), 4, 1)
    whole = gzip.compress(struct.pack(">4I", 0x803, 2, 4, 4) + np.random.default_rng(0).bytes(32))
    (tmp_path / "cut.gz").write_bytes(whole[:-20])
    (tmp_path / "flip.gz").write_bytes(whole[:30] + b"\xff\xff\xff" + whole[33:])
    for name in ("cut.gz", "flip.gz"):
        with pytest.raises(MediaError, match=f"{name}: not a readable IDX container"):
            decode_image(ImageFile(tmp_path / name, 0), 4, 1)


@needs_data
def test_mnist_rows_are_those_of_an_independent_reading():
    path = next(MNIST.glob("*images-idx3-ubyte.gz"))
    rows = np.frombuffer(gzip.decompress(path.read_bytes())[16:], np.uint8).reshape(-1, 28, 28)
    assert len(rows) == 10000
    for i in (0, 1, 4999, 9999):
        np.testing.assert_array_equal(decode_image(ImageFile(path, i), 28, 1)[0], rows[i])
    with pytest.raises(MediaError, match="no row 10000"):
        decode_image(ImageFile(path, 10000), 28, 1)


def test_threads_may_decode_at_once(tmp_path):
    source = save(tmp_path / "noise.flac", noise(44100), 44100)
    corners().save(tmp_path / "a.png")
    alone = decode_audio(source, 16000)
    wrong = []

    def work():
        for _ in range(5):
            if not np.array_equal(decode_audio(source, 16000), alone):
                wrong.append("audio")
            if quarters(decode_image(ImageFile(tmp_path / "a.png"), 32, 3)) != COLOURS:
                wrong.append("image")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
