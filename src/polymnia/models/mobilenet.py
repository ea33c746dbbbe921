"""MobileNetV3-Large as a trunk for one-channel pictures.

Howard et al., Searching for MobileNetV3 (2019), table 1. Modules are laid out, and named, as in the published
EfficientAT checkpoints (see ``towers/efficientat.py``).
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


class Row(NamedTuple):
    """A block of the layer table, channels at width 1."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    act: type[nn.Module]
    stride: int


TABLE = (
    Row(3, 16, 16, False, nn.ReLU, 1),
    Row(3, 64, 24, False, nn.ReLU, 2),
    Row(3, 72, 24, False, nn.ReLU, 1),
    Row(5, 72, 40, True, nn.ReLU, 2),
    Row(5, 120, 40, True, nn.ReLU, 1),
    Row(5, 120, 40, True, nn.ReLU, 1),
    Row(3, 240, 80, False, nn.Hardswish, 2),
    Row(3, 200, 80, False, nn.Hardswish, 1),
    Row(3, 184, 80, False, nn.Hardswish, 1),
    Row(3, 184, 80, False, nn.Hardswish, 1),
    Row(3, 480, 112, True, nn.Hardswish, 1),
    Row(3, 672, 112, True, nn.Hardswish, 1),
    Row(5, 672, 160, True, nn.Hardswish, 2),
    Row(5, 960, 160, True, nn.Hardswish, 1),
    Row(5, 960, 160, True, nn.Hardswish, 1),
)


def channels(wanted: float) -> int:
    """The multiple of 8 nearest to a number of channels, but never below 8 or 90 % of it (MobileNet's rule)."""
    near = max(8, int(wanted + 4) // 8 * 8)
    return near if near >= 0.9 * wanted else near + 8


def trunk(width: float) -> nn.Sequential:
    """The convolutions: (b 1 mel t) to (b o mel/32 t/32)."""
    last = channels(16 * width)
    layers: list[nn.Module] = [conv(1, last, 3, 2, nn.Hardswish)]
    for row in TABLE:
        layers.append(Block(last, channels(row.expanded * width), channels(row.out * width), row))
        last = channels(row.out * width)
    return nn.Sequential(*layers, conv(last, 6 * last, 1, 1, nn.Hardswish))


def conv(
    inputs: int, outputs: int, kernel: int, stride: int, act: type[nn.Module] | None, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    ]
    return nn.Sequential(*layers, *([] if act is None else [act(inplace=True)]))


class Block(nn.Module):
    """Inverted residual: widen, convolve each channel by itself, weigh the channels, narrow."""

    def __init__(self, inputs: int, expanded: int, outputs: int, row: Row):
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(conv(inputs, expanded, 1, 1, row.act))
        layers.append(conv(expanded, expanded, row.kernel, row.stride, row.act, groups=expanded))
        if row.squeeze:
            layers.append(Squeeze(expanded))
        layers.append(conv(expanded, outputs, 1, 1, None))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "b c f t"]) -> Float[Tensor, "b o f2 t2"]:
        return x + self.block(x) if self.residual else self.block(x)


class Squeeze(nn.Module):
    """Squeeze-and-excitation on channels (Hu et al., 2018); the list of one is the published layout."""

    def __init__(self, width: int):
        super().__init__()
        inner = channels(width / 4)
        self.conc_se_layers = nn.ModuleList(
            [nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})]
        )

    def forward(self, x: Float[Tensor, "b c f t"]) -> Float[Tensor, "b c f t"]:
        layer = self.conc_se_layers[0]
        weight = layer["fc2"](layer["fc1"](x.mean((2, 3))).relu()).sigmoid()
        return x * weight[:, :, None, None]


def initialise(module: nn.Module) -> None:
    """The published start of a network without a checkpoint."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
