"""What a vector is on disk: one Arrow row a vector, the same in files of vectors and in an index.

A recording that is longer than a window has a row for each window, and one for the whole: the mean of its windows'
unit vectors, scaled to unit length (``window`` is ``WHOLE``). Everything else has one row, ``WHOLE``, too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from polymnia.types import Modality, UserError

WHOLE = -1
FORMAT = 1  # of vectors and tables; a later one is refused

COLUMNS = (
    pa.field("key", pa.string(), nullable=False),  # one row's name: id, modality and window
    pa.field("id", pa.string(), nullable=False),  # one item's name: rows of a clip, its picture and words share it
    pa.field("modality", pa.string(), nullable=False),
    pa.field("root", pa.string()),  # the folder that `source` is in
    pa.field("source", pa.string()),  # relative to `root`; bytes that are no UTF-8, control characters and % as %XX
    pa.field("entry", pa.int32()),  # the row of a container, such as an IDX file
    pa.field("window", pa.int32(), nullable=False),
    pa.field("start", pa.float64()),  # of the window in the file, seconds
    pa.field("end", pa.float64()),
    pa.field("duration", pa.float64()),  # of the item, seconds
    pa.field("caption", pa.string()),
    pa.field("topic", pa.string()),
    pa.field("task", pa.string()),
    pa.field("bytes", pa.int64()),  # of the file and when it was changed: what has not changed is not embedded again
    pa.field("changed", pa.int64()),
    pa.field("encoder", pa.string(), nullable=False),  # signature of the space that the vector is in
    pa.field("made", pa.string(), nullable=False),  # "embedded", or "upgraded" by an adapter
    pa.field("doubt", pa.float32()),  # of an upgraded vector: predicted 1 - cosine to the true one
)


def schema(dim: int) -> pa.Schema:
    """The columns, and ``vector`` of ``dim`` float32 numbers."""
    return pa.schema([*COLUMNS, pa.field("vector", pa.list_(pa.float32(), dim), nullable=False)])


def key(item: str, modality: Modality, window: int = WHOLE) -> str:
    """The name of a row."""
    return f"{item}#{modality}" if window == WHOLE else f"{item}#{modality}#{window}"


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """Who made vectors: ``signature`` names weights, transforms and task; ``run`` is where the encoder was found.

    ``task`` counts the tasks learned, ``name`` is that of the last one.
    """

    signature: str
    dim: int
    run: str
    task: int
    name: str
    modalities: tuple[Modality, ...]
    recipe: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> EncoderCard:
        """Raises UserError, saying ``where``, for what is no card."""
        try:
            said: dict[str, Any] = json.loads(text)
            card = cls(**said)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: not the card of an encoder with {[f.name for f in fields(cls)]}") from error
        return cls(**{**said, "modalities": tuple(card.modalities)})
