"""Waveform to log-mel, on the device of the waveform: short-time Fourier transform, one matrix product, a logarithm.

Published front ends differ in the mel scale, the shape of the triangles, the window and the logarithm, and a network
fed with a neighbour's front end is quietly worse. Hence one module with every choice named, and presets that are
tested against independent implementations.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from polymnia.config import Frozen

Norm = Literal["slaney", "none"]
# Samples whose spectrogram still fits a processor's cache: a batch of clips at a time takes twice as long.
IN_CACHE = 1 << 19


class LogMelConfig(Frozen):
    """A log-mel front end. The result is ``(log + offset) / divisor``.

    ``scale``: ``slaney`` and ``htk`` draw triangles that are straight in Hz (librosa), ``kaldi`` on the scale of
    ``htk``, straight in mel. ``norm``: ``slaney`` gives each triangle area 1 in Hz. ``window``: periodic ``hann``, or
    ``hann_symmetric``. ``preemphasis`` c: x[t] - c x[t-1], which drops the first sample. ``pad_mode``: what
    lies before and behind the clip. ``log``: 10 log10 or natural. ``floor_mode``: ``clamp`` at, or ``add``, ``floor``.
    """

    sample_rate: PositiveInt
    n_fft: PositiveInt
    win_length: PositiveInt
    hop: PositiveInt
    n_mels: PositiveInt
    fmin: NonNegativeFloat
    fmax: PositiveFloat
    scale: Literal["slaney", "htk", "kaldi"] = "slaney"
    norm: Norm = "slaney"
    window: Literal["hann", "hann_symmetric"] = "hann"
    preemphasis: float = 0.0
    pad_mode: Literal["reflect", "constant"] = "reflect"
    log: Literal["db", "ln"] = "db"
    floor: PositiveFloat = 1e-10
    floor_mode: Literal["clamp", "add"] = "clamp"
    offset: float = 0.0
    divisor: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> LogMelConfig:
        if not self.fmin < self.fmax <= self.sample_rate / 2:
            raise ValueError(
                f"fmin {self.fmin} < fmax {self.fmax} <= {self.sample_rate / 2} (half the rate) must hold"
            )
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is longer than n_fft {self.n_fft}")
        if self.scale == "kaldi" and self.norm != "none":
            raise ValueError("scale 'kaldi' has no normalised triangles; set norm: none")
        return self


PANNS_32K = LogMelConfig(sample_rate=32000, n_fft=1024, win_length=1024, hop=320, n_mels=64, fmin=50, fmax=14000)
"""PANNs at 32 kHz (Kong et al., 2020): dB, no standardisation (the network's first batch norm does that)."""

EFFICIENTAT = LogMelConfig(
    sample_rate=32000,
    n_fft=1024,
    win_length=800,
    hop=320,
    n_mels=128,
    fmin=0,
    fmax=15000,
    scale="kaldi",
    norm="none",
    window="hann_symmetric",
    preemphasis=0.97,
    log="ln",
    floor=1e-5,
    floor_mode="add",
    offset=4.5,
    divisor=5,
)
"""EfficientAT (Schmid et al., 2023), without the masking and the fmin / fmax jitter of its training."""


def slaney_mel(
    n_mels: int, n_fft: int, sample_rate: int, fmin: float, fmax: float, norm: Norm = "slaney"
) -> Float[Tensor, "mel bin"]:
    """Triangles on Slaney's scale: linear below 1 kHz (3f/200), then 27 steps to every factor of 6.4.

    librosa's default filter bank. Frequencies in Hz; ``n_fft // 2 + 1`` bins; float32.
    """

    def mel(f: float) -> float:
        return f * 3 / 200 if f < 1000 else 15 + 27 * math.log(f / 1000, 6.4)

    points = torch.linspace(mel(fmin), mel(fmax), n_mels + 2, dtype=torch.float64)
    hz = torch.where(points < 15, points * 200 / 3, 1000 * 6.4 ** ((points - 15) / 27))
    return _triangles(hz, _bins(n_fft, sample_rate), norm)


def htk_mel(
    n_mels: int, n_fft: int, sample_rate: int, fmin: float, fmax: float, norm: Norm = "none"
) -> Float[Tensor, "mel bin"]:
    """Triangles that are straight in Hz, their corners equally spaced on 2595 log10(1 + f / 700) (the HTK book)."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (fmin, fmax))
    points = torch.linspace(low, high, n_mels + 2, dtype=torch.float64)
    return _triangles(700 * (10 ** (points / 2595) - 1), _bins(n_fft, sample_rate), norm)


def kaldi_mel(n_mels: int, n_fft: int, sample_rate: int, fmin: float, fmax: float) -> Float[Tensor, "mel bin"]:
    """Triangles that are straight in mel, on 1127 ln(1 + f / 700); the bin at half the rate is left out (Kaldi)."""
    low, high = (1127 * math.log1p(f / 700) for f in (fmin, fmax))
    width = (high - low) / (n_mels + 1)
    centres = low + width * torch.arange(1, n_mels + 1, dtype=torch.float64)
    bins = 1127 * torch.log1p(_bins(n_fft, sample_rate) / 700)
    filters = (1 - (bins - centres[:, None]).abs() / width).clamp(min=0)
    filters[:, -1] = 0
    return filters.float()


def _bins(n_fft: int, sample_rate: int) -> Float[Tensor, " bin"]:
    """Frequencies of the Fourier transform's bins, in Hz."""
    return torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft


def _triangles(hz: Float[Tensor, " points"], bins: Float[Tensor, " bin"], norm: Norm) -> Float[Tensor, "mel bin"]:
    """One triangle over every three neighbouring corners, straight in Hz."""
    left, centre, right = hz[:-2, None], hz[1:-1, None], hz[2:, None]
    rise, fall = (bins - left) / (centre - left), (right - bins) / (right - centre)
    filters = torch.minimum(rise, fall).clamp(min=0)
    return (filters * 2 / (right - left) if norm == "slaney" else filters).float()


def mel_filters(cfg: LogMelConfig) -> Float[Tensor, "mel bin"]:
    """The filter bank that a configuration asks for."""
    where = (cfg.n_mels, cfg.n_fft, cfg.sample_rate, cfg.fmin, cfg.fmax)
    if cfg.scale == "kaldi":
        return kaldi_mel(*where)
    return slaney_mel(*where, cfg.norm) if cfg.scale == "slaney" else htk_mel(*where, cfg.norm)


class LogMel(nn.Module):
    """A log-mel front end. Window and filter bank follow the module's device and stay out of its state dict."""

    window: Tensor
    filters: Tensor

    def __init__(self, cfg: LogMelConfig):
        super().__init__()
        self.cfg = cfg
        window = torch.hann_window(cfg.win_length, periodic=cfg.window == "hann")
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", mel_filters(cfg).T.contiguous(), persistent=False)

    def forward(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b mel t"]:
        """Log-mel of equally long clips in [-1, 1]: t = n // hop + 1, with one n less under pre-emphasis.

        Any length will do: a clip too short to be mirrored at its ends is zero-padded to ``n_fft // 2 + 1`` samples.
        Computed in float32 whatever the mixed precision, as half floats have no room for a power spectrum.
        """
        if x.device.type != "cpu" or torch.compiler.is_compiling():  # a graph for any batch has no such loop in it
            return self._some(x)
        few = max(1, IN_CACHE // x.shape[1])
        return torch.cat([self._some(clips) for clips in x.split(few)]) if len(x) > few else self._some(x)

    def _some(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b mel t"]:
        with torch.autocast(x.device.type, enabled=False):
            power = _power(x.float(), self.window, self.cfg)
            # (b t bin) lies contiguous behind torch.stft, so that this is one matrix product without a copy
            mel = (power.transpose(1, 2) @ self.filters).transpose(1, 2)
            return (_log(mel, self.cfg) + self.cfg.offset) / self.cfg.divisor


def _power(x: Float[Tensor, "b n"], window: Float[Tensor, " w"], cfg: LogMelConfig) -> Float[Tensor, "b bin t"]:
    """|STFT|^2, frames centred on multiples of the hop."""
    least = cfg.n_fft // 2 + 1 + (cfg.preemphasis != 0)
    if x.shape[1] < least:
        x = nn.functional.pad(x, (0, least - x.shape[1]))
    if cfg.preemphasis:
        x = x[:, 1:] - cfg.preemphasis * x[:, :-1]
    spectrum = torch.stft(
        x, cfg.n_fft, cfg.hop, cfg.win_length, window, center=True, pad_mode=cfg.pad_mode, return_complex=True
    )
    return spectrum.real.square() + spectrum.imag.square()  # abs() is slower, and its root has no gradient at 0


def _log(x: Float[Tensor, "..."], cfg: LogMelConfig) -> Float[Tensor, "..."]:
    x = x.clamp(min=cfg.floor) if cfg.floor_mode == "clamp" else x + cfg.floor
    return 10 * torch.log10(x) if cfg.log == "db" else torch.log(x)
