"""Where in a clip its timestamps and windows lie: whole numbers of samples, so that nothing drifts over 20 minutes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

SPACING = 50  # ms between timestamps: the tolerance of HEAR's transcription tasks


class Window(NamedTuple):
    """Samples [start, stop) of a clip, and the timestamps [first, last) that are taken from them."""

    start: int
    stop: int
    first: int
    last: int


def count(samples: int, rate: int) -> int:
    """How many timestamps 0, 50, ... ms lie within a clip."""
    return samples * 1000 // (rate * SPACING) + 1


def milliseconds(samples: int, rate: int) -> Float[Tensor, " t"]:
    """The timestamps of a clip; float32 holds these whole numbers exactly up to four hours."""
    return torch.arange(count(samples, rate), dtype=torch.float32) * SPACING


def centred(samples: int, rate: int, width: int) -> Int[Tensor, " t"]:
    """The first sample of the window of ``width`` samples around each timestamp; the earliest are negative."""
    at = torch.arange(count(samples, rate)) * (SPACING * rate)
    return (2 * at + 1000) // 2000 - width // 2  # rounded to the nearest sample


def equal_windows(samples: int, most: int) -> tuple[list[int], int]:
    """Starts and length of the fewest equal windows of at most ``most`` samples that cover a clip.

    Neighbours share at most one sample.
    """
    windows = max(1, -(-samples // most))
    length = -(-samples // windows)
    return [number * (samples - length) // max(1, windows - 1) for number in range(windows)], length


def overlapping(samples: int, most: int, stride: int, stamps: int, rate: int) -> Iterator[Window]:
    """Windows of ``most`` samples that begin on multiples of ``stride`` and overlap by a quarter or more.

    A timestamp is taken from the window that has at least an eighth of ``most`` on either side of it, or from the
    first or last window of the clip. ``stride``: samples between two frames of the tower, so that all windows have
    theirs in the same places.
    """
    hop = most * 3 // 4 // stride * stride or max(1, most * 3 // 4)
    first = start = 0
    while start + most < samples:
        seam = start + hop + (most - hop) // 2
        last = min(stamps, -(-seam * 1000 // (rate * SPACING)))
        yield Window(start, start + most, first, last)
        first, start = last, start + hop
    yield Window(start, samples, first, stamps)


def interpolate(
    rows: Float[Tensor, "b t o"], centres: Float[Tensor, " t"], at: Float[Tensor, " s"]
) -> Float[Tensor, "b s o"]:
    """Rows between their centres, linearly; the first and the last are held beyond theirs. Seconds, ascending."""
    right = torch.searchsorted(centres, at).clamp(max=len(centres) - 1)
    left = (right - 1).clamp(min=0)
    gap = (centres[right] - centres[left]).clamp(min=1e-9)
    share = ((at - centres[left]) / gap).clamp(0, 1)
    return torch.lerp(rows[:, left], rows[:, right], share[:, None].to(rows.dtype))
