"""Pre-norm transformer blocks and a patch-free encoder, shared by the tiny towers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymnia.models.prompting import Mask, Prefix


class Block(nn.Module):
    """Self-attention and an MLP, each behind a LayerNorm and a residual. ``prefix``: keys and values seen besides."""

    def __init__(self, width: int, heads: int, expansion: int = 2):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(
        self, x: Float[Tensor, "b t w"], mask: Mask = None, prefix: Prefix | None = None
    ) -> Float[Tensor, "b t w"]:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        if prefix is not None:
            k, v = (torch.cat([before.to(x.dtype), own], dim=1) for before, own in zip(prefix, (k, v), strict=True))
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None])
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))
