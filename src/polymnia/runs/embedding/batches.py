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
    """Gathers media by modality and length, and encodes them together; which ones depends on nothing but their order
    since the last ``flush``.

    ``add(modality, medium, done)``: ``done`` is called with the vector, now or at the latest by ``flush``.
    """

    def __init__(self, encoder: Encoder, batch: int = BATCH, waiting: int = WAITING):
        self.encoder, self.batch, self.waiting = encoder, batch, waiting
        self._held: dict[tuple[Modality, int], list[tuple[Any, Done]]] = {}
        self._bytes = 0
        self._texts: dict[str, _Text] = {}  # captions of a data set are often the same
        audio = encoder.model.specs.get("audio")
        self._samples = SECONDS * getattr(audio, "sample_rate", 0)

    def add(self, modality: Modality, medium: Any, done: Done) -> None:
        """Take a clip (padded to the tower's least length), a picture, a string, or frames of a stretch of a video."""
        if isinstance(medium, VideoFile):
            done(self.encoder.encode_image([medium])[0])
        elif isinstance(medium, np.ndarray) and medium.ndim == 4:
            done(self.encoder.encode_frames(medium))
        elif isinstance(medium, str):
            known = self._texts.get(medium)
            if known is None:
                known = self._texts[medium] = _Text()
                # texts of like length together: what is padded is computed, too
                self._hold((modality, len(medium).bit_length()), medium, known.told)
            known.tell(done)
        else:
            self._hold((modality, len(medium) if modality == "audio" else 0), medium, done)

    def flush(self) -> None:
        """Encode everything that waits."""
        for group in list(self._held):
            self._encode(group)
        self._texts.clear()

    def _hold(self, where: tuple[Modality, int], medium: Any, done: Done) -> None:
        group = self._held.setdefault(where, [])
        group.append((medium, done))
        self._bytes += _bytes(medium)
        if len(group) >= self._room(*where):
            self._encode(where)
        while self._bytes > self.waiting:
            self._encode(max(self._held, key=lambda k: sum(_bytes(m) for m, _ in self._held[k])))

    def _room(self, modality: Modality, size: int) -> int:
        return max(1, min(self.batch, int(self._samples // size))) if modality == "audio" else self.batch

    def _encode(self, which: tuple[Modality, int]) -> None:
        group = self._held.pop(which)
        self._bytes -= sum(_bytes(medium) for medium, _ in group)
        vectors = self.encoder.encode_batch(which[0], [medium for medium, _ in group])
        for vector, (_, done) in zip(vectors, group, strict=True):
            done(vector)


class _Text:
    """Who waits for the vector of a text, or the vector."""

    def __init__(self) -> None:
        self._vector: Float32[np.ndarray, " d"] | None = None
        self._waiting: list[Done] = []

    def tell(self, done: Done) -> None:
        """Now, or as soon as it is there."""
        if self._vector is None:
            self._waiting.append(done)
        else:
            done(self._vector)

    def told(self, vector: Float32[np.ndarray, " d"]) -> None:
        self._vector = vector
        for done in self._waiting:
            done(vector)
        self._waiting.clear()


def _bytes(medium: Any) -> int:
    return medium.nbytes if isinstance(medium, np.ndarray) else len(medium)
