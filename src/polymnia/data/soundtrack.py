"""The sound of a container."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from polymnia.data.container import find_stream, open_container, origin, stream_end
from polymnia.data.faults import MediaError

if TYPE_CHECKING:
    from av import AudioFrame
    from av.container import InputContainer

PRE_ROLL = 0.5  # seconds decoded before what is wanted: transforms overlap, and some codecs adapt
JITTER = 0.05  # seconds; times that are off by less are rounded ones (Matroska's are milliseconds), not a gap
SILENCE = 1 << 16  # frames of a gap made at a time


@contextmanager
def open_soundtrack(path: Path) -> Iterator[Soundtrack]:
    """The sound of a video. Of several tracks, the one that a player would choose (``find_stream``).

    MediaError for a file that cannot be read or has no sound; UserError where PyAV is not there.
    """
    with open_container(path) as container:
        yield Soundtrack(container, path)


class Soundtrack:
    """A ``Recording``. Time 0 is where the container begins: sound and pictures of one time belong together."""

    warm_up = 0  # it sees to that itself

    def __init__(self, container: InputContainer, path: Path):
        self.container, self.path = container, path
        self.stream = find_stream(container, path, "audio")
        self.moved = False
        self.samplerate = self.stream.codec_context.sample_rate
        self.frames = round(stream_end(container, path, self.stream) * self.samplerate)

    def blocks(self, begin: int, count: int) -> Iterator[Float32[np.ndarray, "n channels"]]:
        """At most ``count`` frames from ``begin`` on, piece by piece; gaps between the packets are silent."""
        at, stop = begin, begin + count
        for first, block in self._decoded(begin):
            while at < min(first, stop):
                silence = np.zeros((min(first, stop, at + SILENCE) - at, block.shape[1]), np.float32)
                yield silence
                at += len(silence)
            wanted = block[max(0, at - first) : max(0, stop - first)]
            if len(wanted):
                yield wanted
                at += len(wanted)
            if at >= stop:
                return

    def _decoded(self, begin: int) -> Iterator[tuple[int, Float32[np.ndarray, "n channels"]]]:
        """Decoded blocks and where each begins, the first of them not after ``begin`` where there is any."""
        self._seek(begin)
        at: int | None = None
        for packet in self.container.demux(self.stream):
            if packet.is_corrupt:  # the file was cut off here
                return
            for frame in packet.decode():
                if frame.sample_rate != self.samplerate:
                    raise MediaError(self.path, f"changes its rate from {self.samplerate} to {frame.sample_rate} Hz")
                said = at if frame.time is None else round((frame.time - origin(self.container)) * self.samplerate)
                if at is None or said is None or abs(said - at) > JITTER * self.samplerate:
                    at = said or 0
                block = _floats(frame)
                yield at, block
                at += len(block)

    def _seek(self, begin: int) -> None:
        """To a little before ``begin``, where the clock of the stream is as fine as its samples.

        Others are decoded from their beginning: a seek would land a fraction of a millisecond beside.
        """
        base = self.stream.time_base
        wanted = begin / self.samplerate - PRE_ROLL
        if wanted > 0 and base <= 1 / self.samplerate:
            self.container.seek(math.floor((wanted + origin(self.container)) / base), stream=self.stream)
        elif self.moved:
            self.container.seek(self.container.start_time or 0)
        self.moved = True


def _floats(frame: AudioFrame) -> Float32[np.ndarray, "n channels"]:
    raw = frame.to_ndarray()  # (channels, n), or of formats that are not planar (1, n x channels)
    x = raw.T if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels)
    if x.dtype == np.uint8:
        return (x.astype(np.float32) - 128) / 128
    whole = np.iinfo(x.dtype).max + 1 if np.issubdtype(x.dtype, np.integer) else 1
    return x.astype(np.float32) / np.float32(whole)
