"""Projection heads g: tower features -> the joint space."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from polymnia.config import Frozen
from polymnia.types import UserError


class HeadConfig(Frozen):
    """``identity`` (the tower speaks the joint space), ``linear``, ``mlp``: in -> hidden -> dim with ReLU,
    ``residual`` (CLAP), or ``cross`` (Wav2CLIP's, for the objective's loss ``cx``).

    ``start: identity`` (for ``linear`` between equal sizes): the head changes nothing until it is trained, so that
    towers that already agree are not torn apart by it."""

    kind: Literal["identity", "linear", "mlp", "residual", "cross"] = "identity"
    start: Literal["random", "identity"] = "random"
    init: Literal["copy", "fresh"] = "copy"  # a new task's head: the last task's as it is, or drawn anew
    hidden: PositiveInt = 512
    dropout: float = Field(0.0, ge=0, lt=1)


class ResidualHead(nn.Module):
    """z = W1 x;  e = LayerNorm(z + Dropout(W2 GELU(z))), no biases (Elizalde et al., CLAP, ICASSP 2023, its code)."""

    def __init__(self, in_dim: int, dim: int, dropout: float):
        super().__init__()
        self.first, self.second = nn.Linear(in_dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "b o"]) -> Float[Tensor, "b d"]:
        z = self.first(x)
        return self.norm(z + self.dropout(self.second(nn.functional.gelu(z))))


class CrossHead(nn.Module):
    """h(a) with a = W x: the cross-projection loss needs both a and h(a) (Wu et al., Wav2CLIP, ICASSP 2022)."""

    def __init__(self, in_dim: int, dim: int, hidden: int, dropout: float):
        super().__init__()
        self.embed = nn.Linear(in_dim, dim)
        self.transform = mlp(dim, hidden, dim, dropout)

    def forward(self, x: Float[Tensor, "b o"]) -> Float[Tensor, "b d"]:
        return self.transform(self.embed(x))


def mlp(in_dim: int, hidden: int, dim: int, dropout: float) -> nn.Sequential:
    """in -> hidden -> dim with ReLU and dropout between."""
    return nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim))


def build_head(cfg: HeadConfig, in_dim: int, dim: int, generator: torch.Generator) -> nn.Module:
    """A head from ``in_dim`` features to ``dim``. Raises UserError for an identity between different sizes."""
    if cfg.kind == "identity":
        if in_dim != dim:
            raise UserError(f"an identity head needs features of the joint size {dim}, not {in_dim}; use kind: mlp")
        return nn.Identity()
    head: nn.Module
    if cfg.kind == "linear":
        head = nn.Sequential(nn.Linear(in_dim, dim))
    elif cfg.kind == "mlp":
        head = mlp(in_dim, cfg.hidden, dim, cfg.dropout)
    elif cfg.kind == "residual":
        head = ResidualHead(in_dim, dim, cfg.dropout)
    else:
        head = CrossHead(in_dim, dim, cfg.hidden, cfg.dropout)
    reset(head, generator)
    if cfg.start == "identity":
        if not isinstance(head, nn.Sequential) or cfg.kind != "linear" or in_dim != dim:
            raise UserError(f"start: identity is for linear heads of equal sizes, not {cfg.kind}, {in_dim} to {dim}")
        nn.init.eye_(head[0].weight), nn.init.zeros_(head[0].bias)
    return head


def reset(module: nn.Module, generator: torch.Generator) -> None:
    """Draw new weights for every linear layer from its own generator, so that no other random stream moves."""
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.reset_parameters()  # ones and zeros: nothing is drawn
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for parameter in layer.parameters(recurse=False):  # weight, then bias
                # Drawn beside the generator and copied: the layer may lie on a device that has none.
                drawn = torch.empty_like(parameter, device=generator.device).uniform_(
                    -bound, bound, generator=generator
                )
                parameter.data.copy_(drawn)
