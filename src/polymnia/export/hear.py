"""An audio tower behind the common API of HEAR 2021: what an exported module calls.

Turian et al., HEAR: Holistic evaluation of audio representations (2022). Embeddings are the tower's features, before
any projection. All that is here works on the device of the sound, in eval mode, without gradients, and on any length
in bounded memory: at most ``AT_ONCE`` seconds of sound go through the tower at a time, or one window where that is
longer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jaxtyping import Float, Float32
from pydantic import ValidationError
from torch import Tensor, nn

from polymnia.config import Frozen, TowerPart, explain, nearest
from polymnia.export import stamps
from polymnia.models.tower import AbstractTower
from polymnia.runs.weights import read_tensors
from polymnia.types import AudioSpec, UserError

Timestamps = Literal["frames", "sliding"]
AT_ONCE = 120.0  # seconds of sound that go through the tower together
SLIDING = 1.0  # seconds of a sliding window
EXPORTED, WEIGHTS = "export.yaml", "weights.safetensors"
IN_RUN = "model.towers.audio."  # where the file of a run's encoder has the tower


class Exported(Frozen):
    """What an exported module says of itself, beside its weights. ``tower.model`` may be ``./`` inside the module."""

    run: str
    task: int
    timestamps: Timestamps
    tower: TowerPart


class HearModel(nn.Module):
    """A tower with the attributes that HEAR asks of a model.

    ``timestamps``: ``frames`` interpolates the tower's own features over time, ``sliding`` runs it on a window of one
    second around each timestamp. Raises UserError for frames of a tower that has none.
    """

    def __init__(self, tower: AbstractTower, timestamps: Timestamps):
        super().__init__()
        if timestamps == "frames" and not has_frames(tower):
            raise UserError(f"{type(tower).__module__} has no features over time: use timestamps 'sliding'")
        self.tower, self.timestamps = tower, timestamps
        self.spec = audio_spec(tower)
        self.sample_rate = self.spec.sample_rate
        self.scene_embedding_size = self.timestamp_embedding_size = tower.out_dim

    def scenes(self, audio: Float[Tensor, "n s"]) -> Float32[Tensor, "n d"]:
        """Features of whole clips; of one longer than ``max_seconds``, their mean over equal windows of it."""
        audio = self._filled(audio)
        starts, length = stamps.equal_windows(audio.shape[1], self._most)
        total = self._features(audio[:, :length])
        for start in starts[1:]:
            total += self._features(audio[:, start : start + length])
        return total / len(starts)

    def frames(self, audio: Float[Tensor, "n s"]) -> Float32[Tensor, "n t d"]:
        """The tower's features over time at the timestamps; a clip longer than ``max_seconds`` window by window."""
        rate, given = self.sample_rate, audio.shape[1]
        at = stamps.milliseconds(given, rate).to(audio.device) / 1000
        audio = self._filled(audio)
        out = audio.new_empty(len(audio), len(at), self.timestamp_embedding_size)
        at_once = max(1, round(AT_ONCE * rate) // min(self._most, audio.shape[1]))
        for rows, found in zip(audio.split(at_once), out.split(at_once), strict=True):
            for window in stamps.overlapping(audio.shape[1], self._most, self._stride(rows[:1]), len(at), rate):
                features, centres = self.tower.frames(rows[:, window.start : window.stop])
                own = slice(window.first, window.last)
                found[:, own] = stamps.interpolate(features.float(), centres + window.start / rate, at[own])
        return out

    def sliding(self, audio: Float[Tensor, "n s"]) -> Float32[Tensor, "n t d"]:
        """The tower's features of the second around each timestamp, silence before and behind the clip."""
        width = round(SLIDING * self.sample_rate)
        starts = stamps.centred(audio.shape[1], self.sample_rate, width).to(audio.device) + width
        inside = torch.arange(width, device=audio.device)
        out = audio.new_empty(len(audio), len(starts), self.timestamp_embedding_size)
        at_once = max(1, round(AT_ONCE / SLIDING))
        for clip, found in zip(audio, out, strict=True):
            padded = nn.functional.pad(clip, (width, width))
            for first in range(0, len(starts), at_once):
                windows = padded[starts[first : first + at_once, None] + inside]
                found[first : first + at_once] = self._features(windows)
        return out

    @property
    def _most(self) -> int:
        return round(self.spec.max_seconds * self.sample_rate)

    def _filled(self, audio: Float[Tensor, "n s"]) -> Float[Tensor, "n s2"]:
        """Zeros behind clips that are shorter than what the tower scores, as in the run itself."""
        return nn.functional.pad(audio, (0, max(0, self.spec.least - audio.shape[1])))

    def _features(self, x: Float[Tensor, "n s"]) -> Float32[Tensor, "n d"]:
        at_once = max(1, round(AT_ONCE * self.sample_rate) // x.shape[1])
        return torch.cat([self._forward(rows) for rows in x.split(at_once)]).float()

    def _forward(self, x: Float[Tensor, "n s"]) -> Float[Tensor, "n d"]:
        if type(self.tower).prepare is not AbstractTower.prepare:  # a front end of its own, outside of forward
            x = self.tower.prepare(list(x.cpu().numpy())).to(x.device)
        return self.tower(x)

    def _stride(self, audio: Float[Tensor, "1 s"]) -> int:
        """Samples between two frames of the tower; 1 where a clip is one window, and nothing depends on it."""
        if audio.shape[1] <= self._most:
            return 1
        centres = self.tower.frames(audio[:, : self._most])[1]
        return max(1, round(float(centres[1] - centres[0]) * self.sample_rate)) if len(centres) > 1 else 1


def has_frames(tower: AbstractTower) -> bool:
    """Whether a tower has features over time."""
    return type(tower).frames is not AbstractTower.frames


def audio_spec(tower: AbstractTower) -> AudioSpec:
    """What the tower eats. Raises UserError for one that takes no sound."""
    if not isinstance(tower.spec, AudioSpec):
        raise UserError(f"{type(tower).__module__} takes {type(tower.spec).__name__}, not sound")
    return tower.spec


@torch.no_grad()
def get_scene_embeddings(audio: Float[Tensor, "n s"], model: HearModel) -> Float32[Tensor, "n d"]:
    """One embedding a clip: the tower's features. ``audio`` is (n, samples) in [-1, 1] at ``model.sample_rate``.

    Shorter clips than the tower's least length are zero-padded; of clips longer than its ``max_seconds`` the features
    are the mean over the fewest equal windows. Raises UserError for what is no sound.
    """
    return _ready(audio, model).scenes(audio.float())


@torch.no_grad()
def get_timestamp_embeddings(
    audio: Float[Tensor, "n s"], model: HearModel
) -> tuple[Float32[Tensor, "n t d"], Float32[Tensor, "n t"]]:
    """An embedding every 50 ms, and where it is centred, in milliseconds: 0, 50, ... up to the length of the clips.

    Raises UserError for what is no sound.
    """
    model = _ready(audio, model)
    found = model.frames(audio.float()) if model.timestamps == "frames" else model.sliding(audio.float())
    at = stamps.milliseconds(audio.shape[1], model.sample_rate).to(audio.device)
    return found, at.expand(len(audio), -1).clone()


def _ready(audio: Tensor, model: HearModel) -> HearModel:
    if audio.ndim != 2 or not audio.is_floating_point() or 0 in audio.shape:
        raise UserError(f"audio must be (n, samples) of floats, not {tuple(audio.shape)} of {audio.dtype}")
    if not bool(audio.isfinite().all()):
        raise UserError("audio must be finite: it holds NaN or infinity")
    return model.to(audio.device).eval()


def load(folder: Path, model_file_path: str, options: dict[str, Any]) -> HearModel:
    """The model of an exported module that lies in ``folder``, in eval mode on the CPU.

    ``model_file_path``: other weights of the same tower, such as ``encoders/after-1.safetensors`` of the run; empty
    for the module's own. The one option is ``timestamps``. Raises UserError for another option, and for weights that
    do not fit.
    """
    exported = _read(folder / EXPORTED)
    for left_over in options.keys() - {"timestamps"}:
        raise UserError(f"unknown option '{left_over}'; {nearest(left_over, ['timestamps'])}")
    timestamps = options.get("timestamps", exported.timestamps)
    if timestamps not in ("frames", "sliding"):
        raise UserError(f"timestamps must be 'frames' or 'sliding', not {timestamps!r}")
    config = exported.tower.config
    if str(getattr(config, "model", "")).startswith("./"):
        config = config.model_copy(update={"model": str(folder / config.model)})
    with torch.random.fork_rng(devices=[]):
        tower = exported.tower.module.Tower(config)
    path = Path(model_file_path) if model_file_path else folder / WEIGHTS
    _take(tower, path)
    return HearModel(tower.requires_grad_(False), timestamps).eval()


def _read(path: Path) -> Exported:
    try:
        return Exported.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from error
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({error}): export the run again") from error


def _take(tower: AbstractTower, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"no weights at {path}: give a safetensors file of this tower, or '' for the module's own")
    state = read_tensors(path)
    if any(k.startswith("method.") for k in state):
        raise UserError(f"{path} carries prompts of a method, which a tower alone has no use for")
    if any(k.startswith("model.") for k in state):
        state = {k.removeprefix(IN_RUN): v for k, v in state.items() if k.startswith(IN_RUN)}
    own = {k: v.shape for k, v in tower.state_dict().items()}
    wrong = sorted(k for k in own.keys() | state.keys() if k not in own or k not in state or state[k].shape != own[k])
    if wrong:
        raise UserError(f"{path} does not fit this tower: {len(wrong)} of {len(own)} tensors differ, as {wrong[0]}")
    tower.load_state_dict(state)
