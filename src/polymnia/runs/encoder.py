"""The encoder that a run leaves: media in, unit vectors out, no training code around it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float32, UInt8
from PIL import Image

from polymnia.config import Part
from polymnia.continual.chain import keeps_towers, prompts
from polymnia.data.video import averaged
from polymnia.embed.cache import signature
from polymnia.embed.frames import mean_over_frames
from polymnia.models.tower import AbstractTower
from polymnia.recipe import Recipe, validate
from polymnia.runs import assemble
from polymnia.runs.intake import clip, picture, pixels, several
from polymnia.runs.weights import load_towers, read_tensors
from polymnia.types import AudioFile, AudioSpec, ImageFile, ImageSpec, Known, Modality, UserError, VideoFile

BATCH = 32
DECODED = 128  # media held in memory at a time
Vectors = Float32[np.ndarray, "n d"]


class Encoder:
    """Encodes sounds, texts and pictures into one space, as the run did after ``task`` tasks.

    ``dim`` is the size of a vector; ``signature`` names this encoder: vectors of another are not comparable.
    """

    def __init__(
        self, recipe: Recipe, towers: dict[Modality, AbstractTower], state: dict[str, torch.Tensor], task: int
    ):
        # A method that only trains (a teacher, a memory) is no part of the encoder.
        recipe = recipe.model_copy(update={"method": tuple(filter(prompts, recipe.method))})
        self.recipe, self.task, self.dim = recipe, task, recipe.dim
        tasks = len({k.split(".")[2] for k in state if k.startswith("model.stored.")}) or len(recipe.tasks)
        pairs = tuple(dict.fromkeys(p for t in recipe.tasks for p in t.pairs))
        names = tuple(str(n) for n in range(1, tasks + 1))
        self.model, self.method, _ = assemble.build_learner(recipe, towers, pairs, names)
        # Weights of frozen towers are not in the state: they came from their own files, or from the run's stages.
        missing, unexpected = _take(self.model, state, "model.")
        still = keeps_towers(recipe.method)
        frozen = tuple(f"towers.{m}." for m in towers if still or m not in self.model.learn)
        frozen += tuple(f"towers.{m}.front." for m, t in towers.items() if t.split() is not None)
        lost = [k for k in missing if not k.startswith(frozen)]
        if self.method.prompter is not None:
            for found, total in zip(_take(self.method.prompter, state, "method."), (lost, unexpected), strict=True):
                total += found
        if lost or unexpected:
            raise UserError(f"these weights do not fit the recipe: {', '.join([*lost, *unexpected][:4])}")
        self.model.eval(), self.method.eval()
        whole = signature(self.model) + (signature(self.method) if self.method.prompting else "")
        self.signature = hashlib.blake2b(whole.encode(), digest_size=12).hexdigest()

    def encode_audio(
        self, sounds: Sequence[str | Path | AudioFile | np.ndarray], sample_rate: int | None = None
    ) -> Vectors:
        """Files, stretches of files, or arrays (samples,) / (samples, channels) with their ``sample_rate``. Unit rows.

        Raises UserError for arrays without a rate, and MediaError for files that cannot be decoded.
        """
        spec = self._spec("audio", AudioSpec)
        return self._chunks("audio", several(sounds), lambda s: clip(s, sample_rate, spec))

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Strings. Unit rows."""
        found = several(texts)
        for number, text in enumerate(found):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"text number {number} is empty or no string")
        return self._chunks("text", found, str)

    def encode_image(self, images: Sequence[str | Path | ImageFile | VideoFile | Image.Image]) -> Vectors:
        """Files, rows of an IDX container, videos, or PIL images. Unit rows.

        Of a video the frames that the tower's keys ``fps`` and ``frames`` say. Raises MediaError for what cannot be
        decoded.
        """
        spec = self._spec("image", ImageSpec)
        given = [picture(i) for i in several(images)]
        moving = [averaged(i, spec) for i in given]
        out = np.zeros((len(given), self.dim), dtype=np.float32)
        still = [i for i, m in zip(given, moving, strict=True) if not m]
        out[np.logical_not(moving)] = self._chunks("image", still, lambda i: pixels(i, spec))
        if any(moving):
            out[moving] = self._encode_videos([i for i, m in zip(given, moving, strict=True) if m], spec)
        return out

    @torch.no_grad()
    def encode_batch(self, modality: Modality, media: Sequence[Any]) -> Vectors:
        """Unit rows of media as the tower eats them, in one pass: equally long clips (``intake.padded``), pictures of
        its size, or strings. Bounding their number is the caller's business."""
        features = self._features(modality, list(media))
        return self.model.project(modality, features).float().cpu().numpy()

    @torch.no_grad()
    def encode_frames(self, frames: UInt8[np.ndarray, "n c s s"]) -> Float32[np.ndarray, " d"]:
        """The unit vector of a video, or of a stretch, from its frames: that of the mean of their features."""
        parts = [frames[first : first + BATCH] for first in range(0, len(frames), BATCH)]
        features = torch.cat([self._features("image", list(part)).float().cpu() for part in parts])
        mean = features.double().mean(0, keepdim=True).float().to(self.recipe.device)
        return self.model.project("image", mean).float().cpu().numpy()[0]

    @torch.no_grad()
    def _encode_videos(self, videos: list[VideoFile], spec: ImageSpec) -> Vectors:
        features = mean_over_frames(lambda frames: self._features("image", frames).float().cpu(), videos, spec, BATCH)
        return self.model.project("image", features.to(self.recipe.device)).float().cpu().numpy()

    def _spec(self, modality: Modality, kind: type) -> Any:
        spec = self.model.tower(modality).spec
        if not isinstance(spec, kind):
            raise UserError(f"the {modality} tower of this run takes {type(spec).__name__}, not media")
        return spec

    def _chunks(self, modality: Modality, raw: list[Any], decode: Callable[[Any], Any]) -> Vectors:
        done = [np.zeros((0, self.dim), dtype=np.float32)]
        for first in range(0, len(raw), DECODED):
            media = [decode(r) for r in raw[first : first + DECODED]]
            done.append(self._encode(modality, media, [len(x) if modality == "audio" else 0 for x in media]))
        return np.concatenate(done)

    def _encode(self, modality: Modality, raw: list[Any], sizes: list[int]) -> Vectors:
        out = np.zeros((len(raw), self.dim), dtype=np.float32)
        order = sorted(range(len(raw)), key=lambda i: sizes[i])
        while order:
            same = [i for i in order[:BATCH] if sizes[i] == sizes[order[0]]]
            order = order[len(same) :]
            out[same] = self.encode_batch(modality, [raw[i] for i in same])
        return out

    def _features(self, modality: Modality, raw: list[Any]) -> torch.Tensor:
        x = self.model.tower(modality).prepare(raw).to(self.recipe.device)
        return self.method.features(self.model, modality, x, Known())


def _take(module: torch.nn.Module, state: dict[str, torch.Tensor], prefix: str) -> tuple[list[str], list[str]]:
    """Load what stands under ``prefix``. Gives what was missing and what was too much; wrong shapes count as both."""
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    shapes = {k: v.shape for k, v in module.state_dict().items()}
    wrong = [k for k, v in own.items() if k in shapes and v.shape != shapes[k]]
    missing, unexpected = module.load_state_dict({k: v for k, v in own.items() if k not in wrong}, strict=False)
    return list(missing), [*unexpected, *wrong]


def load(folder: Path, task: int | None = None, data: Path | None = None) -> Encoder:
    """The encoder of a run folder, wherever it was moved to.

    ``data``: the folder that frozen towers read their own files from, if it is no longer the recipe's. Raises
    UserError if the run or the task is not there, or its files are damaged.
    """
    recipe = read_recipe(folder)
    kept = (folder / "encoders").glob("after-*.safetensors")
    numbers = {int(p.stem.split("-")[1]): p for p in sorted(kept, key=lambda p: int(p.stem.split("-")[1]))}
    if not numbers:
        raise UserError(f"{folder} has no finished task yet: run `polymnia run` on its recipe.yaml first")
    if task is None and recipe.tasks and max(numbers) == 0:
        raise UserError(
            f"{folder} has learned no task yet: run `polymnia run` on its recipe.yaml; "
            "or ask for task 0, before the first"
        )
    wanted = max(numbers) if task is None else task
    if wanted not in numbers:
        raise UserError(f"{folder}: no encoder after task {wanted}; there are {', '.join(map(str, numbers))}")
    frozen = folder / "frozen.safetensors"
    state = read_tensors(numbers[wanted])
    towers = assemble.build_towers(_here(recipe, data, frozen.exists()))
    if frozen.exists():
        load_towers(frozen, towers)
    return Encoder(_here(recipe, data, frozen.exists()), towers, state, wanted)


def _here(recipe: Recipe, data: Path | None, staged: bool) -> Recipe:
    """The recipe for use where we are: a device that is there, no files whose weights the run folder holds itself."""
    held = {m for s in recipe.stages for m in s.learn} if staged else set()
    if not keeps_towers(recipe.method):
        held |= {m for m, part in recipe.towers.items() if not part.config.frozen}
    towers = {m: _bare(part) if m in held else part for m, part in recipe.towers.items()}
    device = "cpu" if recipe.device.startswith("cuda") and not torch.cuda.is_available() else recipe.device
    return recipe.model_copy(update={"towers": towers, "device": device, "data": data or recipe.data})


def _bare(part: Part) -> Part:
    """A tower whose weights come from elsewhere than its own files."""
    inner: dict[str, Any] = {k: _bare(v) for k, v in part.config if isinstance(v, Part)}
    if "checkpoint" in type(part.config).model_fields:
        inner["checkpoint"] = None
    return part.model_copy(update={"config": part.config.model_copy(update=inner)}) if inner else part


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
