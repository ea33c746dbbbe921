"""PANNs: convolutional networks for log-mel pictures, trained on AudioSet.

Kong, Cao, Iqbal, Wang, Wang, Plumbley: PANNs: Large-scale pretrained audio neural networks for audio pattern
recognition (TASLP 2020). Published checkpoints load strictly, with or without their front-end constants.

Do not give it Cnn14_DecisionLevelMax: of Cnn14's layout, it loads without a word, but its ``fc1`` was trained on
single frames and would be quietly worse. Nor can the sample rate of a file without front-end constants be checked.

The classifier's weights require a gradient, and get one only through ``classify``: contrastive training leaves them as
they were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from polymnia.models.audioset import CLASSES, class_names
from polymnia.models.panns.archs import Arch, build
from polymnia.models.panns.checkpoint import load
from polymnia.models.panns.front import FRONTS
from polymnia.models.prompting import Prompt
from polymnia.models.tower import AbstractTower, WholeClipsConfig
from polymnia.ops.audio import LogMel
from polymnia.ops.specaugment import mixup, specaugment
from polymnia.types import AudioSpec


class Config(WholeClipsConfig):
    """``checkpoint``: a published file of ``arch``; random weights without one. ``rate``: Hz, of the published front
    ends. ``specaug``: SpecAugment in training.

    ``seconds``: training crop. ``max_seconds``: whole clips up to this length in evaluation, padded only below 0.31 s.
    """

    arch: Arch = "resnet38"
    checkpoint: Path | None = None
    rate: Literal[32000, 16000, 8000] = 32000
    specaug: bool = True
    seconds: PositiveFloat = 10.0


class Tower(AbstractTower):
    """Features: the layer before the classifier (2048, 1024 or 512), none below 0. Classes: 527 AudioSet logits."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.modality = "audio"
        self.front = FRONTS[cfg.rate]
        self.specaug = cfg.specaug
        self.logmel = LogMel(self.front)
        self.net = build(cfg.arch)
        self.out_dim = self.net.fc1.out_features
        least = (self.net.stride - 1) * self.front.hop / cfg.rate  # one coarse frame; the mean sees any more padding
        self.spec = AudioSpec(cfg.rate, cfg.seconds, cfg.max_seconds, least)
        self.class_names = tuple(f"class {i}" for i in range(CLASSES))
        if cfg.checkpoint is not None:
            load(self.net, cfg.checkpoint, cfg.arch, cfg.rate)
            self.class_names = class_names(cfg.checkpoint.parent / "class_labels_indices.csv") or self.class_names

    def forward(self, x: Float[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        """Features of clips in [-1, 1], half of them dropped in training. Clips below 0.31 s are zero-padded."""
        self.no_prompt(prompt)
        return F.dropout(self.hidden(x), 0.5, self.training)

    def hidden(self, x: Float[Tensor, "b n"], mix: Float[Tensor, " b"] | None = None) -> Float[Tensor, "h o"]:
        """Features before that dropout: what the classifier reads in PANNs' own, supervised training.

        With ``mix`` (see ``mixup_weights``) pairs of consecutive clips are mixed, and half as many rows come out.
        """
        mel = self._standardised(x)
        if self.training and self.specaug:
            mel = specaugment(mel)
        if mix is not None:
            mel = mixup(mel, mix)
        return self.net.pooled(self.net.coarse(mel))

    def classify(self, h: Float[Tensor, "b o"]) -> Float[Tensor, "b c"]:
        """AudioSet logits (before the sigmoid) of features, in the order of ``class_names``."""
        return self.net.fc_audioset(h)

    def frames(self, x: Float[Tensor, "b n"]) -> tuple[Float[Tensor, "b t o"], Float[Tensor, " t"]]:
        """Features of every 320 ms (Cnn10 and Cnn6: 160 ms), and their centres in seconds; the last 310 ms may lack.

        Frame j sees mel frames 32 j to 32 j + 31, which lie 10 ms apart, and its neighbours' through local pooling.
        """
        features, stride = self.net.local(self.net.coarse(self._standardised(x))), self.net.stride
        centres = stride * torch.arange(features.shape[1], device=x.device) + (stride - 1) / 2
        return features, centres * (self.front.hop / self.front.sample_rate)

    def _standardised(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b mel t"]:
        if x.shape[1] < self.spec.least:
            x = F.pad(x, (0, self.spec.least - x.shape[1]))
        return self.net.bn0(self.logmel(x))
