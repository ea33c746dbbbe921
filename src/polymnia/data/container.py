"""Containers of pictures and sound (mp4, mkv, ...), opened through PyAV, the extra ``video``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polymnia.data.faults import MediaError, check_file
from polymnia.types import UserError

if TYPE_CHECKING:
    from av.container import InputContainer

SUFFIXES = frozenset((".mp4", ".m4v", ".m4a", ".mov", ".3gp", ".mkv", ".mka", ".webm", ".avi"))
# Readers that open nothing but the file itself. A playlist that is called .mp4 would name other files, or addresses.
SAFE = {"format_whitelist": "mov,matroska,webm,avi", "protocol_whitelist": "file"}
MICROSECOND = 1e-6  # the unit of a container's own times


def is_container(path: Path) -> bool:
    """Whether a file is read through PyAV, by its name."""
    return path.suffix.lower() in SUFFIXES


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """The open container. Whatever FFmpeg raises meanwhile becomes a MediaError; UserError where PyAV is not there."""
    try:
        import av
    except (ImportError, OSError, RuntimeError) as error:  # the last two: a build for another system
        raise UserError(f"{path} needs PyAV to be read ({error}): pip install 'polymnia[video]'") from error
    check_file(path)
    try:
        # The absolute path: FFmpeg would take 'a:b.mp4' for an address. 'replace': titles may be in other encodings.
        with av.open(str(path.absolute()), options=SAFE, metadata_errors="replace") as container:
            yield container
    except (av.error.FFmpegError, ArithmeticError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(path, f"not a readable video: {reason}") from error


def find_stream(container: InputContainer, path: Path, kind: Literal["audio", "video"]) -> Any:
    """The stream that a player would choose: the default one; of several, the one of most bits.

    MediaError if there is none that can be decoded. The cover of an album is no video.
    """
    from av.stream import Disposition

    stream = container.streams.best(kind)
    if stream is None or stream.codec_context is None or stream.disposition & Disposition.attached_pic:
        raise MediaError(path, "has no sound" if kind == "audio" else "has no pictures")
    stream.codec_context.thread_count = 1  # many files are decoded at a time instead
    return stream


def origin(container: InputContainer) -> float:
    """Where time begins, in seconds on the clock of the streams: the same instant for pictures and sound."""
    return max(0.0, (container.start_time or 0) * MICROSECOND)


def stream_end(container: InputContainer, path: Path, stream: Any) -> float:
    """Where a stream ends, in seconds from ``origin``: as the header says, or as its packets do (Matroska, WebM)."""
    if stream.duration is None:
        return packets_end(path, stream.index)
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin(container)


def packets_end(path: Path, index: int) -> float:
    """Where the last packet of a stream ends, in seconds from ``origin``, after all of them were read."""
    with open_container(path) as container:
        stream = container.streams[index]
        packets = (p for p in container.demux(stream) if p.pts is not None and not p.is_corrupt)
        end = max((p.pts + (p.duration or 0) for p in packets), default=0)
        return float(end * stream.time_base) - origin(container)
