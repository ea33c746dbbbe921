"""A transformer over the token map of a frozen audio encoder: what AudioSet taught a CNN, with blocks to be prompted.

The front (``efficientat``, ``panns``) gives a token for each place of its last map; a linear stem, positions and
pre-norm blocks stand on it. The front never trains: in a run its tokens are computed once for every clip. So all
clips have one length: shorter ones are zero-padded, of longer ones the middle is taken. (Clips that come to
``forward`` longer than that are the mean over windows.)
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from polymnia.config import TowerPart
from polymnia.models.blocks import Block
from polymnia.models.prompting import Prompt, run_blocks
from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.models.windows import mean_over_windows
from polymnia.types import AudioSpec, UserError, VectorSpec


class Config(TowerConfig):
    """``front``: an audio tower that has features over time; ``seconds``: the length of every clip."""

    front: TowerPart
    seconds: PositiveFloat = 1.28
    width: PositiveInt = 192
    layers: PositiveInt = 6
    heads: PositiveInt = 6
    out_dim: PositiveInt = 384


class Tower(AbstractTower):
    """Waveform -> frozen front -> tokens -> blocks -> mean -> linear. Raises UserError for a front that is no audio
    tower or gives no tokens."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.modality = "audio"
        self.front: AbstractTower = cfg.front.module.Tower(cfg.front.config)
        if not isinstance(self.front.spec, AudioSpec):
            raise UserError(f"audio_tokens: the front '{cfg.front.use}' takes no sounds")
        self.spec = AudioSpec(self.front.spec.sample_rate, cfg.seconds, cfg.seconds)
        with torch.no_grad():
            _, self.count, inside = self.front.eval().tokens(torch.zeros(1, self.spec.samples)).shape
        self.body = _Body(cfg, self.count, inside)
        self.out_dim, self.depth, self.width = cfg.out_dim, cfg.layers, cfg.width

    def forward(self, x: Float[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        """Features of clips of any length."""
        x = nn.functional.pad(x, (0, max(0, self.spec.samples - x.shape[1])))
        return mean_over_windows(lambda window: self._encode(window, prompt), x, self.spec.samples)

    def _encode(self, x: Float[Tensor, "b n"], prompt: Prompt | None) -> Float[Tensor, "b o"]:
        self.front.eval()
        with torch.no_grad():
            tokens = self.front.tokens(x)
        return self.body(tokens, prompt)

    def requires_grad_(self, requires_grad: bool = True) -> Tower:
        super().requires_grad_(requires_grad)
        self.front.requires_grad_(False)
        return self

    def split(self) -> tuple[AbstractTower, AbstractTower]:
        return _Front(self), _Rest(self)


class _Front(AbstractTower):
    """The tokens of a clip, one behind the other, as one vector."""

    def __init__(self, whole: Tower):
        super().__init__()
        self.modality, self.spec, self.settings = "audio", whole.spec, whole.settings
        self.front, self.out_dim = whole.front, whole.count * whole.body.stem.in_features

    def forward(self, x: Float[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        self.no_prompt(prompt)
        return self.front.tokens(x).flatten(1)


class _Rest(AbstractTower):
    """The blocks, on tokens that were computed before."""

    def __init__(self, whole: Tower):
        super().__init__()
        self.modality, self.settings = "audio", whole.settings
        self.body, self.out_dim, self.depth, self.width = whole.body, whole.out_dim, whole.depth, whole.width
        self.spec = VectorSpec(whole.count * whole.body.stem.in_features)

    def forward(self, x: Float[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        return self.body(x.unflatten(1, (-1, self.body.stem.in_features)), prompt)


class _Body(nn.Module):
    def __init__(self, cfg: Config, count: int, inside: int):
        super().__init__()
        # Maps of CNNs are sparse and of any scale; the norm has no weights of its own, the stem has them.
        self.scale = nn.LayerNorm(inside, elementwise_affine=False)
        self.stem = nn.Linear(inside, cfg.width)
        self.positions = nn.Parameter(torch.randn(count, cfg.width) * 0.02)
        self.blocks = nn.ModuleList(Block(cfg.width, cfg.heads) for _ in range(cfg.layers))
        self.norm, self.out = nn.LayerNorm(cfg.width), nn.Linear(cfg.width, cfg.out_dim)

    def forward(self, tokens: Float[Tensor, "b t i"], prompt: Prompt | None) -> Float[Tensor, "b o"]:
        x = self.stem(self.scale(tokens)) + self.positions
        return self.out(self.norm(run_blocks(self.blocks, x, prompt)).mean(1))
