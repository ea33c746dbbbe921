"""Stands in for a frozen tower while training: its input is what the real tower gave, computed once."""

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from polymnia.models.prompting import Prompt
from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.types import Modality, VectorSpec


class Config(TowerConfig):
    modality: Modality = "text"
    dim: PositiveInt
    frozen: bool = True


class Tower(AbstractTower):
    """Hands features of ``dim`` numbers through."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.modality, self.spec, self.out_dim = cfg.modality, VectorSpec(cfg.dim), cfg.dim

    def forward(self, x: Float[Tensor, "b o"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        self.no_prompt(prompt)
        return x
