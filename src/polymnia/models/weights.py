"""Files of weights that others saved: tensors only, and nothing in them is executed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymnia.types import UserError

# How a file of torch before 1.6 begins: protocol 2, and torch's magic number as a long of ten bytes.
BEFORE_ZIP = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."


class _Dropped:
    """Stands in for what numpy would rebuild, so that a file may hold arrays without numpy reading any of it."""

    def __init__(self, *args: object):
        del args

    def __setstate__(self, state: object) -> None:
        del state


_NUMPY = ["numpy.ndarray", "numpy.dtype"] + [
    f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")
]


def read(path: Path, origin: str) -> dict[str, Tensor]:
    """A dictionary of tensors saved by torch. ``origin`` says, for the error, what to get from where.

    Raises UserError for a file that is missing, truncated, damaged, holds Python objects, or is no state dict.
    """
    return _tensors(_unpickled(path, origin), path)


def read_training(path: Path, origin: str) -> dict[str, Tensor]:
    """A state dict as a training script leaves it: bare, or under ``model`` beside its counters and sampler.

    The leading ``module.`` of data-parallel training is taken off the names. Raises UserError as ``read`` does.
    """
    found = _unpickled(path, origin)
    if isinstance(found, dict) and isinstance(found.get("model"), dict):
        found = found["model"]
    return {name.removeprefix("module."): value for name, value in _tensors(found, path).items()}


def _unpickled(path: Path, origin: str) -> Any:
    if not path.is_file():
        raise UserError(f"checkpoint not found: {path}. Get {origin}")
    with path.open("rb") as file:
        old = file.read(len(BEFORE_ZIP)) == BEFORE_ZIP
    # the end of a zip file is its directory, so that this finds truncation
    if not old and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is truncated or was not saved by torch; get it again: {origin}")
    try:
        with torch.serialization.safe_globals([(_Dropped, name) for name in _NUMPY]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds Python objects and is refused: loading them could run any code") from error
    except Exception as error:  # damaged bytes raise anything from RuntimeError to UnicodeDecodeError
        half = " or half-downloaded" if old else ""
        raise UserError(f"{path} is damaged{half} ({type(error).__name__}); get it again: {origin}") from error


def _tensors(state: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds a {type(state).__name__}, not a state dict of tensors")
    return state
