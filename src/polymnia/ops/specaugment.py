"""What PANNs does to log-mel pictures in training: stripes of SpecAugment, and mixup of neighbouring rows.

SpecAugment: Park et al., "SpecAugment: A Simple Data Augmentation Method for ASR", Interspeech 2019. Mixup: Zhang et
al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018. Numbers and order: Kong et al., "PANNs", TASLP 2020.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polymnia.types import UserError

STRIPES = 2  # a picture, along each axis
TIME_WIDTH, MEL_WIDTH = 64, 8  # stripes are narrower than so many frames, bands


def stripes(rows: int, length: int, width: int, count: int, device: torch.device) -> Bool[Tensor, "rows length"]:
    """True in ``count`` stripes of each row, drawn for each row by itself.

    A stripe is U{0 .. min(width, length) - 1} wide; its start is uniform among the places that leave at least one
    position behind it (so in PANNs: the last position is never covered). Random numbers come from torch's own
    generator of ``device``.
    """
    wide = torch.randint(0, min(width, length), (rows, count, 1), device=device)
    start = (torch.rand(rows, count, 1, device=device) * (length - wide)).long()
    at = torch.arange(length, device=device)
    return ((at >= start) & (at < start + wide)).any(1)


def specaugment(x: Float[Tensor, "b mel t"]) -> Float[Tensor, "b mel t"]:
    """Pictures with two stripes in time and two in frequency set to 0, which is the mean behind a batch norm."""
    b, mel, t = x.shape
    bands, frames = stripes(b, mel, MEL_WIDTH, STRIPES, x.device), stripes(b, t, TIME_WIDTH, STRIPES, x.device)
    return x.masked_fill(bands[:, :, None] | frames[:, None], 0)


def mixup_weights(pairs: int, device: torch.device | None = None) -> Float[Tensor, " _"]:
    """(lam, 1 - lam) for each pair of consecutive rows, lam ~ Beta(1, 1); 2 ``pairs`` numbers."""
    lam = torch.rand(pairs, device=device)
    return torch.stack([lam, 1 - lam], 1).flatten()


def mixup(x: Float[Tensor, "twice ..."], weight: Float[Tensor, " _"]) -> Float[Tensor, "b ..."]:
    """Half as many rows: out_i = weight_2i x_2i + weight_2i+1 x_2i+1. Inputs and targets are mixed alike.

    Raises UserError for an odd number of rows, or another number of weights.
    """
    if len(x) % 2 or len(x) != len(weight):
        raise UserError(f"mixup joins pairs of rows: got {len(x)} rows and {len(weight)} weights")
    weighed = x * weight.view(-1, *[1] * (x.dim() - 1))
    return weighed[0::2] + weighed[1::2]
