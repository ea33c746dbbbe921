"""An encoder that is asked by several threads, and queries that are made of several things."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Float32

from polymnia.runs.encoder import Encoder
from polymnia.types import Modality, UserError

REMEMBERED = 512  # vectors of texts
LEAST = 1e-6  # length of a query that points somewhere
# Rocchio's rule, as `polymnia search` has it.
QUERY, LIKE, UNLIKE = 1.0, 0.75, 0.15

Vector = Float32[np.ndarray, " d"]


class Asker:
    """One thread encodes at a time: tokenizers are not made for more. Texts asked before are remembered."""

    def __init__(self, encoder: Encoder):
        self.encoder, self.lock = encoder, Lock()
        self.texts: OrderedDict[str, Vector] = OrderedDict()

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return self.encoder.model.modalities

    def text(self, words: str) -> Vector:
        """The unit vector of a text. UserError for an empty one, or an encoder without texts."""
        with self.lock:
            if words not in self.texts:
                self._can("text")
                self.texts[words] = self.encoder.encode_text([words])[0]
            self.texts.move_to_end(words)
            if len(self.texts) > REMEMBERED:
                self.texts.popitem(last=False)
            return self.texts[words]

    def file(self, path: Path, kind: Modality) -> Vector:
        """The unit vector of a recording or a picture. MediaError for a broken one."""
        with self.lock:
            self._can(kind)
            encode = self.encoder.encode_audio if kind == "audio" else self.encoder.encode_image
            return encode([path])[0]

    def _can(self, kind: Modality) -> None:
        if kind not in self.modalities:
            raise UserError(f"this encoder takes no {kind}; it takes {', '.join(self.modalities)}")


def joined(query: Sequence[Vector], like: Sequence[Vector], unlike: Sequence[Vector]) -> Vector:
    """The unit vector of a query by Rocchio's rule: the means of its parts, by their weights.

    ``query``: of words and of a file. UserError where nothing is left of it.
    """
    groups = ((query, QUERY), (like, LIKE), (unlike, -UNLIKE))
    found = np.sum([weight * np.mean(np.stack(given), axis=0) for given, weight in groups if given], axis=0)
    length = float(np.linalg.norm(found))
    if length < LEAST:
        raise UserError("what the query is to be like and unlike is the same; leave one of them out")
    return (found / length).astype(np.float32)
