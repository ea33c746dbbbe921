"""A small image tower: a convolutional one (default), or a vision transformer that takes prompts."""

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import PositiveInt
from torch import Tensor, nn

from polymnia.models.blocks import Block
from polymnia.models.prompting import Prompt, run_blocks
from polymnia.models.tower import AbstractTower, PictureConfig
from polymnia.types import ImageSpec, UserError


class Config(PictureConfig):
    arch: Literal["conv", "vit"] = "conv"
    size: PositiveInt = 48
    channels: PositiveInt = 3
    width: PositiveInt = 24  # of the first convolution, or of the transformer's tokens
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    patch: PositiveInt = 8
    out_dim: PositiveInt = 64


class Tower(AbstractTower):
    """uint8 pictures -> strided convolutions or patch tokens -> mean -> linear."""

    modality = "image"

    def __init__(self, cfg: Config):
        super().__init__()
        self.spec = ImageSpec(cfg.size, cfg.channels, fps=cfg.fps, frames=cfg.frames)
        self.out_dim = cfg.out_dim
        self.body = _Conv(cfg) if cfg.arch == "conv" else _ViT(cfg)
        if cfg.arch == "vit":
            self.depth, self.width = cfg.layers, cfg.width
        self.out = nn.Linear(self.body.out_dim, cfg.out_dim)

    def forward(self, x: UInt8[Tensor, "b c h w"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        if not self.depth:
            self.no_prompt(prompt)
        pixels = x.to(self.out.weight.dtype) / 127.5 - 1.0
        return self.out(self.body(pixels, prompt))


class _Conv(nn.Module):
    """``layers`` blocks of 3x3 convolution (stride 2, doubling width), group norm, GELU; flattened 3x3 averages."""

    def __init__(self, cfg: Config):
        super().__init__()
        layers: list[nn.Module] = []
        inside = cfg.channels
        for i in range(cfg.layers):
            outside = cfg.width * 2**i
            layers += [nn.Conv2d(inside, outside, 3, 2, 1), nn.GroupNorm(1, outside), nn.GELU()]
            inside = outside
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten())
        self.out_dim = 9 * inside

    def forward(self, x: Float[Tensor, "b c h w"], prompt: Prompt | None) -> Float[Tensor, "b o"]:
        return self.layers(x)


class _ViT(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        if cfg.size % cfg.patch:
            raise UserError(f"tiny_image: size {cfg.size} is no multiple of patch {cfg.patch}")
        self.stem = nn.Conv2d(cfg.channels, cfg.width, cfg.patch, cfg.patch)
        self.positions = nn.Parameter(torch.randn((cfg.size // cfg.patch) ** 2, cfg.width) * 0.02)
        self.blocks = nn.ModuleList(Block(cfg.width, cfg.heads) for _ in range(cfg.layers))
        self.norm, self.out_dim = nn.LayerNorm(cfg.width), cfg.width

    def forward(self, x: Float[Tensor, "b c h w"], prompt: Prompt | None) -> Float[Tensor, "b o"]:
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self.positions
        return self.norm(run_blocks(self.blocks, tokens, prompt)).mean(1)
