"""MobileNetV1 and V2 as PANNs has them: a stride is an average pool behind the convolution, before its batch norm.

Howard et al., MobileNets (2017); Sandler et al., MobileNetV2 (2018); Kong et al., PANNs (2020).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from polymnia.models.panns.blocks import conv
from polymnia.models.panns.network import Network

V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Output channels and stride of each block behind the first convolution."""

V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 2), (6, 160, 3, 1), (6, 320, 1, 1))
"""Expansion, output channels, number of blocks, stride of the first (96 and 160 have swapped strides in PANNs)."""


def pooled_conv(inputs: int, outputs: int, stride: int, act: type[nn.Module], groups: int = 1) -> list[nn.Module]:
    """3 x 3 convolution, average pool, batch norm, activation."""
    return [conv(inputs, outputs, 3, groups), nn.AvgPool2d(stride), nn.BatchNorm2d(outputs), act(inplace=True)]


def pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    """1 x 1 convolution and batch norm."""
    return [conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)]


class MobileNetV1(Network):
    """Depthwise and pointwise convolutions in turn; stride 32."""

    def __init__(self) -> None:
        super().__init__(1024, 1024)
        blocks, last = [nn.Sequential(*pooled_conv(1, 32, 2, nn.ReLU))], 32
        for channels, stride in V1:
            depthwise = pooled_conv(last, last, stride, nn.ReLU, groups=last)
            blocks.append(nn.Sequential(*depthwise, *pointwise(last, channels), nn.ReLU(inplace=True)))
            last = channels
        self.features = nn.Sequential(*blocks)

    def maps(self, x: Float[Tensor, "b 1 t f"]) -> Float[Tensor, "b c t2 f2"]:
        return self.features(x)


class MobileNetV2(Network):
    """Inverted residuals; stride 32. PANNs trained it without dropout before ``fc1``."""

    drop = 0.0

    def __init__(self) -> None:
        super().__init__(1280, 1024)
        blocks: list[nn.Module] = [nn.Sequential(*pooled_conv(1, 32, 2, nn.ReLU6))]
        last = 32
        for expansion, channels, count, stride in V2:
            for i in range(count):
                blocks.append(Inverted(last, channels, 1 if i else stride, expansion))
                last = channels
        blocks.append(nn.Sequential(*pointwise(last, 1280), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*blocks)

    def maps(self, x: Float[Tensor, "b 1 t f"]) -> Float[Tensor, "b c t2 f2"]:
        return self.features(x)


class Inverted(nn.Module):
    """Widen, convolve each channel by itself, narrow; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        widen = [*pointwise(inputs, wide), nn.ReLU6(inplace=True)] if expansion > 1 else []
        depthwise = pooled_conv(wide, wide, stride, nn.ReLU6, groups=wide)
        self.conv = nn.Sequential(*widen, *depthwise, *pointwise(wide, outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "b c t f"]) -> Float[Tensor, "b o t2 f2"]:
        return x + self.conv(x) if self.residual else self.conv(x)
