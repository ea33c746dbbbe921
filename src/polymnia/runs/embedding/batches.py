"""Decoded media to unit vectors, by batches of one length, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32

from polymnia.runs.encoder import Encoder
from polymnia.types import Modality, VideoFile

BATCH = 32
SECONDS = 160.0  # of sound in a batch
WAITING = 128 << 20  # bytes that wait for others of their length
Done = Callable[[Float32[np.ndarray, " d"]], None]


class Batches:
    """Gathers media by modality and length, and encodes them together; which ones depends on nothing but their order.

    ``add(modality, medium, done)``: ``done`` is called with the vector, now or at the latest by ``flush``.
    """

    def __init__(self, encoder: Encoder, batch: int = BATCH, waiting: int = WAITING):
        self.encoder, self.batch, self.waiting = encoder, batch, waiting
        self._held: dict[tuple[Modality, int], list[tuple[Any, Done]]] = {}
        self._bytes = 0
        audio = encoder.model.specs.get("audio")
        self._samples = SECONDS * getattr(audio, "sample_rate", 0)

    def add(self, modality: Modality, medium: Any, done: Done) -> None:
        """Take a clip (padded to the tower's least length), a picture, a string, or frames of a stretch of a video."""
        if isinstance(medium, VideoFile):
            done(self.encoder.encode_image([medium])[0])
            return
        if isinstance(medium, np.ndarray) and medium.ndim == 4:
            done(self.encoder.encode_frames(medium))
            return
        # texts of like length: what is padded is computed, too
        size = len(medium) if modality == "audio" else len(medium).bit_length() if modality == "text" else 0
        group = self._held.setdefault((modality, size), [])
        group.append((medium, done))
        self._bytes += _bytes(medium)
        if len(group) >= self._room(modality, size):
            self._encode((modality, size))
        while self._bytes > self.waiting:
            self._encode(max(self._held, key=lambda k: sum(_bytes(m) for m, _ in self._held[k])))

    def flush(self) -> None:
        """Encode everything that waits."""
        for group in list(self._held):
            self._encode(group)

    def _room(self, modality: Modality, size: int) -> int:
        return max(1, min(self.batch, int(self._samples // size))) if modality == "audio" else self.batch

    def _encode(self, which: tuple[Modality, int]) -> None:
        group = self._held.pop(which)
        self._bytes -= sum(_bytes(medium) for medium, _ in group)
        vectors = self.encoder.encode_batch(which[0], [medium for medium, _ in group])
        for vector, (_, done) in zip(vectors, group, strict=True):
            done(vector)


def _bytes(medium: Any) -> int:
    return medium.nbytes if isinstance(medium, np.ndarray) else len(medium)
