"""The media of all items of a run, opened once: decoded audio and pictures, captions, and cached vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from polymnia.data.augment import AugmentConfig, crop_start, gain
from polymnia.data.store import AudioStore, ImageStore, open_audio_store, open_image_store
from polymnia.types import AudioFile, AudioSpec, Captions, ImageFile, ImageSpec, Item, Modality, Spec, UserError

Progress = Callable[[int, int], None]


@dataclass
class Vectors:
    """Features that a frozen tower gave: row numbers by item id (one a caption for texts)."""

    rows: Mapping[str, tuple[int, ...]]
    values: np.ndarray


@dataclass
class Collection:
    """``failed``: why an item cannot be used, by id."""

    specs: Mapping[Modality, Spec]
    audio: AudioStore | None = None
    images: ImageStore | None = None
    vectors: dict[Modality, Vectors] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _audio_at: dict[str, int] = field(default_factory=dict)
    _image_at: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        items: Sequence[Item],
        specs: Mapping[Modality, Spec],
        folder: Path,
        progress: Progress | None = None,
    ) -> Collection:
        """Decode what is not decoded yet into ``folder``. Broken media are listed in ``failed``, never raised."""
        new = cls(specs)
        unique = list({i.id: i for i in items}.values())
        audio, image = specs.get("audio"), specs.get("image")
        if isinstance(audio, AudioSpec):
            have = [i for i in unique if isinstance(i.sources.get("audio"), AudioFile)]
            sources = [i.sources["audio"] for i in have]
            new.audio = open_audio_store(sources, audio.sample_rate, folder / "audio", progress=progress)
            new._audio_at = {i.id: n for n, i in enumerate(have)}
            new.failed |= {have[n].id: why for n, why in new.audio.failed.items()}
        if isinstance(image, ImageSpec):
            have = [i for i in unique if isinstance(i.sources.get("image"), ImageFile)]
            sources = [i.sources["image"] for i in have]
            new.images = open_image_store(sources, image.size, image.channels, folder / "images", progress=progress)
            new._image_at = {i.id: n for n, i in enumerate(have)}
            new.failed |= {have[n].id: why for n, why in new.images.failed.items()}
        for item in unique:
            text = item.sources.get("text")
            if isinstance(text, Captions) and not (text.texts and all(t.strip() for t in text.texts)):
                new.failed[item.id] = "an empty caption"
        return new

    def use_vectors(self, modality: Modality, vectors: Vectors) -> None:
        """From now on this modality is read as cached features."""
        self.vectors[modality] = vectors

    def train_raw(self, item: Item, m: Modality, cfg: AugmentConfig, rng: np.random.Generator | None) -> Any:
        """What a training row holds of an item: a crop, caption, picture or vector; unaugmented without ``rng``."""
        if m in self.vectors:
            rows = self.vectors[m].rows[item.id]
            return self.vectors[m].values[rows[0 if rng is None else int(rng.integers(len(rows)))]]
        if m == "text":
            texts = self.captions(item)
            return texts[0 if rng is None else int(rng.integers(len(texts)))]
        if m == "image":
            return self.picture(item)
        return self._crop(item, cfg, rng)

    def captions(self, item: Item) -> tuple[str, ...]:
        source = item.sources.get("text")
        if not isinstance(source, Captions):
            raise UserError(f"item '{item.id}' has no text")
        return source.texts

    def picture(self, item: Item) -> np.ndarray:
        if self.images is None or item.id not in self._image_at:
            raise UserError(f"item '{item.id}' has no picture here")
        return self.images.read(self._image_at[item.id])

    def clip(self, item: Item) -> np.ndarray:
        """A whole clip for evaluation: zero-padded to the tower's least length, centred window of over-long ones."""
        store, at, spec = self._audio(item)
        size = store.length(at)
        most = round(spec.max_seconds * spec.sample_rate)
        wave = store.read(at, max(0, size - most) // 2, min(size, most))
        return _padded(wave, spec.samples)

    def clip_length(self, item: Item) -> int:
        """How many samples ``clip`` gives."""
        store, at, spec = self._audio(item)
        return max(spec.samples, min(store.length(at), round(spec.max_seconds * spec.sample_rate)))

    def _crop(self, item: Item, cfg: AugmentConfig, rng: np.random.Generator | None) -> np.ndarray:
        store, at, spec = self._audio(item)
        size = store.length(at)
        starts = crop_start(size, spec.samples, rng)
        if cfg.crop == "random":
            starts = starts[:1]
        windows = [store.read(at, s, min(spec.samples, size - s)) for s in dict.fromkeys(starts)]
        wave = windows[0] if len(windows) == 1 else max(windows, key=lambda w: float(np.dot(w, w)))
        if rng is not None and cfg.gain_db:
            wave = np.clip(wave * gain(rng, cfg), -1, 1)
        return _padded(wave, spec.samples)

    def _audio(self, item: Item) -> tuple[AudioStore, int, AudioSpec]:
        spec = self.specs.get("audio")
        if self.audio is None or item.id not in self._audio_at or not isinstance(spec, AudioSpec):
            raise UserError(f"item '{item.id}' has no sound here")
        return self.audio, self._audio_at[item.id], spec


def _padded(wave: np.ndarray, samples: int) -> np.ndarray:
    if len(wave) >= samples:
        return wave
    out = np.zeros(samples, dtype=np.float32)
    out[: len(wave)] = wave
    return out


def usable(items: Sequence[Item], failed: Mapping[str, str], threshold: float, what: str) -> tuple[Item, ...]:
    """The items without the broken ones. Raises UserError when more than ``threshold`` (a share) are broken."""
    kept = tuple(i for i in items if i.id not in failed)
    broken = len(items) - len(kept)
    if broken > threshold * len(items):
        shown = [f"{i.id}: {failed[i.id]}" for i in items if i.id in failed][:5]
        raise UserError(
            f"{what}: {broken} of {len(items)} items are broken, more than max_broken={threshold:.0%}. "
            f"The first: {'; '.join(shown)}. Mend the files, or raise max_broken."
        )
    return kept
