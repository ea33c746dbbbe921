"""Bytes to arrays: recordings to mono float32 at a wanted rate, pictures to uint8 squares.

Every fault of a file (missing, empty, corrupt, NaN, a bomb) is a ``MediaError``, so a loader can count and list it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps

from polymnia.data import idx
from polymnia.types import AudioFile, ImageFile, UserError

MAX_SECONDS = 4 * 3600.0  # of one read; longer recordings are read in stretches
MAX_PIXELS = 1024**3 // 12  # 89 M, where Pillow itself begins to warn of a decompression bomb
RATES = (100, 10_000_000)  # Hz; a header that says otherwise is corrupt
LOUDEST = 100.0  # a float file that peaks above this holds integers or garbage
SLACK = 0.1  # seconds by which a stretch may overshoot the end: tables of segments are rounded
CONTEXT = 128  # samples of the lower rate on each side that the resampling filter sees (measured: exact to 2e-7)
WARM_UP = 8192  # frames that an MPEG decoder needs after a seek to fill its bit reservoir (measured: up to 2,011)
BLOCK = 1 << 20  # values read at a time, so that a header that promises too much costs nothing
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")  # no EPS: that would run Ghostscript


class MediaError(UserError):
    """A medium that cannot be read: the file, and the reason."""

    def __init__(self, path: Path, reason: str):
        super().__init__(path, reason)  # both in args, so that it crosses process borders
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def audio_length(source: AudioFile) -> float:
    """Seconds of the stretch, from the header alone. MediaError if unreadable, empty, or not inside the recording."""
    with _recording(source.path) as file:
        begin, end = _bounds(source, file)
        return end - begin


def audio_samples(source: AudioFile, rate: int) -> int:
    """How many samples ``decode_audio`` gives for the whole stretch at ``rate``, from the header alone."""
    with _recording(source.path) as file:
        first, last = _samples(source, file, rate)
        return last - first


def decode_audio(
    source: AudioFile, rate: int, start: float = 0.0, seconds: float | None = None
) -> Float32[np.ndarray, " n"]:
    """The stretch, or at most ``seconds`` of it from ``start`` (in the stretch) on: mono, ``rate`` Hz, in [-1, 1].

    Channels are averaged. Of a long file only the wanted frames and the filter's surroundings are read, and a crop is
    what the same slice of the whole would be. A recording that was cut off gives what is there.
    MediaError if nothing can be read, samples are not finite, or the stretch is not in the recording.
    """
    with _recording(source.path) as file:
        begin, end = _samples(source, file, rate)
        first = begin + round(start * rate)
        last = end if seconds is None else min(end, first + round(seconds * rate))
        if not begin <= first < last:
            whole = (end - begin) / rate
            raise MediaError(source.path, f"nothing to read {start:g} s into a stretch of {whole:g} s")
        if last - first > MAX_SECONDS * rate:
            hours = (last - first) / rate / 3600
            raise MediaError(source.path, f"{hours:.1f} h is too long to read at once: pass `seconds`")
        return _cut(file, source.path, rate, first, last - first)


@contextmanager
def _recording(path: Path) -> Iterator[soundfile.SoundFile]:
    """The open file, with a frame and a plausible rate. What libsndfile raises meanwhile becomes a MediaError."""
    _check_file(path)
    if path.suffix.lower() == ".raw":
        raise MediaError(path, "raw samples have no header that says their rate; convert them to wav or flac")
    try:
        with soundfile.SoundFile(str(path)) as file:
            if file.frames <= 0:
                raise MediaError(path, "holds no audio frames")
            if not RATES[0] <= file.samplerate <= RATES[1]:
                raise MediaError(path, f"has an implausible sample rate of {file.samplerate} Hz")
            yield file
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        raise MediaError(path, f"not a readable recording: {reason}") from error


def _check_file(path: Path) -> None:
    try:
        found, size = path.is_file(), path.stat().st_size
    except OSError as error:
        raise MediaError(path, error.strerror or str(error)) from error
    if not found:
        raise MediaError(path, "is not a regular file")
    if size == 0:
        raise MediaError(path, "is empty (0 bytes)")


def _bounds(source: AudioFile, file: soundfile.SoundFile) -> tuple[float, float]:
    """Begin and end of the stretch in seconds, the end at most that of the recording."""
    total = file.frames / file.samplerate
    end = total if source.seconds is None else source.start + source.seconds
    if not 0 <= source.start < min(end, total) or end > total + SLACK:
        raise MediaError(
            source.path, f"the stretch from {source.start:g} s to {end:g} s is not in a recording of {total:g} s"
        )
    return source.start, min(end, total)


def _samples(source: AudioFile, file: soundfile.SoundFile, rate: int) -> tuple[int, int]:
    """First and last (excluded) sample of the stretch at ``rate``."""
    begin, end = _bounds(source, file)
    first, last = round(begin * rate), round(end * rate)
    if first == last:
        raise MediaError(source.path, f"is shorter than one sample at {rate} Hz")
    return first, last


def _cut(file: soundfile.SoundFile, path: Path, rate: int, first: int, count: int) -> Float32[np.ndarray, " n"]:
    """``count`` samples at ``rate`` from sample ``first`` on."""
    own = file.samplerate
    step = own // math.gcd(own, rate)  # after so many frames both rates have a sample at the same instant
    around = 0 if own == rate else math.ceil(CONTEXT * own / min(own, rate))
    before = around + (WARM_UP if file.subtype.startswith("MPEG") else 0)
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


def _frames(file: soundfile.SoundFile, path: Path, begin: int, count: int) -> Float32[np.ndarray, " n"]:
    """At most ``count`` frames from ``begin`` on, channels averaged."""
    file.seek(begin)
    blocks = [np.zeros(0, np.float32)]
    while count > 0:
        block = file.read(min(count, max(1, BLOCK // file.channels)), dtype="float32", always_2d=True)
        if not len(block):
            break
        peak = float(np.abs(block).max())
        if not peak <= LOUDEST:  # so written that NaN fails too
            raise MediaError(path, f"holds samples of {peak:g}, where finite values around [-1, 1] belong")
        blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1))
        count -= len(block)
    return np.concatenate(blocks)


def decode_image(source: ImageFile, size: int, channels: int) -> UInt8[np.ndarray, "c s s"]:
    """The picture, upright, its centred square resized (bicubic, antialiased): (channels, size, size), grey or RGB.

    MediaError if it is missing, cut off, corrupt, above ``MAX_PIXELS``, or not in the IDX container.
    """
    _check_channels(channels)
    image = _picture(source.path, size) if source.index is None else Image.fromarray(_idx_row(source))
    return fit_image(image, size, channels)


def fit_image(image: Image.Image, size: int, channels: int) -> UInt8[np.ndarray, "c s s"]:
    """The centred square of a picture, resized (bicubic, antialiased), grey or RGB. UserError for other channels."""
    _check_channels(channels)
    image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # The box, not resize-then-crop: the short side of a 20,000 x 1 strip would be enlarged to a billion pixels.
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1))


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise UserError(f"channels is 1 (grey) or 3 (RGB), not {channels}")


def _picture(path: Path, size: int) -> Image.Image:
    """The decoded picture, upright, of a mode that converts to L and RGB without loss of meaning."""
    _check_file(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MediaError(path, f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            image.draft(None, (2 * size, 2 * size))  # a JPEG may decode at 1/2, 1/4 or 1/8, still twice the size
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
    _check_file(source.path)
    rows = idx.pictures(source.path)
    if isinstance(rows, str):
        raise MediaError(source.path, rows)
    if source.index is None or not 0 <= source.index < len(rows):
        raise MediaError(source.path, f"has no row {source.index}: it holds {len(rows)}")
    return rows[source.index]
