"""Kaldi's log-mel filter-bank features, on the device of the waveform, for many clips at once.

Every frame is cut out, freed of its own mean, pre-emphasised and windowed on its own, which is why this is no setting
of ``LogMel``. Povey et al.: The Kaldi speech recognition toolkit (2011), compute-fbank-feats with dither 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymnia.ops.audio import kaldi_mel

FLOOR = 1.1920928955078125e-07  # the epsilon of float32
PREEMPHASIS = 0.97


class KaldiFbank(nn.Module):
    """Natural logarithm of mel energies from 20 Hz to half the rate, in frames of 25 ms every 10 ms.

    Symmetric Hann window; whole frames only (``snip_edges``): t = 1 + (n - frame) // hop, and a clip shorter than one
    frame is zero-padded. Window and filters stay out of the state dict.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int = 16000, n_mels: int = 128):
        super().__init__()
        self.frame, self.hop = sample_rate * 25 // 1000, sample_rate // 100
        self.n_fft = 2 ** (self.frame - 1).bit_length()
        self.register_buffer("window", torch.hann_window(self.frame, periodic=False), persistent=False)
        filters = kaldi_mel(n_mels, self.n_fft, sample_rate, 20.0, sample_rate / 2)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)

    def forward(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b t mel"]:
        """Features of equally long clips, in float32 whatever the mixed precision."""
        with torch.autocast(x.device.type, enabled=False):
            x = nn.functional.pad(x.float(), (0, max(0, self.frame - x.shape[1])))
            frames = x.unfold(1, self.frame, self.hop)
            frames = frames - frames.mean(2, keepdim=True)
            # of the first sample nothing is left under the window, so it need not be pre-emphasised
            frames = nn.functional.pad(frames[:, :, 1:] - PREEMPHASIS * frames[:, :, :-1], (1, 0))
            spectrum = torch.fft.rfft(frames * self.window, n=self.n_fft)
            power = spectrum.real.square() + spectrum.imag.square()
            return (power @ self.filters).clamp(min=FLOOR).log()
