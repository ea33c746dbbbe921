"""Pictures of every format and mode, upright and square; bombs, and what is broken or no picture."""

import threading

import numpy as np
import pytest
from clips import noise, save
from PIL import Image
from real import DATA, needs_data

from polymnia.data.media import MediaError, decode_audio, decode_image
from polymnia.types import ImageFile, UserError


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
