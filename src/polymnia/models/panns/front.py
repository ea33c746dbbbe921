"""The three front ends of PANNs, and the constants by which its checkpoints tell them apart."""

from __future__ import annotations

import torch
from torch import Tensor

from polymnia.ops.audio import PANNS_32K, LogMelConfig, mel_filters

FRONTS = {
    32000: PANNS_32K,
    16000: LogMelConfig(sample_rate=16000, n_fft=512, win_length=512, hop=160, n_mels=64, fmin=50, fmax=8000),
    8000: LogMelConfig(sample_rate=8000, n_fft=256, win_length=256, hop=80, n_mels=64, fmin=50, fmax=4000),
}
REAL, IMAG = (f"spectrogram_extractor.stft.conv_{part}.weight" for part in ("real", "imag"))
MEL = "logmel_extractor.melW"


def constants(cfg: LogMelConfig) -> dict[str, Tensor]:
    """The three tensors of the public layout: a windowed Fourier transform as two convolutions, and the mel filters.

    Shapes (bin, 1, n_fft), the same, and (bin, mel); X_k = sum_n w_n x_n exp(-2 pi i k n / n_fft), w periodic Hann.
    """
    n = torch.arange(cfg.n_fft)
    k = n[: cfg.n_fft // 2 + 1, None]
    # k n is reduced as an integer: the angle of a product of a million has lost digits by then
    angle = 2 * torch.pi * (k * n % cfg.n_fft).double() / cfg.n_fft
    window = torch.hann_window(cfg.n_fft, dtype=torch.float64)
    real, imag = angle.cos() * window, -angle.sin() * window
    return {REAL: real.float()[:, None], IMAG: imag.float()[:, None], MEL: mel_filters(cfg).T}
