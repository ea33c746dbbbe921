"""The encoder that a run leaves: media in, unit vectors out, no training code around it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
import yaml
from jaxtyping import Float32
from PIL import Image
from safetensors.torch import load_file

from polymnia.data.media import decode_audio, decode_image, fit_image
from polymnia.embed.cache import signature
from polymnia.models.tower import AbstractTower
from polymnia.recipe import Recipe, validate
from polymnia.runs import assemble
from polymnia.types import AudioFile, AudioSpec, ImageFile, ImageSpec, Modality, UserError

BATCH = 32
Vectors = Float32[np.ndarray, "n d"]


class Encoder:
    """Encodes sounds, texts and pictures into one space, as the run did after ``task`` tasks.

    ``dim`` is the size of a vector; ``signature`` names this encoder: vectors of another are not comparable.
    """

    def __init__(
        self, recipe: Recipe, towers: dict[Modality, AbstractTower], state: dict[str, torch.Tensor], task: int
    ):
        self.recipe, self.task, self.dim = recipe, task, recipe.dim
        tasks = len({k.split(".")[2] for k in state if k.startswith("model.stored.")}) or 1
        self.model, self.method, _ = assemble.build_learner(recipe, towers, (), tasks)
        learned = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        # Weights of frozen towers are not in the state: they came from their own files, or from the run's stages.
        missing, unexpected = self.model.load_state_dict(learned, strict=False)
        frozen = tuple(f"towers.{m}." for m in towers if m not in self.model.learn)
        lost = [k for k in missing if not k.startswith(frozen)]
        if lost or unexpected:
            raise UserError(f"these weights do not fit the recipe: {', '.join([*lost, *unexpected][:4])}")
        if self.method.prompting:
            self.method.load_state_dict(
                {k.removeprefix("method."): v for k, v in state.items() if k.startswith("method.")}
            )
        self.model.eval(), self.method.eval()
        self.signature = signature(self.model)

    def encode_audio(self, sounds: Sequence[str | Path | np.ndarray], sample_rate: int | None = None) -> Vectors:
        """Files, or mono arrays (samples,) / (samples, channels) with their ``sample_rate``. Unit rows.

        Raises UserError for arrays without a rate, and MediaError for files that cannot be decoded.
        """
        spec = self._spec("audio", AudioSpec)
        clips = [_clip(s, sample_rate, spec) for s in _several(sounds)]
        return self._encode("audio", clips, [len(c) for c in clips])

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Strings. Unit rows."""
        found = _several(texts)
        for number, text in enumerate(found):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"text number {number} is empty or no string")
        return self._encode("text", found, [0] * len(found))

    def encode_image(self, images: Sequence[str | Path | Image.Image]) -> Vectors:
        """Files or PIL images. Unit rows."""
        spec = self._spec("image", ImageSpec)
        pixels = [
            fit_image(i, spec.size, spec.channels)
            if isinstance(i, Image.Image)
            else decode_image(ImageFile(Path(i)), spec.size, spec.channels)
            for i in _several(images)
        ]
        return self._encode("image", pixels, [0] * len(pixels))

    def _spec(self, modality: Modality, kind: type) -> Any:
        spec = self.model.tower(modality).spec
        if not isinstance(spec, kind):
            raise UserError(f"the {modality} tower of this run takes {type(spec).__name__}, not media")
        return spec

    @torch.no_grad()
    def _encode(self, modality: Modality, raw: list[Any], sizes: list[int]) -> Vectors:
        out = np.zeros((len(raw), self.dim), dtype=np.float32)
        tower = self.model.tower(modality)
        order = sorted(range(len(raw)), key=lambda i: sizes[i])
        while order:
            same = [i for i in order[:BATCH] if sizes[i] == sizes[order[0]]]
            order = order[len(same) :]
            x = tower.prepare([raw[i] for i in same]).to(self.recipe.device)
            features = self.method.features(self.model, modality, x)
            out[same] = self.model.project(modality, features).float().cpu().numpy()
        return out


def _several(values: Any) -> list[Any]:
    return [values] if isinstance(values, (str, Path, np.ndarray, Image.Image)) else list(values)


def _clip(sound: str | Path | np.ndarray, rate: int | None, spec: AudioSpec) -> Float32[np.ndarray, " n"]:
    """Mono at the tower's rate, padded to its least length, the middle of what is too long."""
    if isinstance(sound, np.ndarray):
        if rate is None:
            raise UserError("encode_audio: arrays need their sample_rate")
        wave = np.asarray(sound, dtype=np.float32)
        wave = wave.mean(axis=1) if wave.ndim == 2 else wave
        if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
            raise UserError("encode_audio: an array must hold finite samples, shaped (n,) or (n, channels)")
        wave = soxr.resample(wave, rate, spec.sample_rate, quality="HQ") if rate != spec.sample_rate else wave
    else:
        wave = decode_audio(AudioFile(Path(sound)), spec.sample_rate)
    most = round(spec.max_seconds * spec.sample_rate)
    first = max(0, len(wave) - most) // 2
    wave = wave[first : first + most]
    return np.pad(wave, (0, max(0, spec.samples - len(wave)))).astype(np.float32)


def load(folder: Path, task: int | None = None) -> Encoder:
    """The encoder of a run folder, wherever it was moved to. Raises UserError if the run or the task is not there."""
    recipe = read_recipe(folder)
    kept = sorted((folder / "encoders").glob("after-*.safetensors"), key=lambda p: int(p.stem.split("-")[1]))
    if not kept:
        raise UserError(f"{folder} has no finished task yet: run `polymnia run` on its recipe.yaml first")
    numbers = {int(p.stem.split("-")[1]): p for p in kept}
    wanted = max(numbers) if task is None else task
    if wanted not in numbers:
        raise UserError(f"{folder}: no encoder after task {wanted}; there are {', '.join(map(str, numbers))}")
    towers = assemble.build_towers(recipe)
    frozen = folder / "frozen.safetensors"
    if frozen.exists():
        assemble.load_towers(frozen, towers)
    return Encoder(recipe, towers, load_file(numbers[wanted]), wanted)


def read_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run folder."""
    path = folder / "recipe.yaml"
    if not path.exists():
        raise UserError(f"{folder} is no run folder: it has no recipe.yaml")
    return validate(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


def read_matrix(folder: Path) -> dict[str, Any]:
    """What a run folder's matrix.json holds."""
    path = folder / "matrix.json"
    if not path.exists():
        raise UserError(f"{folder} has no scores yet")
    return json.loads(path.read_text(encoding="utf-8"))
