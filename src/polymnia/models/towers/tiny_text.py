"""A small text transformer over hashed words: no vocabulary file, any language that puts spaces between words."""

import re
import zlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from polymnia.models.blocks import Block
from polymnia.models.prompting import Prompt, run_blocks
from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.types import TextSpec

PAD, CLS, FIRST = 0, 1, 2
WORD = re.compile(r"\w+")


class Config(TowerConfig):
    width: PositiveInt = 64
    layers: PositiveInt = 2
    heads: PositiveInt = 4
    buckets: PositiveInt = 4096  # words are hashed into so many embeddings
    max_tokens: PositiveInt = 32
    out_dim: PositiveInt = 64


class Tower(AbstractTower):
    """[CLS] and words -> blocks -> mean over the tokens -> linear."""

    modality = "text"

    def __init__(self, cfg: Config):
        super().__init__()
        self.spec, self.out_dim = TextSpec(cfg.max_tokens, PAD), cfg.out_dim
        self.depth, self.width, self.buckets = cfg.layers, cfg.width, cfg.buckets
        self.words = nn.Embedding(cfg.buckets, cfg.width)
        self.positions = nn.Parameter(torch.randn(cfg.max_tokens, cfg.width) * 0.02)
        self.blocks = nn.ModuleList(Block(cfg.width, cfg.heads) for _ in range(cfg.layers))
        self.norm, self.out = nn.LayerNorm(cfg.width), nn.Linear(cfg.width, cfg.out_dim)

    def prepare(self, raw: Sequence[str]) -> Int[Tensor, "b t"]:
        """Strings to ids, padded to the longest of the batch; words beyond ``max_tokens`` are cut."""
        rows = [[CLS, *(self._bucket(w) for w in WORD.findall(s.lower()))][: self.spec.max_tokens] for s in raw]
        longest = max(map(len, rows))
        return torch.tensor([r + [PAD] * (longest - len(r)) for r in rows])

    def _bucket(self, word: str) -> int:
        return FIRST + zlib.crc32(word.encode()) % (self.buckets - FIRST)

    def forward(self, x: Int[Tensor, "b t"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        mask = x != PAD
        tokens = self.words(x) + self.positions[: x.shape[1]]
        tokens = self.norm(run_blocks(self.blocks, tokens, prompt, at=1, mask=mask))
        weight = mask.unsqueeze(-1).to(tokens.dtype)
        return self.out((tokens * weight).sum(1) / weight.sum(1))
