"""Where a probe is fitted."""

from __future__ import annotations

import torch

from polymnia.types import UserError


def pick(name: str) -> torch.device:
    """``auto``: a GPU where there is one. Raises UserError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the second: a build without CUDA
        raise UserError(f"device: there is no '{name}' on this machine; take auto or cpu") from error
