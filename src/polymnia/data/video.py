"""The pictures of videos: frames at a rate, or the middle one, as an image tower eats them.

A stretch is cut into ``round(seconds x fps)`` equal parts (at least one), and of each part the picture that is shown
in its middle is taken: of ten seconds at 30 frames a second, 300, each once. The middle frame is that of one part.
Frames are decoded one after another; at full size, two are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from polymnia.data.container import find_stream, open_container, origin, packets_end, stream_end
from polymnia.data.disk import CORES
from polymnia.data.faults import MediaError
from polymnia.data.media import MAX_PIXELS, MAX_SECONDS, fit_image
from polymnia.data.pack import in_order
from polymnia.types import ImageSpec, VideoFile

HOLD = 0.5  # seconds that the last picture stays on screen: sound is often a little longer than the pictures
ROUNDING = 1e-6  # seconds; a picture is shown from its time on, however that was rounded
PART_BYTES = 48 << 20  # of fitted frames in one piece; 300 frames of 224 x 224 are 45 MB
THREADS = min(8, CORES)
TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
    -90: Image.Transpose.ROTATE_270,
}


def averaged(source: object, spec: object) -> bool:
    """Whether a tower's features of a source are the mean of those of the frames of a video."""
    return isinstance(source, VideoFile) and isinstance(spec, ImageSpec) and spec.frames == "mean"


def frame_count(source: VideoFile, fps: float) -> int:
    """How many frames ``decode_frames`` gives of the whole stretch.

    MediaError for a file that cannot be read or has no pictures, or a stretch that is not inside it (it may end
    ``HOLD`` seconds behind the last picture).
    """
    return len(_times(source, fps))


def video_seconds(source: VideoFile) -> float:
    """Seconds of the stretch, to where its pictures end. MediaError as for ``frame_count``."""
    begin, end = _stretch(source)
    return end - begin


def decode_frames(
    source: VideoFile, spec: ImageSpec, first: int = 0, count: int | None = None
) -> UInt8[np.ndarray, "n c s s"]:
    """Frames ``first`` to ``first + count`` of the stretch at ``spec.fps``, upright, fitted as by ``fit_image``.

    A picture that cannot be decoded is not shown: the one before it stays, as in a player.
    MediaError as for ``frame_count``, for more than ``MAX_PIXELS`` pixels, and where the pictures end too early.
    """
    times = _times(source, spec.fps)[first : None if count is None else first + count]
    out = np.empty((len(times), spec.channels, spec.size, spec.size), np.uint8)
    last = None
    for n, frame in enumerate(_shown(source.path, times)):
        out[n] = out[n - 1] if frame is last else _fitted(source.path, frame, spec)
        last = frame
    return out


def middle_frame(source: VideoFile, spec: ImageSpec) -> UInt8[np.ndarray, "c s s"]:
    """The picture in the middle of the stretch. Errors as for ``decode_frames``."""
    (frame,) = _shown(source.path, _times(source))
    return _fitted(source.path, frame, spec)


def check_video(source: VideoFile, spec: ImageSpec) -> int:
    """The number of frames, after everything was read once and the first and the last frame decoded.

    What passes can be decoded from end to end. MediaError for what does not.
    """
    times = _times(source, spec.fps)
    with open_container(source.path) as container:
        index = find_stream(container, source.path, "video").index
    reached = packets_end(source.path, index)
    if reached + HOLD < times[-1]:
        raise MediaError(source.path, f"is cut off: it has no pictures from {reached:.2f} s on")
    for at in {times[0], times[-1]}:
        for frame in _shown(source.path, np.array([at])):
            _fitted(source.path, frame, spec)
    return len(times)


def all_frames(
    sources: Sequence[VideoFile], spec: ImageSpec, threads: int = THREADS
) -> Iterator[tuple[int, UInt8[np.ndarray, "n c s s"]]]:
    """Every frame of every video: (number of the video, some of its frames), in order, decoded a little ahead."""
    size = max(1, PART_BYTES // (spec.channels * spec.size**2))
    pieces = [(n, k) for n, s in enumerate(sources) for k in range(0, frame_count(s, spec.fps), size)]

    def decode(piece: int) -> UInt8[np.ndarray, "n c s s"]:
        n, first = pieces[piece]
        return decode_frames(sources[n], spec, first, size)

    for (n, _), frames in zip(pieces, in_order(decode, range(len(pieces)), threads), strict=True):
        yield n, frames


def _times(source: VideoFile, fps: float = 0.0) -> Float64[np.ndarray, " n"]:
    """The middle of each part of the stretch, in seconds; one part without a rate."""
    begin, end = _bounds(source)
    parts = max(1, round((end - begin) * fps))
    return begin + (np.arange(parts) + 0.5) * ((end - begin) / parts)


def _bounds(source: VideoFile) -> tuple[float, float]:
    """Begin and end of a stretch that can be read at once."""
    begin, end = _stretch(source)
    if end - begin > MAX_SECONDS:
        hours = (end - begin) / 3600
        raise MediaError(source.path, f"{hours:.1f} h of pictures are too long to read at once: give `seconds`")
    return begin, end


def _stretch(source: VideoFile) -> tuple[float, float]:
    """Begin and end of the stretch in seconds."""
    with open_container(source.path) as container:
        total = stream_end(container, source.path, find_stream(container, source.path, "video"))
    end = total if source.seconds is None else source.start + source.seconds
    if not 0 <= source.start < min(end, total) or end > total + HOLD:
        raise MediaError(
            source.path, f"the stretch from {source.start:g} s to {end:g} s is not in a video of {total:g} s"
        )
    return source.start, end


def _shown(path: Path, times: Float64[np.ndarray, " n"]) -> Iterator[Any]:
    """The decoded frame that is shown at each of some ascending times; before the first frame, that one."""
    shown, until, done = None, 0.0, 0
    for frame, begin, end in _decoded(path, times[0]):
        while shown is not None and done < len(times) and begin > times[done] + ROUNDING:
            yield shown
            done += 1
        if done == len(times):
            return
        shown, until = frame, end
    for at in times[done:]:
        if shown is None or at > until + HOLD:
            raise MediaError(path, f"no picture can be decoded at {at:.2f} s, where its header promises one")
        yield shown


def _decoded(path: Path, begin: float) -> Iterator[tuple[Any, float, float]]:
    """Frames from the one shown at ``begin``, or an earlier one, on, each with the times between which it is shown."""
    from av.error import FFmpegError

    with open_container(path) as container:
        stream = find_stream(container, path, "video")
        context, zero = stream.codec_context, origin(container)
        _check_size(path, context.width, context.height)
        context.options = {"max_pixels": str(MAX_PIXELS)}  # a stream may grow later
        with suppress(FFmpegError):  # a file without an index is read from its beginning
            container.seek(int((begin + zero) / stream.time_base), stream=stream)
        frames = _timed(container, stream)
        first = next(frames, None)
        if first is None or first[1] - zero > begin:  # no index, or a wrong one
            container.seek(container.start_time or 0)
            frames, first = _timed(container, stream), None
        for frame, at, end in [first] if first else []:
            yield frame, at - zero, end - zero
        for frame, at, end in frames:
            yield frame, at - zero, end - zero


def _timed(container: Any, stream: Any) -> Iterator[tuple[Any, float, float]]:
    from av.error import InvalidDataError

    usual = float(1 / stream.average_rate) if stream.average_rate else 0.0
    end = 0.0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            continue
        try:
            frames = packet.decode()
        except InvalidDataError:
            continue
        for frame in frames:
            begin = end if frame.time is None else frame.time
            end = begin + (float(frame.duration * frame.time_base) if frame.duration else usual)
            yield frame, begin, end


def _fitted(path: Path, frame: Any, spec: ImageSpec) -> UInt8[np.ndarray, "c s s"]:
    from av.error import FFmpegError

    _check_size(path, frame.width, frame.height)
    try:
        image = frame.to_image()
    except (FFmpegError, ValueError) as error:
        raise MediaError(path, f"its pixels ({frame.format.name}) cannot be turned into RGB: {error}") from error
    if frame.rotation in TURNS:
        image = image.transpose(TURNS[frame.rotation])
    return fit_image(image, spec.size, spec.channels, spec.fit)


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(path, f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
