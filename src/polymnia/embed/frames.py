"""Features of a video: the mean of the features of its frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from polymnia.data.video import all_frames
from polymnia.types import ImageSpec, VideoFile

Frame = UInt8[np.ndarray, "c s s"]


def mean_over_frames(
    encode: Callable[[Sequence[Frame]], Float[Tensor, "b o"]],
    sources: Sequence[VideoFile],
    spec: ImageSpec,
    batch: int,
) -> Float[Tensor, "n o"]:
    """A row a video: the mean of what ``encode`` gives for its frames at ``spec.fps``, as it is, not normalised.

    Wu et al.: Wav2CLIP (2022), section 2. Frames are decoded ahead in several threads; a batch holds frames of as many
    videos as fill it. Raises MediaError for a video that cannot be decoded.
    """
    sums: Tensor | None = None
    counts = torch.zeros(len(sources), 1, dtype=torch.float64)
    for owners, frames in _batches(all_frames(sources, spec), batch):
        features = encode(frames).double()
        if sums is None:
            sums = torch.zeros(len(sources), features.shape[1], dtype=torch.float64)
        sums.index_add_(0, owners, features)
        counts.index_add_(0, owners, torch.ones(len(owners), 1, dtype=torch.float64))
    assert sums is not None
    return (sums / counts).float()


def _batches(
    pieces: Iterable[tuple[int, UInt8[np.ndarray, "n c s s"]]], size: int
) -> Iterator[tuple[Tensor, list[Frame]]]:
    """Full batches of frames, and of which video each is."""
    owners: list[int] = []
    frames: list[Frame] = []
    for owner, piece in pieces:
        for frame in piece:
            owners.append(owner)
            frames.append(frame)
            if len(frames) == size:
                yield torch.tensor(owners), frames
                owners, frames = [], []
    if frames:
        yield torch.tensor(owners), frames
