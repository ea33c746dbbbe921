"""Bytes to arrays: recordings to mono float32 at a wanted rate, pictures to uint8 squares.

Every fault of a file (missing, empty, corrupt, NaN, a bomb) is a ``MediaError``, so a loader can count and list it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soxr
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps

from polymnia.data import idx
from polymnia.data.faults import MediaError as MediaError  # who reads media takes it from here
from polymnia.data.faults import check_file
from polymnia.data.recording import Recording, open_recording
from polymnia.types import AudioFile, Fit, ImageFile, UserError

MAX_SECONDS = 4 * 3600.0  # of one read; longer recordings are read in stretches
MAX_PIXELS = 1024**3 // 12  # 89 M, where Pillow itself begins to warn of a decompression bomb
LOUDEST = 100.0  # a float file that peaks above this holds integers or garbage
SLACK = 0.1  # seconds by which a stretch may overshoot the end: tables of segments are rounded
CONTEXT = 128  # samples of the lower rate on each side that the resampling filter sees (measured: exact to 2e-7)
MAX_ASPECT = 32  # a picture longer than this times its width is not resized as a whole before it is cropped
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")  # no EPS: that would run Ghostscript


def audio_length(source: AudioFile) -> float:
    """Seconds of the stretch, from the header alone. MediaError if unreadable, empty, or not inside the recording."""
    with open_recording(source.path) as file:
        begin, end = _bounds(source, file)
        return end - begin


def audio_samples(source: AudioFile, rate: int) -> int:
    """How many samples ``decode_audio`` gives for the whole stretch at ``rate``, from the header alone."""
    with open_recording(source.path) as file:
        first, last = sample_bounds(source, file, rate)
        return last - first


def decode_audio(
    source: AudioFile, rate: int, start: float = 0.0, seconds: float | None = None
) -> Float32[np.ndarray, " n"]:
    """The stretch, or at most ``seconds`` of it from ``start`` (in the stretch) on: mono, ``rate`` Hz, in [-1, 1].

    Channels are averaged. Of a long file only the wanted frames and the filter's surroundings are read, and a crop is
    what the same slice of the whole would be. A recording that was cut off gives what is there.
    MediaError if nothing can be read, samples are not finite, or the stretch is not in the recording.
    """
    with open_recording(source.path) as file:
        begin, end = sample_bounds(source, file, rate)
        first = begin + round(start * rate)
        last = end if seconds is None else min(end, first + round(seconds * rate))
        if not begin <= first < last:
            whole = (end - begin) / rate
            raise MediaError(source.path, f"nothing to read {start:g} s into a stretch of {whole:g} s")
        if last - first > MAX_SECONDS * rate:
            hours = (last - first) / rate / 3600
            raise MediaError(source.path, f"{hours:.1f} h is too long to read at once: pass `seconds`")
        return cut(file, source.path, rate, first, last - first)


def _bounds(source: AudioFile, file: Recording) -> tuple[float, float]:
    """Begin and end of the stretch in seconds, the end at most that of the recording."""
    total = file.frames / file.samplerate
    end = total if source.seconds is None else source.start + source.seconds
    if not 0 <= source.start < min(end, total) or end > total + SLACK:
        raise MediaError(
            source.path, f"the stretch from {source.start:g} s to {end:g} s is not in a recording of {total:g} s"
        )
    return source.start, min(end, total)


def sample_bounds(source: AudioFile, file: Recording, rate: int) -> tuple[int, int]:
    """First and last (excluded) sample of the stretch at ``rate``. MediaError for one that is not in the recording."""
    begin, end = _bounds(source, file)
    first, last = round(begin * rate), round(end * rate)
    if first == last:
        raise MediaError(source.path, f"is shorter than one sample at {rate} Hz")
    return first, last


def cut(file: Recording, path: Path, rate: int, first: int, count: int) -> Float32[np.ndarray, " n"]:
    """``count`` samples at ``rate`` from sample ``first`` on, or as many as there are; MediaError if none are."""
    own = file.samplerate
    step = own // math.gcd(own, rate)  # after so many frames both rates have a sample at the same instant
    around = 0 if own == rate else math.ceil(CONTEXT * own / min(own, rate))
    before = around + file.warm_up
    begin = max(0, first * own // rate - before) // step * step
    stop = min(file.frames, -(-(first + count) * own // rate) + around)
    x = _frames(file, path, begin, stop - begin)
    if own != rate and len(x):
        x = soxr.resample(x, own, rate, quality="HQ")
    skip = first - begin // step * (rate // math.gcd(own, rate))
    x = x[skip : skip + count]
    if not len(x):
        raise MediaError(path, f"is cut off: no audio at {first / rate:g} s, where its header promises some")
    if len(x) == count - 1:  # half a sample was rounded down
        x = np.append(x, x[-1:])
    return np.clip(x, -1.0, 1.0)


def _frames(file: Recording, path: Path, begin: int, count: int) -> Float32[np.ndarray, " n"]:
    """At most ``count`` frames from ``begin`` on, channels averaged."""
    found = [np.zeros(0, np.float32)]
    for block in file.blocks(begin, count):
        peak = float(np.abs(block).max())
        if not peak <= LOUDEST:  # so written that NaN fails too
            raise MediaError(path, f"holds samples of {peak:g}, where finite values around [-1, 1] belong")
        found.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1))
    return np.concatenate(found)


def decode_image(source: ImageFile, size: int, channels: int, fit: Fit = "square") -> UInt8[np.ndarray, "c s s"]:
    """The picture, upright, fitted as by ``fit_image``: (channels, size, size), grey or RGB.

    MediaError if it is missing, cut off, corrupt, above ``MAX_PIXELS``, or not in the IDX container.
    """
    _check_channels(channels)
    if source.index is None:
        image = _picture(source.path, size if fit == "square" else None)
    else:
        image = Image.fromarray(_idx_row(source))
    return fit_image(image, size, channels, fit)


def fit_image(image: Image.Image, size: int, channels: int, fit: Fit = "square") -> UInt8[np.ndarray, "c s s"]:
    """A picture as (channels, size, size), bicubic and antialiased, grey or RGB. UserError for other channels.

    ``fit``: its centred ``square`` resized; or ``resize_crop``, the whole resized to a short side of ``size`` and then
    cropped in the centre, rounded as CLIP's preprocessing in transformers is.
    """
    _check_channels(channels)
    image = image.convert("L" if channels == 1 else "RGB")
    image = _square(image, size) if fit == "square" else _resize_crop(image, size)
    return np.ascontiguousarray(np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1))


def _square(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # The box, not resize-then-crop: the short side of a 20,000 x 1 strip would be enlarged to a billion pixels.
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _resize_crop(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    wide, tall = (int(size * length / side) for length in image.size)
    left, top = (wide - size) // 2, (tall - size) // 2
    if max(wide, tall) <= MAX_ASPECT * size:
        # Not by a box: Pillow chooses the order of its two passes by the sizes, and each of them rounds.
        resized = image.resize((wide, tall), Image.Resampling.BICUBIC)
        return resized.crop((left, top, left + size, top + size))
    x, y = image.width / wide, image.height / tall
    box = (left * x, top * y, (left + size) * x, (top + size) * y)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise UserError(f"channels is 1 (grey) or 3 (RGB), not {channels}")


def _picture(path: Path, size: int | None) -> Image.Image:
    """The decoded picture, upright, of a mode that converts to L and RGB without loss of meaning.

    ``size``: a JPEG may be decoded at 1/2, 1/4 or 1/8 if that is still twice this size.
    """
    check_file(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MediaError(path, f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            if size is not None:
                image.draft(None, (2 * size, 2 * size))
            image = ImageOps.exif_transpose(image)
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # on hostile bytes Pillow raises nearly anything, struct.error to SyntaxError
        raise MediaError(path, f"not a readable picture: {error}") from error
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise MediaError(path, "32-bit samples have no agreed range; save it with 8 or 16 bits")
    return image.convert("RGBA") if "transparency" in image.info else image


def _idx_row(source: ImageFile) -> UInt8[np.ndarray, "h w"]:
    check_file(source.path)
    rows = idx.pictures(source.path)
    if isinstance(rows, str):
        raise MediaError(source.path, rows)
    if source.index is None or not 0 <= source.index < len(rows):
        raise MediaError(source.path, f"has no row {source.index}: it holds {len(rows)}")
    return rows[source.index]
