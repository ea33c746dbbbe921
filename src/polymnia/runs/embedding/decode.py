"""From a job to decoded media: what fits one window at once, what is longer window by window, a few ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from polymnia.data.container import find_stream, open_container
from polymnia.data.faults import MediaError
from polymnia.data.media import decode_image
from polymnia.data.texts import TextFile, read_text
from polymnia.data.video import PART_BYTES, averaged, decode_frames, frame_count, middle_frame, video_seconds
from polymnia.data.windows import MOST, read_whole, read_windows, window_starts
from polymnia.runs.embedding.job import Job
from polymnia.runs.embedding.windows import Windows
from polymnia.runs.intake import padded
from polymnia.types import AudioFile, AudioSpec, Captions, ImageSpec, Modality, Spec, UserError, VideoFile


class Piece(NamedTuple):
    """What a tower eats for one row: a clip, a picture, a string, or the frames of a stretch of a video.

    ``start`` and ``end``: in the file, seconds.
    """

    medium: Any
    start: float | None = None
    end: float | None = None


@dataclass
class Read:
    """What was read of a job: ``pieces``, or, of what is longer than a window, ``count`` of them from ``stream()``.

    ``problem`` says why it cannot be embedded; ``lacks``: it has nothing of this modality, and need not.
    ``duration``: seconds.
    """

    job: Job
    pieces: list[Piece] = field(default_factory=list)
    count: int = 0
    stream: Callable[[], Iterator[Piece]] | None = None
    duration: float | None = None
    problem: str = ""
    lacks: bool = False

    @property
    def nbytes(self) -> int:
        """Of the media that are in memory."""
        return sum(getattr(piece.medium, "nbytes", 0) or len(str(piece.medium)) for piece in self.pieces)


class Reader:
    """Decodes jobs, as these towers eat them, in any thread."""

    def __init__(self, specs: dict[Modality, Spec], windows: Windows):
        self.specs, self.windows = specs, windows

    def __call__(self, job: Job) -> Read:
        """Never raises for what is wrong with a file."""
        try:
            if job.perhaps and not _has(job):
                return Read(job, lacks=True)
            if isinstance(job.source, AudioFile):
                return self._sound(job, job.source)
            if isinstance(job.source, VideoFile):
                return self._video(job, job.source)
            if isinstance(job.source, TextFile):
                return Read(job, [Piece(read_text(job.source.path))], 1)
            if isinstance(job.source, Captions):
                return _captions(job, job.source)
            spec = self.specs["image"]
            assert isinstance(spec, ImageSpec)
            return Read(job, [Piece(decode_image(job.source, spec.size, spec.channels, spec.fit))], 1)
        except MediaError as error:
            return Read(job, problem=error.reason)
        except UserError as error:  # a package that reads such files is not there
            return Read(job, problem=str(error))
        except OSError as error:
            return Read(job, problem=f"cannot be read: {error.strerror}")
        except MemoryError:
            return Read(job, problem="does not fit into memory")

    def _sound(self, job: Job, source: AudioFile) -> Read:
        spec = self.specs["audio"]
        assert isinstance(spec, AudioSpec)
        rate, size, hop = spec.sample_rate, *self.windows.samples(spec.sample_rate)
        total, wave = read_whole(source, rate, size)
        seconds = total / rate
        if wave is not None:
            return Read(job, [Piece(padded(wave, spec), source.start, source.start + seconds)], 1, None, seconds)
        starts = window_starts(total, size, hop)
        _refuse_many(source, len(starts))

        def stream() -> Iterator[Piece]:
            for start, wave in zip(starts, read_windows(source, rate, size, hop), strict=True):
                at = source.start + start / rate
                yield Piece(padded(wave, spec), at, at + size / rate)

        return Read(job, [], len(starts), stream, seconds)

    def _video(self, job: Job, source: VideoFile) -> Read:
        spec = self.specs["image"]
        assert isinstance(spec, ImageSpec)
        seconds = video_seconds(source)
        size, hop = self.windows.samples(1000)  # milliseconds: a video has no finer clock that all of them share
        starts = window_starts(round(1000 * seconds), size, hop)
        _refuse_many(source, len(starts))
        if len(starts) == 1:
            medium = _pictures(source, spec)
            return Read(job, [Piece(medium, source.start, source.start + seconds)], 1, None, seconds)

        def stream() -> Iterator[Piece]:
            for start in starts:
                stretch = VideoFile(source.path, source.start + start / 1000, size / 1000)
                yield Piece(_pictures(stretch, spec), stretch.start, stretch.start + size / 1000)

        return Read(job, [], len(starts), stream, seconds)


def _pictures(source: VideoFile, spec: ImageSpec) -> Any:
    """Frames (n, c, s, s); the middle one, where the tower wants that; of too many to wait in memory, the stretch."""
    if not averaged(source, spec):
        return middle_frame(source, spec)
    if frame_count(source, spec.fps) * spec.channels * spec.size**2 > PART_BYTES:
        return source
    return decode_frames(source, spec)


def _refuse_many(source: AudioFile | VideoFile, count: int) -> None:
    if count > MOST:
        raise MediaError(source.path, f"is {count:,} windows long, more than {MOST:,}: give a longer hop, or cut it")


def _captions(job: Job, source: Captions) -> Read:
    texts = [text.encode("utf-8", "replace").decode() for text in source.texts]
    if not texts or not all(text.strip() for text in texts):
        return Read(job, problem="has an empty caption")
    return Read(job, [Piece(text) for text in texts], len(texts))


def _has(job: Job) -> bool:
    """Whether a file holds anything of the job's modality. Raises MediaError where it holds neither pictures nor
    sound."""
    assert isinstance(job.source, (AudioFile, VideoFile))
    kinds: dict[Literal["audio", "video"], bool] = {"audio": True, "video": True}
    with open_container(job.source.path) as container:
        for kind in kinds:
            try:
                find_stream(container, job.source.path, kind)
            except MediaError:
                kinds[kind] = False
    if not any(kinds.values()):
        raise MediaError(job.source.path, "holds neither pictures nor sound that can be decoded")
    return kinds["audio" if job.modality == "audio" else "video"]
