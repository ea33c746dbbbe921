"""Long clips for towers that take clips of one length: windows of that length, and the mean over them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def mean_over_windows(encode: Callable[[Tensor], Tensor], x: Float[Tensor, "b n"], size: int) -> Float[Tensor, "b o"]:
    """``encode`` of clips of at most ``size`` samples; of longer ones the mean over consecutive windows of ``size``.

    The last window ends with the clip, and so overlaps the one before it: there is no window of a few samples, filled
    up with something else. One window is encoded at a time, in bounded memory.
    """
    last = x.shape[1] - size
    if last <= 0:
        return encode(x)
    starts = [*range(0, last, size), last]
    return torch.stack([encode(x[:, s : s + size]) for s in starts]).mean(0)


def repeat_pad(x: Float[Tensor, "b n"], size: int) -> Float[Tensor, "b m"]:
    """A clip shorter than ``size`` is repeated as often as it fits as a whole, then zero-padded to ``size``."""
    x = x.repeat(1, max(1, size // x.shape[1]))
    return torch.nn.functional.pad(x, (0, max(0, size - x.shape[1])))
