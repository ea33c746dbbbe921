"""Files of weights that others saved: tensors only, and nothing in them is executed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymnia.types import UserError


def read(path: Path, origin: str) -> dict[str, Tensor]:
    """A dictionary of tensors saved by torch. ``origin`` says, for the error, what to get from where.

    Raises UserError for a file that is missing, truncated, damaged, holds Python objects, or is no state dict.
    """
    if not path.is_file():
        raise UserError(f"checkpoint not found: {path}. Get {origin}")
    if not zipfile.is_zipfile(path):  # the end of a zip file is its directory, so that this finds truncation
        raise UserError(f"{path} is truncated or was not saved by torch; get it again: {origin}")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds Python objects and is refused: loading them could run any code") from error
    except Exception as error:  # damaged bytes raise anything from RuntimeError to UnicodeDecodeError
        raise UserError(f"{path} is damaged ({type(error).__name__}); get it again: {origin}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds a {type(state).__name__}, not a state dict of tensors")
    return state
