"""EfficientAT: MobileNetV3-Large on a log-mel picture, trained on AudioSet by distillation from transformers.

Schmid, Koutini, Widmer: Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation (2023). The
modules are laid out so that the published state dicts (mn04_as ... mn40_as) load strictly. The masking and the fmin /
fmax jitter of the published training are left out: augmentation is `data/augment.py`, and two passes over a clip must
agree.

Do not give it mn10_as_hop_5 ... hop_25 or mn10_as_mels_40 ... mels_256: of the same layout, they load without a word,
but were trained on another hop or number of mel bands than the front end here (10 ms, 128) and would be quietly worse.
Nor mn10_im_pytorch, whose classifier is random. Only their file names tell these from mn10_as.

The classifier's weights require a gradient, and get one only through ``classify``: contrastive training leaves them as
they were.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from polymnia.models.audioset import CLASSES, class_names
from polymnia.models.mobilenet import channels, initialise, trunk
from polymnia.models.prompting import Prompt
from polymnia.models.tower import AbstractTower, WholeClipsConfig
from polymnia.models.weights import read
from polymnia.ops.audio import EFFICIENTAT, LogMel
from polymnia.types import AudioSpec, UserError

HALVED = 2**5  # log-mel frames a column of the last map
LEAST = EFFICIENTAT.sample_rate // 10  # samples; a mel picture of ten frames passes the five halvings
PUBLISHED = (0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0)  # widths
ORIGIN = "mn04_as_mAP_432.pt (width 0.4) from https://github.com/fschmid56/EfficientAT/releases/tag/v0.0.1"


class Config(WholeClipsConfig):
    """``checkpoint``: a published state dict (mn04_as_mAP_432.pt is ``width`` 0.4, mn10_as 1.0); random without one.

    ``seconds``: training crop. ``max_seconds``: whole clips up to this length in evaluation.
    """

    checkpoint: Path | None = None
    width: PositiveFloat = 0.4
    seconds: PositiveFloat = 1.0


class Tower(AbstractTower):
    """Features: the average-pooled map before the classifier (384 at width 0.4). Classes: 527 AudioSet logits."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.modality = "audio"
        self.spec = AudioSpec(EFFICIENTAT.sample_rate, cfg.seconds, cfg.max_seconds)
        self.logmel = LogMel(EFFICIENTAT)
        self.features = trunk(cfg.width)
        self.out_dim = self.features[-1][0].out_channels
        hidden = channels(1280 * cfg.width)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(self.out_dim, hidden),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(hidden, CLASSES),
        )
        self.apply(initialise)
        self.class_names = tuple(f"class {i}" for i in range(CLASSES))
        if cfg.checkpoint is not None:
            load(self, cfg.checkpoint, cfg.width)
            self.class_names = class_names(cfg.checkpoint.parent / "class_labels_indices.csv") or self.class_names

    def forward(self, x: Float[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        """Features of clips at 32 kHz in [-1, 1]; those below 0.1 s are zero-padded to it."""
        self.no_prompt(prompt)
        return self._maps(x).mean((2, 3))

    def frames(self, x: Float[Tensor, "b n"]) -> tuple[Float[Tensor, "b t o"], Float[Tensor, " t"]]:
        """The map averaged over mel bands only: a row every 0.32 s. Their mean over time is what ``forward`` gives."""
        rows = self._maps(x).mean(2).transpose(1, 2)
        # every halving is a kernel of odd size with half of it as padding, so that column j looks out from frame 32 j
        centres = torch.arange(rows.shape[1], device=x.device) * (HALVED * EFFICIENTAT.hop / EFFICIENTAT.sample_rate)
        return rows, centres

    def tokens(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b t o"]:
        """The places of the last map: time by time, in each the four mel bands from low to high."""
        return self._maps(x).permute(0, 3, 2, 1).flatten(1, 2)

    def _maps(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b o f t"]:
        if x.shape[1] < LEAST:
            x = nn.functional.pad(x, (0, LEAST - x.shape[1]))
        first, *blocks = self.features
        # channels last is up to 1.5 times as fast on a CPU; said here, as weights of 1 x 1 or 1 channel cannot say it
        maps = first(self.logmel(x)[:, None]).contiguous(memory_format=torch.channels_last)
        for block in blocks:
            maps = block(maps)
        return maps

    def classify(self, h: Float[Tensor, "b o"]) -> Float[Tensor, "b c"]:
        """AudioSet logits (before the sigmoid) of features, in the order of ``class_names``."""
        return self.classifier[2:](h)  # behind its pooling, which forward has done


def load(tower: Tower, path: Path, width: float) -> None:
    """Load a published state dict strictly. Raises UserError for a file that is missing, damaged or another's."""
    state, own = read(path, ORIGIN), tower.state_dict()
    if missing := sorted(own.keys() - state.keys()):
        raise UserError(f"{path} is no EfficientAT mn checkpoint: {len(missing)} tensors lack, as {missing[0]}")
    if strange := sorted(state.keys() - own.keys()):
        raise UserError(f"{path} is no EfficientAT mn checkpoint: {len(strange)} tensors too many, as {strange[0]}")
    if wrong := [k for k in own if own[k].shape != state[k].shape]:
        found, wanted = (tuple(s[wrong[-1]].shape) for s in (state, own))
        fits = [w for w in PUBLISHED if channels(1280 * w) == state["classifier.5.weight"].shape[-1] and w != width]
        out = f"set width: {fits[0]}" if fits else f"only {CLASSES} classes and the published widths are supported"
        raise UserError(f"{path} does not fit width {width}: {wrong[-1]} is {found}, not {wanted}; {out}")
    tower.load_state_dict(state)
