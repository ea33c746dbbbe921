"""Media in, unit vectors out: what an encoder does, wherever its weights came from. No training code is imported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image

from polymnia.continual.chain import Chain
from polymnia.data.video import averaged
from polymnia.embed.cache import signature
from polymnia.embed.frames import mean_over_frames
from polymnia.models.model import Model
from polymnia.runs.intake import clip, picture, pixels, several
from polymnia.types import AudioFile, AudioSpec, ImageFile, ImageSpec, Known, Modality, UserError, VideoFile

BATCH = 32
DECODED = 128  # media held in memory at a time
Vectors = Float32[np.ndarray, "n d"]


class MediaEncoder:
    """A model, and the method that prompts its towers, behind three functions from media to unit vectors.

    ``dim`` is the size of a vector; ``task`` counts the tasks learned.
    """

    def __init__(self, model: Model, method: Chain, task: int, device: str):
        self.model, self.method, self.task, self.device, self.dim = model, method, task, device, model.dim
        self.model.eval(), self.method.eval()

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
        mean = features.double().mean(0, keepdim=True).float().to(self.device)
        return self.model.project("image", mean).float().cpu().numpy()[0]

    @torch.no_grad()
    def _encode_videos(self, videos: list[VideoFile], spec: ImageSpec) -> Vectors:
        features = mean_over_frames(lambda frames: self._features("image", frames).float().cpu(), videos, spec, BATCH)
        return self.model.project("image", features.to(self.device)).float().cpu().numpy()

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
        x = self.model.tower(modality).prepare(raw).to(self.device)
        return self.method.features(self.model, modality, x, Known())


def sign(model: Model, method: Chain) -> str:
    """A name for what encodes: of weights, settings, and what a method adds to them."""
    whole = signature(model) + (signature(method) if method.prompting else "")
    return hashlib.blake2b(whole.encode(), digest_size=12).hexdigest()
