"""Videos to test with: pictures of one grey level each, and known sounds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from polymnia.types import ImageSpec

RATE = 16000
PICTURE = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}
SOUND = {kind: "pcm_s16le" for kind in (".mov", ".mkv", ".avi")} | {".mp4": "aac", ".m4a": "aac", ".webm": "libopus"}
SPEC = ImageSpec(8, 1)


def film(
    path: Path,
    pictures: Sequence[int] | np.ndarray = (),
    fps: int = 10,
    sounds: Sequence[np.ndarray] = (),
    rate: int = RATE,
    times: Sequence[int] | None = None,
    turn: int = 0,
    late: float = 0.0,
) -> Path:
    """A video.

    ``pictures``: grey levels (32 x 16 pixels), or arrays (height, width, 3). ``sounds``: a track each, (samples,) or
    (samples, 2). ``times``: when each picture begins, in frames. ``turn``: degrees by which it is to be turned
    counter-clockwise. ``late``: seconds by which the sound begins later.
    """
    options = {"movflags": "faststart"} if path.suffix in (".mp4", ".m4a", ".mov") else {}
    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None, options=options) as out:
        shown = _picture_stream(out, path, fps, turn, pictures[0]) if len(pictures) else None
        heard = [_sound_stream(out, path, rate, s) for s in sounds]
        if shown is not None:
            for n, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(_pixels(picture), "rgb24")
                frame.pts, frame.time_base = (n if times is None else times[n]), Fraction(1, fps)
                out.mux(shown.encode(frame))
            out.mux(shown.encode(None))
        for stream, sound in zip(heard, sounds, strict=True):
            wave = np.asarray(sound, np.float32).reshape(len(sound), -1)
            for first in range(0, len(wave), 1024):
                frame = _block(wave[first : first + 1024], stream, rate)
                frame.pts, frame.time_base = first + round(late * rate), Fraction(1, rate)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def _picture_stream(out, path, fps, turn, first):
    stream = out.add_stream(PICTURE[path.suffix], rate=fps)
    stream.height, stream.width = _pixels(first).shape[:2]
    stream.pix_fmt = "yuv420p"
    if path.suffix == ".avi":
        stream.codec_context.bit_rate = 4_000_000
    elif path.suffix == ".webm":
        stream.options = {"lossless": "1", "cpu-used": "8"}
    else:
        stream.options = {"qp": "0", "preset": "ultrafast", "g": "6"}
    if turn:
        stream.set_display_rotation(turn)
    return stream


def _pixels(picture):
    return np.full((16, 32, 3), picture, np.uint8) if np.ndim(picture) == 0 else np.asarray(picture, np.uint8)


def _sound_stream(out, path, rate, sound):
    layout = "mono" if np.ndim(sound) == 1 else "stereo"
    return out.add_stream(SOUND[path.suffix], rate=rate, layout=layout)


def _block(wave, stream, rate):
    form = stream.codec_context.format.name
    values = np.rint(wave * 32767).astype(np.int16) if form.startswith("s16") else wave
    packed = values.T if form.endswith("p") else values.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), form, stream.codec_context.layout.name)
    frame.sample_rate = rate
    return frame


def levels(frames: np.ndarray) -> list[int]:
    """The grey level of each frame, rounded to tens (videos hold 220 levels of 256, and codecs are lossy)."""
    return [10 * round(float(f.mean()) / 10) for f in frames]
