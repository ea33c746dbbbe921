"""The networks by the name that a recipe gives them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from polymnia.models.panns.blocks import BasicBlock, Bottleneck, ConvBlock, WideBlock, initialise
from polymnia.models.panns.convolutional import Cnn, ResNet
from polymnia.models.panns.mobile import MobileNetV1, MobileNetV2
from polymnia.models.panns.network import Network

Arch = Literal["resnet38", "resnet22", "resnet54", "cnn14", "cnn10", "cnn6", "mobilenetv1", "mobilenetv2"]

ARCHS: dict[str, Callable[[], Network]] = {
    "resnet38": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet22": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet54": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "cnn14": partial(Cnn, ConvBlock, 6),
    "cnn10": partial(Cnn, ConvBlock, 4),
    "cnn6": partial(Cnn, WideBlock, 4),
    "mobilenetv1": MobileNetV1,
    "mobilenetv2": MobileNetV2,
}


def build(arch: Arch) -> Network:
    """The network with random weights, drawn as published."""
    return ARCHS[arch]().apply(initialise)
