"""How what is long is cut for one encoder, and how the vectors of its windows become one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from polymnia.runs.encoder import Encoder
from polymnia.types import AudioSpec, Modality, Spec, TextSpec, UserError

SILENT = 30.0  # seconds of a window where no audio tower says
LEAST = 0.1  # seconds
WORDS, BYTES = 0.6, 4  # words and bytes of UTF-8 for each token that a text tower takes


@dataclass(frozen=True)
class Windows:
    """``window`` and ``hop`` of sounds and videos in seconds; of texts, at most so many ``words`` and ``bytes``."""

    window: float
    hop: float
    words: int = 0
    bytes: int = 0

    def samples(self, rate: int) -> tuple[int, int]:
        """Window and hop in samples."""
        return round(self.window * rate), max(1, round(self.hop * rate))

    def plain(self) -> dict[str, Any]:
        """As ``vectors.json`` has it."""
        return asdict(self)


def make_windows(encoder: Encoder, window: float | None = None, hop: float | None = None) -> Windows:
    """For an encoder: windows as long as its audio tower takes clips, and half of that apart, unless said.

    Raises UserError for a window that is longer than that, too short, or shorter than the hop.
    """
    specs: dict[Modality, Spec] = encoder.model.specs
    audio, text = specs.get("audio"), specs.get("text")
    most = audio.max_seconds if isinstance(audio, AudioSpec) else None
    size = window or most or SILENT
    if most is not None and size > most:
        raise UserError(f"window {size:g} s is longer than the {most:g} s that this run's audio tower takes at once")
    step = hop or size / 2
    if not LEAST <= step <= size:
        raise UserError(f"hop {step:g} s must be from {LEAST:g} s to the window's {size:g} s")
    tokens = text.max_tokens if isinstance(text, TextSpec) else 0
    return Windows(size, step, max(1, int(WORDS * tokens)) if tokens else 0, BYTES * tokens)


def pooled(windows: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, " d"]:
    """The unit vector of the whole: the mean of its windows' unit vectors, scaled to unit length."""
    mean = windows.astype(np.float64).mean(axis=0)
    length = float(np.linalg.norm(mean))
    return (mean / length if length > 0 else mean).astype(np.float32)
