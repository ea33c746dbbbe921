"""A small audio transformer over log-mel patches, or a small convolutional tower over the same log-mel."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from polymnia.models.blocks import Block
from polymnia.models.prompting import Prompt, run_blocks
from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.ops.audio import LogMel, LogMelConfig
from polymnia.types import AudioSpec


class Config(TowerConfig):
    arch: Literal["transformer", "conv"] = "transformer"
    sample_rate: PositiveInt = 16000
    seconds: PositiveFloat = 1.28
    n_mels: PositiveInt = 32
    hop: PositiveInt = 320
    patch: PositiveInt = 4  # frames a token
    width: PositiveInt = 64
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    out_dim: PositiveInt = 64


class Tower(AbstractTower):
    """Waveform -> log-mel -> body -> mean over time -> linear. Longer clips get interpolated positions."""

    modality = "audio"

    def __init__(self, cfg: Config):
        super().__init__()
        self.spec, self.out_dim = AudioSpec(cfg.sample_rate, cfg.seconds), cfg.out_dim
        n_fft = 2 ** (cfg.sample_rate * 32 // 1000 - 1).bit_length()  # the power of two that holds 32 ms
        mel = LogMelConfig(
            sample_rate=cfg.sample_rate,
            n_fft=n_fft,
            win_length=n_fft,
            hop=cfg.hop,
            n_mels=cfg.n_mels,
            fmin=50.0,
            fmax=cfg.sample_rate / 2,
            log="ln",
            floor=1e-4,
            floor_mode="add",
        )
        self.mel = LogMel(mel)
        self.body = _Transformer(cfg, self.spec.samples) if cfg.arch == "transformer" else _Conv(cfg)
        if cfg.arch == "transformer":
            self.depth, self.width = cfg.layers, cfg.width
        self.out = nn.Linear(self.body.out_dim, cfg.out_dim)

    def forward(self, x: Float[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        if not self.depth:
            self.no_prompt(prompt)
        return self.out(self.body(self._picture(x), prompt))

    def frames(self, x: Float[Tensor, "b n"]) -> tuple[Float[Tensor, "b t o"], Float[Tensor, " t"]]:
        """Each token, or each column of the last map, before the mean over time; its centre in seconds."""
        rows = self.body.columns(self._picture(x))
        steps = torch.arange(rows.shape[1], device=x.device) * self.body.stride + self.body.first
        return self.out(rows), steps * self.mel.cfg.hop / self.mel.cfg.sample_rate

    def _picture(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b m t"]:
        return (self.mel(x) + 4.0) / 4.0  # about zero mean and unit variance for speech and music at full scale


class _Transformer(nn.Module):
    def __init__(self, cfg: Config, samples: int):
        super().__init__()
        self.patch = cfg.patch
        self.stride, self.first = cfg.patch, (cfg.patch - 1) / 2  # of tokens, in frames of the log-mel
        self.stem = nn.Linear(cfg.n_mels * cfg.patch, cfg.width)
        self.positions = nn.Parameter(torch.randn(max(1, samples // cfg.hop // cfg.patch), cfg.width) * 0.02)
        self.blocks = nn.ModuleList(Block(cfg.width, cfg.heads) for _ in range(cfg.layers))
        self.norm, self.out_dim = nn.LayerNorm(cfg.width), cfg.width

    def forward(self, mel: Float[Tensor, "b m t"], prompt: Prompt | None) -> Float[Tensor, "b w"]:
        return self.columns(mel, prompt).mean(1)

    def columns(self, mel: Float[Tensor, "b m t"], prompt: Prompt | None = None) -> Float[Tensor, "b k w"]:
        count = max(1, mel.shape[2] // self.patch)
        mel = F.pad(mel, (0, max(0, self.patch - mel.shape[2])))[:, :, : count * self.patch]
        tokens = self.stem(mel.unflatten(2, (count, self.patch)).transpose(1, 2).flatten(2))
        positions = self.positions
        if count != len(positions):
            positions = F.interpolate(positions.T[None], size=count, mode="linear")[0].T
        return self.norm(run_blocks(self.blocks, tokens + positions, prompt))


class _Conv(nn.Module):
    """Strided 3x3 convolutions with batch norm, averaged over time, frequency kept."""

    def __init__(self, cfg: Config):
        super().__init__()
        layers: list[nn.Module] = []
        inside = 1
        for i in range(cfg.layers):
            outside = cfg.width // 2 * 2**i
            layers += [nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
            inside = outside
        self.layers = nn.Sequential(*layers)
        self.out_dim = inside * 2
        self.stride, self.first = 2**cfg.layers, 0.0  # of columns, in frames of the log-mel

    def forward(self, mel: Float[Tensor, "b m t"], prompt: Prompt | None) -> Float[Tensor, "b o"]:
        maps = self.layers(mel.unsqueeze(1)).mean(3)
        return torch.cat([maps.mean(2), maps.amax(2)], dim=1)

    def columns(self, mel: Float[Tensor, "b m t"]) -> Float[Tensor, "b k o"]:
        maps = self.layers(mel.unsqueeze(1))
        return torch.cat([maps.mean(2), maps.amax(2)], dim=1).transpose(1, 2)
