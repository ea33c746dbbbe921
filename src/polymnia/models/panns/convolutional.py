"""Cnn14, Cnn10 and Cnn6, and the ResNets of PANNs (Kong et al., 2020, tables 1 to 3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymnia.models.panns.blocks import BasicBlock, Bottleneck, ConvBlock, WideBlock
from polymnia.models.panns.network import Network


class Cnn(Network):
    """``conv_block1`` and on, the channels doubling from 64. The sixth block of Cnn14 does not pool: stride 32."""

    def __init__(self, block: type[ConvBlock] | type[WideBlock], count: int):
        last = 32 * 2**count
        super().__init__(last, last)
        self.stride = 2 ** min(count, 5)
        self.blocks = [f"conv_block{i}" for i in range(1, count + 1)]
        for i, name in enumerate(self.blocks):
            self.add_module(name, block(32 * 2**i if i else 1, 64 * 2**i, 2 if i < 5 else 1))

    def maps(self, x: Float[Tensor, "b 1 t f"]) -> Float[Tensor, "b c t2 f2"]:
        for name in self.blocks:
            x = getattr(self, name)(x)
        return x


class ResNet(Network):
    """A ConvBlock, four layers of residual blocks and a wide ConvBlock; five poolings: stride 32."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], layers: Sequence[int]):
        super().__init__(2048, 2048)
        self.conv_block1 = ConvBlock(1, 64, 2)
        last, stages = 64, OrderedDict()
        for i, count in enumerate(layers):
            channels, strides = 64 * 2**i, [2 if i else 1] + [1] * (count - 1)
            inputs = [last] + [channels * block.expansion] * (count - 1)
            stages[f"layer{i + 1}"] = nn.Sequential(
                *(block(n, channels, s) for n, s in zip(inputs, strides, strict=True))
            )
            last = channels * block.expansion
        self.resnet = nn.Sequential(stages)
        self.conv_block_after1 = ConvBlock(last, 2048, 1)

    def maps(self, x: Float[Tensor, "b 1 t f"]) -> Float[Tensor, "b c t2 f2"]:
        x = F.avg_pool2d(self.resnet(self.conv_block1(x)), 2)
        return self.conv_block_after1(F.dropout(x, 0.2, self.training))
