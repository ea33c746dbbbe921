"""Media decoded once and memory-mapped: audio at the target rate as int16, pictures as uint8 squares.

Of a video, the sound and the middle frame are kept. Where all its frames are wanted, it is looked through once, and
decoded again when its features are computed: its frames would be a hundred times the file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from polymnia.data.digest import digests
from polymnia.data.media import MediaError, audio_length, audio_samples, decode_audio, decode_image
from polymnia.data.pack import WORKERS, Made, Packs, Progress, open_packs
from polymnia.data.video import check_video, middle_frame
from polymnia.types import AudioFile, Fit, ImageFile, ImageSpec, VideoFile

SCALE = 32767
STORED_SECONDS = 60.0  # longer stretches are read from their files
TAIL = 0.1  # seconds at the end of a long recording that are decoded once, to see that it is as long as it says


class AudioStore:
    """Recordings at one sample rate. ``failed`` says which could not be read, by index, with file and reason."""

    def __init__(self, sources: Sequence[AudioFile], rate: int, pack: Packs):
        self.sources = sources
        self.rate = rate
        self.pack = pack
        self.failed = _failed([s.path for s in sources], pack)

    def __len__(self) -> int:
        return len(self.sources)

    def length(self, i: int) -> int:
        """Samples of source ``i``. MediaError if it failed."""
        _, length, problem = self.pack.entries[i]
        if problem:
            raise MediaError(self.sources[i].path, problem)
        return length

    def read(self, i: int, start: int = 0, n: int | None = None) -> Float32[np.ndarray, " n"]:
        """At most ``n`` samples of source ``i`` from ``start`` on, in [-1, 1].

        What was too long to store is decoded here. MediaError if the source failed, IndexError outside of it.
        """
        length = self.length(i)
        stop = length if n is None else min(length, start + n)
        if not 0 <= start < stop:
            raise IndexError(f"samples {start} to {stop} of {self.sources[i].path}, which has {length}")
        if self.pack.entries[i][0] < 0:
            seconds = (stop - start) / self.rate
            return decode_audio(self.sources[i], self.rate, start / self.rate, seconds)
        return self.pack[i][start:stop].astype(np.float32) / np.float32(SCALE)


class ImageStore:
    """Pictures of one size. ``failed`` says which could not be read, by index, with file and reason."""

    def __init__(self, sources: Sequence[ImageFile | VideoFile], size: int, channels: int, pack: Packs):
        self.sources = sources
        self.shape = (channels, size, size)
        self.pack = pack
        self.failed = _failed([s.path for s in sources], pack)

    def __len__(self) -> int:
        return len(self.sources)

    def read(self, i: int) -> UInt8[np.ndarray, "c s s"]:
        """Picture ``i``, a copy that may be changed. MediaError if it failed."""
        if i in self.failed:
            raise MediaError(self.sources[i].path, self.pack.entries[i][2])
        return np.array(self.pack[i]).reshape(self.shape)


class VideoStore:
    """Videos that were looked through. ``failed`` says which cannot be read, by index, with file and reason."""

    def __init__(self, sources: Sequence[VideoFile], pack: Packs):
        self.sources = sources
        self.failed = _failed([s.path for s in sources], pack)

    def __len__(self) -> int:
        return len(self.sources)


def open_audio_store(
    sources: Sequence[AudioFile],
    rate: int,
    folder: Path,
    limit_seconds: float = STORED_SECONDS,
    workers: int = WORKERS,
    progress: Progress | None = None,
) -> AudioStore:
    """The recordings at ``rate`` Hz, decoded into ``folder`` unless they are there. ``progress(done, total)``.

    A stretch longer than ``limit_seconds`` is not stored but read from its file, by seeking, when it is asked for.
    UserError if the folder cannot be written; a broken recording is no error but an entry of ``failed``.
    """

    def make(i: int) -> Made:
        try:
            seconds = audio_length(sources[i])
            if seconds > limit_seconds:
                decode_audio(sources[i], rate, start=max(0.0, seconds - TAIL))
                return Made(length=audio_samples(sources[i], rate))
            x = decode_audio(sources[i], rate)
        except MediaError as error:
            return Made(problem=error.reason)
        return Made(np.rint(np.clip(x, -1.0, 1.0) * SCALE).astype(np.int16))

    content = digests([s.path for s in sources], folder, workers)
    names = [f"{content[s.path]} {s.start!r} {s.seconds!r}" for s in sources]
    kind = f"audio {rate} {float(limit_seconds)!r}"
    pack = open_packs(folder, kind, names, _homes(sources), make, "<i2", workers, progress)
    return AudioStore(sources, rate, pack)


def open_image_store(
    sources: Sequence[ImageFile | VideoFile],
    size: int,
    channels: int,
    folder: Path,
    workers: int = WORKERS,
    progress: Progress | None = None,
    fit: Fit = "square",
) -> ImageStore:
    """The pictures as (channels, size, size), put into ``folder`` unless they are there. ``progress(done, total)``.

    The picture of a video is its middle frame. UserError if the folder cannot be written; a broken picture is no
    error but an entry of ``failed``.
    """

    def make(i: int) -> Made:
        try:
            return Made(_picture(sources[i], size, channels, fit).reshape(-1))
        except MediaError as error:
            return Made(problem=error.reason)

    content = digests([s.path for s in sources], folder, workers)
    names = [f"{content[s.path]} {_place(s)}" for s in sources]
    settings = f"image {size} {channels}" + ("" if fit == "square" else f" {fit}")
    pack = open_packs(folder, settings, names, _homes(sources), make, "|u1", workers, progress)
    return ImageStore(sources, size, channels, pack)


def open_video_store(
    sources: Sequence[VideoFile],
    spec: ImageSpec,
    folder: Path,
    workers: int = WORKERS,
    progress: Progress | None = None,
) -> VideoStore:
    """The videos, each looked through unless that is noted in ``folder``. ``progress(done, total)``.

    UserError if the folder cannot be written; a broken video is no error but an entry of ``failed``.
    """

    def make(i: int) -> Made:
        try:
            return Made(length=check_video(sources[i], spec))
        except MediaError as error:
            return Made(problem=error.reason)

    content = digests([s.path for s in sources], folder, workers)
    names = [f"{content[s.path]} {_place(s)}" for s in sources]
    kind = f"video {float(spec.fps)!r}"
    return VideoStore(sources, open_packs(folder, kind, names, _homes(sources), make, "|u1", workers, progress))


def _picture(source: ImageFile | VideoFile, size: int, channels: int, fit: Fit) -> UInt8[np.ndarray, "c s s"]:
    if isinstance(source, VideoFile):
        return middle_frame(source, ImageSpec(size, channels, fit))
    return decode_image(source, size, channels, fit)


def _place(source: ImageFile | VideoFile) -> str:
    return f"{source.start!r} {source.seconds!r}" if isinstance(source, VideoFile) else f"{source.index}"


def _homes(sources: Sequence[AudioFile | ImageFile | VideoFile]) -> list[str]:
    return [os.path.dirname(s.path) for s in sources]


def _failed(paths: Sequence[Path], pack: Packs) -> dict[int, str]:
    return {
        i: str(MediaError(path, problem))
        for i, (path, (_, _, problem)) in enumerate(zip(paths, pack.entries, strict=True))
        if problem
    }
