"""What an encoder is given, as its towers eat it: files, stretches of files, arrays, pictures in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float32, UInt8
from PIL import Image

from polymnia.data.container import is_container
from polymnia.data.media import LOUDEST, decode_audio, decode_image, fit_image
from polymnia.data.video import middle_frame
from polymnia.types import AudioFile, AudioSpec, ImageFile, ImageSpec, UserError, VideoFile


def several(values: Any) -> list[Any]:
    """What was given, as a list: one thing alone, or several."""
    single = (str, Path, np.ndarray, Image.Image, AudioFile, ImageFile, VideoFile)
    return [values] if isinstance(values, single) else list(values)


def picture(given: str | Path | ImageFile | VideoFile | Image.Image) -> ImageFile | VideoFile | Image.Image:
    """Where a picture is: a path names a picture or, by its suffix, a video. UserError for what is neither."""
    if isinstance(given, (ImageFile, VideoFile, Image.Image)):
        return given
    path = _path(given, "encode_image", "a PIL image")
    return VideoFile(path) if is_container(path) else ImageFile(path)


def pixels(image: ImageFile | VideoFile | Image.Image, spec: ImageSpec) -> UInt8[np.ndarray, "c s s"]:
    """A picture, or a video's middle frame, as the tower eats it. Raises MediaError for a file that cannot be read."""
    if isinstance(image, Image.Image):
        return fit_image(image, spec.size, spec.channels, spec.fit)
    if isinstance(image, VideoFile):
        return middle_frame(image, spec)
    return decode_image(image, spec.size, spec.channels, spec.fit)


def clip(sound: str | Path | AudioFile | np.ndarray, rate: int | None, spec: AudioSpec) -> Float32[np.ndarray, " n"]:
    """Mono at the tower's rate, padded to its least length, the middle of what is too long.

    Raises MediaError for a file that cannot be read, UserError for an array that is no sound.
    """
    if isinstance(sound, np.ndarray):
        wave = _mono(sound, rate)
        wave = soxr.resample(wave, rate, spec.sample_rate, quality="HQ") if rate != spec.sample_rate else wave
    else:
        source = sound if isinstance(sound, AudioFile) else AudioFile(_path(sound, "encode_audio", "a numpy array"))
        wave = decode_audio(source, spec.sample_rate)
    most = round(spec.max_seconds * spec.sample_rate)
    first = max(0, len(wave) - most) // 2
    return padded(np.clip(wave[first : first + most], -1.0, 1.0), spec)


def padded(wave: Float32[np.ndarray, " n"], spec: AudioSpec) -> Float32[np.ndarray, " m"]:
    """A clip with silence behind it up to the tower's least length."""
    lacking = spec.least - len(wave)
    return np.pad(wave, (0, lacking)) if lacking > 0 else wave


def _path(given: Any, what: str, other: str) -> Path:
    if not isinstance(given, (str, Path)):
        raise UserError(f"{what} takes paths or {other} each, not {type(given).__name__}")
    return Path(given)


def _mono(array: np.ndarray, rate: int | None) -> Float32[np.ndarray, " n"]:
    if rate is None or rate <= 0:
        raise UserError("encode_audio: arrays need their sample_rate")
    if array.ndim == 2 and array.shape[1] > array.shape[0]:
        raise UserError(f"encode_audio: an array of shape {array.shape} looks transposed; give (samples, channels)")
    whole = np.iinfo(array.dtype).max + 1 if np.issubdtype(array.dtype, np.signedinteger) else 1
    wave = np.asarray(array, dtype=np.float32) / np.float32(whole)
    wave = wave.mean(axis=1) if wave.ndim == 2 else wave
    if wave.ndim != 1 or not len(wave) or not np.abs(wave).max() <= LOUDEST:  # so written that NaN fails too
        raise UserError("encode_audio: an array must hold finite samples around [-1, 1], (n,) or (n, channels)")
    return wave
