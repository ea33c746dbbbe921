"""EfficientAT: MobileNetV3-Large on a log-mel picture, trained on AudioSet by distillation from transformers.

Schmid, Koutini, Widmer: Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation (2023). The
modules are laid out so that the published state dicts (mn04_as ... mn40_as) load strictly. Layer table: Howard et
al., Searching for MobileNetV3 (2019), table 1. The masking and the fmin / fmax jitter of the published training are
left out: augmentation is `data/augment.py`, and two passes over a clip must agree.
"""

from __future__ import annotations

import csv
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, model_validator
from torch import Tensor, nn

from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.ops.audio import EFFICIENTAT, LogMel
from polymnia.types import AudioSpec, UserError

CLASSES = 527
LEAST = EFFICIENTAT.sample_rate // 10  # samples; a mel picture of ten frames passes the five halvings
PUBLISHED = (0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0)  # widths
RELEASES = "https://github.com/fschmid56/EfficientAT/releases/tag/v0.0.1"


class Config(TowerConfig):
    """``checkpoint``: a published state dict (mn04_as_mAP_432.pt is ``width`` 0.4, mn10_as 1.0); random without one.

    ``seconds``: training crop. ``max_seconds``: whole clips up to this length in evaluation.
    """

    checkpoint: Path | None = None
    width: PositiveFloat = 0.4
    seconds: PositiveFloat = 1.0
    max_seconds: PositiveFloat = 30.0

    @model_validator(mode="after")
    def _crop_fits(self) -> Config:
        if self.seconds > self.max_seconds:
            raise ValueError(f"seconds {self.seconds} is longer than max_seconds {self.max_seconds}")
        return self


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

    def forward(self, x: Float[Tensor, "b n"], prompt: Tensor | None = None) -> Float[Tensor, "b o"]:
        """Features of clips at 32 kHz in [-1, 1]; those below 0.1 s are zero-padded to it."""
        self.no_prompt(prompt)
        if x.shape[1] < LEAST:
            x = nn.functional.pad(x, (0, LEAST - x.shape[1]))
        first, *blocks = self.features
        # channels last is up to 1.5 times as fast on a CPU; said here, as weights of 1 x 1 or 1 channel cannot say it
        maps = first(self.logmel(x)[:, None]).contiguous(memory_format=torch.channels_last)
        for block in blocks:
            maps = block(maps)
        return maps.mean((2, 3))

    def classify(self, h: Float[Tensor, "b o"]) -> Float[Tensor, "b c"]:
        """AudioSet logits (before the sigmoid) of features, in the order of ``class_names``."""
        return self.classifier[2:](h)  # behind its pooling, which forward has done


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


def load(tower: Tower, path: Path, width: float) -> None:
    """Load a published state dict strictly. Raises UserError for a file that is missing, damaged or another's."""
    state, own = read(path), tower.state_dict()
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


def read(path: Path) -> dict[str, Tensor]:
    """A dictionary of tensors saved by torch, without executing anything. Raises UserError."""
    if not path.is_file():
        raise UserError(f"checkpoint not found: {path}. Get mn04_as_mAP_432.pt (width 0.4) from {RELEASES}")
    if not zipfile.is_zipfile(path):  # the end of a zip file is its directory, so that this finds truncation
        raise UserError(f"{path} is truncated or was not saved by torch; get it again from {RELEASES}")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds Python objects and is refused: loading them could run any code") from error
    except Exception as error:  # damaged bytes raise anything from RuntimeError to UnicodeDecodeError
        raise UserError(f"{path} is damaged ({type(error).__name__}); get it again from {RELEASES}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds a {type(state).__name__}, not a state dict of tensors")
    return state


def class_names(path: Path) -> tuple[str, ...]:
    """The column display_name of AudioSet's label file; empty if there is none. Raises UserError for another file."""
    if not path.is_file():
        return ()
    with path.open(newline="", encoding="utf-8") as file:
        names = tuple(row.get("display_name") or "" for row in csv.DictReader(file))
    if len(names) != CLASSES or not all(names):
        raise UserError(f"{path} must have {CLASSES} rows with a display_name; it has {sum(map(bool, names))}")
    return names
