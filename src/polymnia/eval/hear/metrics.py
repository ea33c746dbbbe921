"""Metrics of HEAR's scene tasks, of logits or probabilities and the classes that each row has.

Shares are in percent; ``d_prime`` has its own unit. As in the kit, ``mAP``, ``d_prime`` and ``aucroc`` are means over
classes; unlike there, a class without a positive (or, for the last two, without a negative) is left out. NaN where
that leaves none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score

from polymnia.ops.metrics import macro_average_precision

Scores = Float[np.ndarray, "n c"]
Flags = Bool[np.ndarray, "n c"]
OCTAVE = 12


def top1(scores: Scores, y: Flags) -> float:
    """Share of rows whose best class is theirs."""
    return 100 * float((scores.argmax(1) == y.argmax(1)).mean())


def chroma(scores: Scores, y: Flags) -> float:
    """Top 1 where octaves are one: classes are pitches in semitone steps."""
    return 100 * float((scores.argmax(1) % OCTAVE == y.argmax(1) % OCTAVE).mean())


def mean_average_precision(scores: Scores, y: Flags) -> float:
    """Macro mAP. Raises UserError if no class has a positive."""
    return 100 * macro_average_precision(torch.from_numpy(scores), torch.from_numpy(y))


def aucroc(scores: Scores, y: Flags) -> float:
    """Area under the ROC curve, mean over classes."""
    found = _areas(scores, y)
    return 100 * float(np.mean(found)) if found else math.nan


def d_prime(scores: Scores, y: Flags) -> float:
    """sqrt(2) times the normal quantile of the area, mean over classes; infinite if a class is separated."""
    found = _areas(scores, y)
    if not found:
        return math.nan
    return float(math.sqrt(2) * torch.special.ndtri(torch.tensor(found, dtype=torch.float64)).mean())


def _areas(scores: Scores, y: Flags) -> list[float]:
    both = (y.any(0) & ~y.all(0)).nonzero()[0]
    return [float(roc_auc_score(y[:, k], scores[:, k])) for k in both]


SCENE: dict[str, Callable[[Scores, Flags], float]] = {
    "top1_acc": top1,
    "pitch_acc": top1,
    "chroma_acc": chroma,
    "mAP": mean_average_precision,
    "aucroc": aucroc,
    "d_prime": d_prime,
}
