"""An open recording, whatever holds it: sound files through libsndfile, the sound of videos through PyAV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import soundfile
from jaxtyping import Float32

from polymnia.data.container import is_container
from polymnia.data.faults import MediaError, check_file
from polymnia.data.soundtrack import open_soundtrack

RATES = (100, 10_000_000)  # Hz; a header that says otherwise is corrupt
WARM_UP = 8192  # frames that an MPEG decoder needs after a seek to fill its bit reservoir (measured: up to 2,011)
BLOCK = 1 << 20  # values read at a time, so that a header that promises too much costs nothing


@runtime_checkable
class Recording(Protocol):
    """``frames``: of the whole, as its header says. ``warm_up``: frames after a seek that are not yet exact."""

    frames: int
    samplerate: int
    warm_up: int

    def blocks(self, begin: int, count: int) -> Iterator[Float32[np.ndarray, "n channels"]]:
        """At most ``count`` frames from ``begin`` on, piece by piece."""


@contextmanager
def open_recording(path: Path) -> Iterator[Recording]:
    """The open recording, with a frame and a plausible rate. Whatever its decoder raises becomes a MediaError."""
    opener = open_soundtrack if is_container(path) else _open_sound_file
    with opener(path) as file:
        if file.frames <= 0:
            raise MediaError(path, "holds no audio frames")
        if not RATES[0] <= file.samplerate <= RATES[1]:
            raise MediaError(path, f"has an implausible sample rate of {file.samplerate} Hz")
        yield file


class _SoundFile:
    """A recording that libsndfile reads."""

    def __init__(self, file: soundfile.SoundFile):
        self.file = file
        self.frames, self.samplerate = file.frames, file.samplerate
        self.warm_up = WARM_UP if file.subtype.startswith("MPEG") else 0

    def blocks(self, begin: int, count: int) -> Iterator[Float32[np.ndarray, "n channels"]]:
        self.file.seek(begin)
        most = max(1, BLOCK // self.file.channels)
        while count > 0 and len(block := self.file.read(min(count, most), dtype="float32", always_2d=True)):
            yield block
            count -= len(block)


def _open_sound_file(path: Path) -> AbstractContextManager[Recording]:
    check_file(path)
    if path.suffix.lower() == ".raw":
        raise MediaError(path, "raw samples have no header that says their rate; convert them to wav or flac")
    return _sound_file(path)


@contextmanager
def _sound_file(path: Path) -> Iterator[Recording]:
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:  # as bytes: a name may be no UTF-8
            yield _SoundFile(file)
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        raise MediaError(path, f"not a readable recording: {reason}") from error
