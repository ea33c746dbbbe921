"""Projection heads g: tower features -> the joint space."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import nn

from polymnia.config import Frozen
from polymnia.types import UserError


class HeadConfig(Frozen):
    """``identity`` (the tower speaks the joint space), ``linear``, or ``mlp``: in -> hidden -> dim with ReLU."""

    kind: Literal["identity", "linear", "mlp"] = "identity"
    init: Literal["copy", "fresh"] = "copy"  # a new task's head: the last task's as it is, or drawn anew
    hidden: PositiveInt = 512
    dropout: float = 0.0


def build_head(cfg: HeadConfig, in_dim: int, dim: int, generator: torch.Generator) -> nn.Module:
    """A head from ``in_dim`` features to ``dim``. Raises UserError for an identity between different sizes."""
    if cfg.kind == "identity":
        if in_dim != dim:
            raise UserError(f"an identity head needs features of the joint size {dim}, not {in_dim}; use kind: mlp")
        return nn.Identity()
    if cfg.kind == "linear":
        head = nn.Sequential(nn.Linear(in_dim, dim))
    else:
        layers = [nn.Linear(in_dim, cfg.hidden), nn.ReLU(), nn.Dropout(cfg.dropout), nn.Linear(cfg.hidden, dim)]
        head = nn.Sequential(*layers)
    reset(head, generator)
    return head


def reset(module: nn.Module, generator: torch.Generator) -> None:
    """Draw new weights for every linear layer from its own generator, so that no other random stream moves."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for parameter in layer.parameters(recurse=False):  # weight, then bias
                # Drawn beside the generator and copied: the layer may lie on a device that has none.
                drawn = torch.empty_like(parameter, device=generator.device).uniform_(
                    -bound, bound, generator=generator
                )
                parameter.data.copy_(drawn)
