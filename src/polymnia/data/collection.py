"""The media of all items of a run, opened once: decoded audio and pictures, captions, and cached vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from polymnia.data.augment import AugmentConfig, crop_start, gain
from polymnia.data.store import AudioStore, ImageStore, open_audio_store, open_image_store, open_video_store
from polymnia.data.video import averaged, middle_frame
from polymnia.types import (
    AudioFile,
    AudioSpec,
    Captions,
    ImageFile,
    ImageSpec,
    Item,
    Modality,
    Spec,
    UserError,
    VideoFile,
)

Progress = Callable[[int, int], None]


@dataclass
class Vectors:
    """Features that a frozen tower gave: row numbers by item id (one a caption for texts)."""

    rows: Mapping[str, tuple[int, ...]]
    values: np.ndarray


@dataclass
class Collection:
    """``vectors``: modalities that are read as cached features; ``queries``: what towers without prompts say of each
    item; ``failed``: why an item cannot be used, by id."""

    specs: Mapping[Modality, Spec]
    audio: AudioStore | None = None
    images: ImageStore | None = None
    vectors: dict[Modality, Vectors] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _audio_at: dict[str, int] = field(default_factory=dict)
    _image_at: dict[str, int] = field(default_factory=dict)
    queries: dict[Modality, Vectors] = field(default_factory=dict)

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
            new._open_pictures(unique, image, folder, progress)
        for item in unique:
            text = item.sources.get("text")
            if isinstance(text, Captions) and not (text.texts and all(t.strip() for t in text.texts)):
                new.failed[item.id] = "an empty caption"
        return new

    def _open_pictures(self, items: Sequence[Item], spec: ImageSpec, folder: Path, progress: Progress | None) -> None:
        seen = [i for i in items if isinstance(i.sources.get("image"), (ImageFile, VideoFile))]
        videos = [i for i in seen if averaged(i.sources["image"], spec)]
        still = [i for i in seen if not averaged(i.sources["image"], spec)]
        sources = [i.sources["image"] for i in still]
        place = folder / "images"
        self.images = open_image_store(sources, spec.size, spec.channels, place, progress=progress, fit=spec.fit)
        self._image_at = {i.id: n for n, i in enumerate(still)}
        self.failed |= {still[n].id: why for n, why in self.images.failed.items()}
        if videos:
            store = open_video_store([i.sources["image"] for i in videos], spec, folder / "videos", progress=progress)
            self.failed |= {videos[n].id: why for n, why in store.failed.items()}

    def use_vectors(self, modality: Modality, vectors: Vectors) -> None:
        """From now on this modality is read as cached features."""
        self.vectors[modality] = vectors

    def train_raw(
        self, item: Item, m: Modality, cfg: AugmentConfig, rng: np.random.Generator | None, caption: int | None = None
    ) -> tuple[Any, int]:
        """What a training row holds of an item: a crop, caption, picture or vector; unaugmented without ``rng``. And
        which of its captions, or other rows of vectors, that is.

        ``caption``: which of the item's captions; drawn if None.
        """
        if m in self.vectors:
            rows = self.vectors[m].rows[item.id]
            at = caption if m == "text" and caption is not None else _drawn(len(rows), rng)
            return self.vectors[m].values[rows[at]], at
        if m == "text":
            texts = self.captions(item)
            at = _drawn(len(texts), rng) if caption is None else caption
            return texts[at], at
        if m == "image":
            refuse_averaged([item], self.specs["image"])
            return self.picture(item), 0
        return self._crop(item, cfg, rng), 0

    def captions(self, item: Item) -> tuple[str, ...]:
        source = item.sources.get("text")
        if not isinstance(source, Captions):
            raise UserError(f"item '{item.id}' has no text")
        return source.texts

    def picture(self, item: Item) -> np.ndarray:
        """The picture of an item; of a video, its middle frame (decoded now where its frames are to be averaged)."""
        source, spec = item.sources.get("image"), self.specs.get("image")
        if averaged(source, spec):
            return middle_frame(source, spec)  # type: ignore[arg-type]
        if self.images is None or item.id not in self._image_at:
            raise UserError(f"item '{item.id}' has no picture here")
        return self.images.read(self._image_at[item.id])

    def clip(self, item: Item) -> np.ndarray:
        """A whole clip for evaluation: zero-padded to the tower's least length, centred window of over-long ones."""
        store, at, spec = self._audio(item)
        size = store.length(at)
        most = round(spec.max_seconds * spec.sample_rate)
        wave = store.read(at, max(0, size - most) // 2, min(size, most))
        return _padded(wave, spec.least)

    def clip_length(self, item: Item) -> int:
        """How many samples ``clip`` gives."""
        store, at, spec = self._audio(item)
        return max(spec.least, min(store.length(at), round(spec.max_seconds * spec.sample_rate)))

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
        return np.resize(wave, spec.samples) if cfg.fill == "tile" else _padded(wave, spec.samples)

    def _audio(self, item: Item) -> tuple[AudioStore, int, AudioSpec]:
        spec = self.specs.get("audio")
        if self.audio is None or item.id not in self._audio_at or not isinstance(spec, AudioSpec):
            raise UserError(f"item '{item.id}' has no sound here")
        return self.audio, self._audio_at[item.id], spec


def _drawn(count: int, rng: np.random.Generator | None) -> int:
    return 0 if rng is None else int(rng.integers(count))


def _padded(wave: np.ndarray, samples: int) -> np.ndarray:
    if len(wave) >= samples:
        return wave
    out = np.zeros(samples, dtype=np.float32)
    out[: len(wave)] = wave
    return out


def refuse_averaged(items: Sequence[Item], spec: Spec) -> None:
    """Raise UserError if there is an item whose pictures a tower with ``spec`` cannot learn from."""
    for item in items:
        if "image" in item.sources and averaged(item.sources["image"], spec):
            raise UserError(
                f"'{item.id}' is a video, and a tower cannot learn from the mean over its frames; give towers.image "
                "the key frozen: true (its features are then averaged), or frames: middle (one picture of each video)"
            )


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
