"""What the networks of PANNs have in common: the first batch norm, pooling over time, and the classifier behind it."""

from __future__ import annotations

import abc

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymnia.models.audioset import CLASSES

MELS = 64
STRETCH = 6400  # mel frames (64 s) that evaluation convolves at once: memory does not grow with the recording
MARGIN = 320  # mel frames on either side that a coarse frame may depend on, a multiple of every stride


class Network(nn.Module, abc.ABC):
    """Log-mel pictures to features, laid out and named as in the published state dicts, without the front end.

    ``stride``: mel frames a coarse frame. ``drop``: dropout before the first linear layer.
    """

    stride = 32
    drop = 0.5

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.bn0 = nn.BatchNorm1d(MELS)  # over the mel bands: it holds the mean and scale of the training set
        self.fc1 = nn.Linear(channels, features)
        self.fc_audioset = nn.Linear(features, CLASSES)

    @abc.abstractmethod
    def maps(self, x: Float[Tensor, "b 1 t f"]) -> Float[Tensor, "b c t2 f2"]:
        """The convolutions: t2 = t // stride."""

    def coarse(self, mel: Float[Tensor, "b mel t"]) -> Float[Tensor, "b c t2"]:
        """Maps averaged over frequency, of pictures behind ``bn0``; long ones stretch by stretch in evaluation."""
        x, frames = mel.mT[:, None], mel.shape[2]
        if self.training or frames <= STRETCH + MARGIN:
            return self.maps(x).mean(3)
        parts = []
        for start in range(0, frames // self.stride * self.stride, STRETCH):
            begin = max(0, start - MARGIN)
            part = self.maps(x[:, :, begin : start + STRETCH + MARGIN]).mean(3)
            first = (start - begin) // self.stride
            parts.append(part[:, :, first : first + STRETCH // self.stride])
        return torch.cat(parts, 2)

    def pooled(self, coarse: Float[Tensor, "b c t"]) -> Float[Tensor, "b o"]:
        """Features of whole clips: the maximum plus the mean over time, through ``fc1`` and ReLU."""
        return self._head(coarse.max(2).values + coarse.mean(2))

    def local(self, coarse: Float[Tensor, "b c t"]) -> Float[Tensor, "b t o"]:
        """Features over time: as ``pooled``, of each coarse frame with its neighbours, as far as it has any."""
        most = F.max_pool1d(coarse, 3, 1, 1)
        return self._head((most + F.avg_pool1d(coarse, 3, 1, 1, count_include_pad=False)).mT)

    def _head(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b o"]:
        return F.relu(self.fc1(F.dropout(x, self.drop, self.training)))
