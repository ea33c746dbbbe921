"""Small pictures of items: what a sound looks like, and a picture in a square. Bytes of PNG or JPEG."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from polymnia.data.container import is_container
from polymnia.data.media import decode_audio, decode_image
from polymnia.data.video import middle_frame
from polymnia.ops.audio import LogMel, LogMelConfig
from polymnia.serve.service import Medium
from polymnia.types import AudioFile, ImageFile, ImageSpec, VideoFile

RATE = 16_000
LONGEST = 30.0  # seconds that are drawn
WIDTH, HEIGHT = 480, 96
SIDE = 320
RANGE = 60.0  # dB below the loudest that are drawn
# Dark to light, even in lightness, so that it can be read without colours.
COLOURS = np.array([[8, 12, 32], [40, 38, 98], [112, 48, 120], [196, 74, 96], [244, 142, 82], [252, 232, 168]])


@cache
def _front() -> LogMel:
    return LogMel(
        LogMelConfig(sample_rate=RATE, n_fft=1024, win_length=1024, hop=256, n_mels=HEIGHT, fmin=30, fmax=8e3)
    )


def spectrogram(medium: Medium, start: float | int = 0.0, seconds: float | int = LONGEST) -> bytes:
    """The log-mel spectrogram of a stretch as PNG, low tones below. MediaError for what cannot be read."""
    source = AudioFile(medium.path, medium.start, medium.seconds)
    wave = torch.from_numpy(decode_audio(source, RATE, start, min(seconds, LONGEST)))
    with torch.no_grad():
        drawn = coloured(_front()(wave[None])[0])
    return _png(Image.fromarray(drawn).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


def coloured(decibels: Float[torch.Tensor, "mel t"]) -> UInt8[np.ndarray, "mel t 3"]:
    """Loudness as colours, the first row on top the highest tone."""
    level = (decibels.flip(0).numpy() - float(decibels.max())) / RANGE + 1
    at = np.clip(level, 0, 1) * (len(COLOURS) - 1)
    steps = np.arange(len(COLOURS))
    return np.stack([np.interp(at, steps, COLOURS[:, c]) for c in range(3)], axis=-1).astype(np.uint8)


def thumbnail(medium: Medium, start: float | int = 0.0, seconds: float | int | None = None) -> bytes:
    """The centred square of a picture, or of the frame in the middle of a video or of a stretch of it, as JPEG.

    MediaError for what cannot be read.
    """
    if is_container(medium.path):
        video = VideoFile(medium.path, medium.start + start, medium.seconds if seconds is None else seconds)
        pixels = middle_frame(video, ImageSpec(SIDE))
    else:
        pixels = decode_image(ImageFile(medium.path, medium.entry), SIDE, 3)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(out, "JPEG", quality=82)
    return out.getvalue()


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
