"""Convolutional blocks of PANNs (Kong et al., 2020). Attributes carry the names of the published state dicts."""

from __future__ import annotations

import abc

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Maps = Float[Tensor, "b c t f"]
Pooled = Float[Tensor, "b d u g"]


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size, without bias."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


class ConvBlock(nn.Module):
    """[3 x 3 convolution, batch norm, ReLU] twice, average pooling, dropout."""

    def __init__(self, inputs: int, outputs: int, pool: int):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.pool = pool

    def forward(self, x: Maps) -> Pooled:
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.relu_(self.bn2(self.conv2(x)))
        return F.dropout(F.avg_pool2d(x, self.pool) if self.pool > 1 else x, 0.2, self.training)


class WideBlock(nn.Module):
    """5 x 5 convolution, batch norm, ReLU, average pooling, dropout (Cnn6)."""

    def __init__(self, inputs: int, outputs: int, pool: int):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 5), nn.BatchNorm2d(outputs)
        self.pool = pool

    def forward(self, x: Maps) -> Pooled:
        x = F.relu_(self.bn1(self.conv1(x)))
        return F.dropout(F.avg_pool2d(x, self.pool), 0.2, self.training)


class Residual(nn.Module, abc.ABC):
    """ReLU(inner(pool(x)) + shortcut(x)). A stride of 2 is a 2 x 2 average pool in front, no strided convolution."""

    expansion: int  # output channels for each of the block's own

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride = stride
        pool: list[nn.Module] = [nn.AvgPool2d(stride)] if stride > 1 else []
        # without a pool the convolution is number 0 of the published state dicts, behind one it is number 1
        short = [*pool, conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)]
        self.downsample = nn.Sequential(*short) if stride > 1 or inputs != outputs else nn.Identity()

    @abc.abstractmethod
    def inner(self, x: Maps) -> Pooled: ...

    @property
    @abc.abstractmethod
    def last(self) -> nn.BatchNorm2d:
        """The batch norm before the sum, which starts at a gain of 0: the block starts as its shortcut."""

    def forward(self, x: Maps) -> Pooled:
        y = self.inner(F.avg_pool2d(x, self.stride) if self.stride > 1 else x)
        return F.relu_(y + self.downsample(x))


class BasicBlock(Residual):
    """Two 3 x 3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__(inputs, channels, stride)
        self.conv1, self.bn1 = conv(inputs, channels, 3), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3), nn.BatchNorm2d(channels)

    def inner(self, x: Maps) -> Pooled:
        x = F.dropout(F.relu_(self.bn1(self.conv1(x))), 0.1, self.training)
        return self.bn2(self.conv2(x))

    @property
    def last(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(Residual):
    """1 x 1, 3 x 3 and 1 x 1 convolutions; four times as many channels come out."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__(inputs, 4 * channels, stride)
        self.conv1, self.bn1 = conv(inputs, channels, 1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = conv(channels, 4 * channels, 1), nn.BatchNorm2d(4 * channels)

    def inner(self, x: Maps) -> Pooled:
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.dropout(F.relu_(self.bn2(self.conv2(x))), 0.1, self.training)
        return self.bn3(self.conv3(x))

    @property
    def last(self) -> nn.BatchNorm2d:
        return self.bn3


def initialise(module: nn.Module) -> None:
    """The published start: Xavier-uniform weights, no biases, and residual blocks that are their shortcuts."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Residual):
        nn.init.zeros_(module.last.weight)
