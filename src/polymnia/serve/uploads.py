"""A file that a client sends: of a known type, of bounded size, length and pixels, and gone after the request."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from starlette.exceptions import HTTPException

from polymnia.data.media import FORMATS, MediaError
from polymnia.data.recording import open_recording
from polymnia.serve.metrics import Metrics
from polymnia.serve.settings import Limits
from polymnia.types import Modality

SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
FASTEST = 192_000  # Hz


@dataclass(frozen=True, slots=True)
class Upload:
    """What the form held: the spooled bytes, and what its name says that it is."""

    content: BinaryIO
    suffix: str
    kind: Modality


def kind_of(name: str | None, metrics: Metrics) -> tuple[str, Modality]:
    """The suffix of a file's name, in lower case, and what it is. HTTPException 415 for any that is not known."""
    suffix = Path((name or "").replace("\x00", "")).suffix.lower()
    if suffix in SOUNDS:
        return suffix, "audio"
    if suffix in PICTURES:
        return suffix, "image"
    metrics.refuse("type")
    known = " ".join(s.removeprefix(".") for s in SOUNDS + PICTURES)
    raise HTTPException(415, f"the name of the file says neither recording nor picture; it may end in {known}")


@contextmanager
def on_disk(upload: Upload, limits: Limits) -> Iterator[Path]:
    """The upload as a private file, checked by its header, until the context ends.

    Raises MediaError for what is no such recording or picture, or longer or larger than the limits.
    """
    with tempfile.TemporaryDirectory(prefix="polymnia-upload-") as folder:
        path = Path(folder) / f"upload{upload.suffix}"
        with path.open("wb") as file:
            upload.content.seek(0)
            shutil.copyfileobj(upload.content, file)
        check_sound(path, limits) if upload.kind == "audio" else check_picture(path, limits)
        yield path


def check_sound(path: Path, limits: Limits) -> None:
    """MediaError for a recording whose header says that it is longer or faster than the limits."""
    with open_recording(path) as file:
        seconds = file.frames / file.samplerate
        if seconds > limits.seconds:
            raise MediaError(path, f"it lasts {seconds:.0f} s; this server takes {limits.seconds:g} s at most")
        if file.samplerate > FASTEST:
            raise MediaError(path, f"its rate is {file.samplerate} Hz; this server takes {FASTEST} Hz at most")


def check_picture(path: Path, limits: Limits) -> None:
    """MediaError for a picture whose header says that it has more pixels than the limit."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(path, f"it has more pixels than the {limits.pixels:,} that this server takes") from error
    except Exception as error:  # on hostile bytes Pillow raises nearly anything
        raise MediaError(path, "it is no readable picture") from error
    if width * height > limits.pixels:
        said = f"it has {width} x {height} pixels, more than the {limits.pixels:,} that this server takes"
        raise MediaError(path, said)
