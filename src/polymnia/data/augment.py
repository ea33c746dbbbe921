"""What happens to a training clip: a crop, and a change of gain. Evaluation never augments."""

from typing import Literal

import numpy as np
from pydantic import NonNegativeFloat

from polymnia.config import Frozen

LOOKS = 3  # how many random windows `loudest` compares


class AugmentConfig(Frozen):
    """``crop``: ``random``, or the ``loudest`` of three random windows (short crops of clips with silences);
    ``fill``: what a clip shorter than the crop is followed by, ``zero`` or itself again (``tile``);
    ``captions``: an epoch takes each item with one of its captions (``random``), or each with each (``pairs``);
    ``gain_db``: gain drawn from +- so many decibels."""

    crop: Literal["random", "loudest"] = "random"
    fill: Literal["zero", "tile"] = "zero"
    captions: Literal["random", "pairs"] = "random"
    gain_db: NonNegativeFloat = 0.0


def crop_start(length: int, size: int, rng: np.random.Generator | None) -> list[int]:
    """Candidate starts of a window of ``size`` in a clip of ``length`` samples; the centred one without ``rng``."""
    spare = max(0, length - size)
    return [spare // 2] if rng is None or not spare else rng.integers(0, spare + 1, LOOKS).tolist()


def gain(rng: np.random.Generator, cfg: AugmentConfig) -> np.float32:
    """A factor for the waveform."""
    return np.float32(10 ** (rng.uniform(-cfg.gain_db, cfg.gain_db) / 20))
