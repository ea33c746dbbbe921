"""Long recordings, videos and texts as overlapping windows of one size, read one after another in bounded memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from polymnia.data.faults import MediaError
from polymnia.data.media import CONTEXT, cut, sample_bounds
from polymnia.data.recording import Recording, open_recording
from polymnia.types import AudioFile

MOST = 20_000  # windows of one item: 55 hours, ten seconds apart


def window_starts(total: int, size: int, hop: int) -> range | list[int]:
    """Where windows of ``size`` begin, ``hop`` apart; the last one ends with the whole, however near it is to the one
    before it. [0] for what fits one window."""
    if total <= size:
        return [0]
    last = total - size
    return [*range(0, last, hop), last]


def read_whole(source: AudioFile, rate: int, most: int) -> tuple[int, Float32[np.ndarray, " n"] | None]:
    """How many samples the stretch has at ``rate``, and where these are at most ``most`` the samples themselves.

    Raises MediaError as ``decode_audio``.
    """
    with open_recording(source.path) as file:
        first, last = sample_bounds(source, file, rate)
        if last - first > most:
            return last - first, None
        wave = cut(file, source.path, rate, first, last - first)
        return len(wave), wave


def read_windows(source: AudioFile, rate: int, size: int, hop: int) -> Iterator[Float32[np.ndarray, " n"]]:
    """The windows of a stretch at ``rate``, each as ``decode_audio`` would give it, from one reading of the file.

    The recording is decoded once, from its first window to its last, and little more than a window of it is held.
    Raises MediaError where it ends before its header says.
    """
    with open_recording(source.path) as file:
        first, last = sample_bounds(source, file, rate)
        forward = _Forward(file, rate, first)
        for start in window_starts(last - first, size, hop):
            wave = cut(forward, source.path, rate, first + start, size)
            if len(wave) < size:
                raise MediaError(source.path, f"is cut off at {(first + start + len(wave)) / rate:.2f} s")
            yield wave


class _Forward:
    """A ``Recording`` that is read from front to back, whatever stretches are asked for one after another.

    ``first``: the sample at ``rate`` before which nothing is asked for, but what a resampling filter sees around it.
    """

    warm_up = 0  # a decoder that never jumps is exact; before the first frame it may, so reading begins early enough

    def __init__(self, file: Recording, rate: int, first: int):
        self.frames, self.samplerate = file.frames, own = file.frames, file.samplerate
        margin = own + math.ceil(CONTEXT * own / min(own, rate)) + file.warm_up
        self._at = self._end = max(0, first * own // rate - margin)  # the frames that are held
        self._blocks = file.blocks(self._at, self.frames - self._at)
        self._held: deque[Float32[np.ndarray, "n channels"]] = deque()

    def blocks(self, begin: int, count: int) -> Iterator[Float32[np.ndarray, "n channels"]]:
        """At most ``count`` frames from ``begin`` on, which is never before that of an earlier call."""
        while self._end < begin + count and (block := next(self._blocks, None)) is not None:
            self._held.append(block)
            self._end += len(block)
            while self._at + len(self._held[0]) <= begin:
                self._at += len(self._held.popleft())
                if not self._held:
                    break
        at = self._at
        for block in self._held:
            wanted = block[max(0, begin - at) : max(0, begin + count - at)]
            at += len(block)
            if len(wanted):
                yield wanted
