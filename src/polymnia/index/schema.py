"""What a vector is on disk: one Arrow row a vector, the same in files of vectors and in an index.

A recording (or video, or text) that is longer than a window has a row for each window, and one for the whole: the mean
of its windows' unit vectors, scaled to unit length (``window`` is ``WHOLE``). Of an item with several captions these
are its windows. Everything else has one row, ``WHOLE``, too. Rows of one item and modality stand together, the whole
first, then the windows by number.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from polymnia.types import MODALITIES, Modality, UserError

WHOLE = -1
FORMAT = 1  # of vectors and tables; a later one is refused

COLUMNS = (
    pa.field("key", pa.string(), nullable=False),  # one row's name: id, modality and window
    pa.field("id", pa.string(), nullable=False),  # one item's name: rows of a clip, its picture and words share it
    pa.field("modality", pa.string(), nullable=False),
    pa.field("root", pa.string()),  # the folder that `source` is in, absolute; both written as by `data.names.escape`
    pa.field("source", pa.string()),  # relative to `root`; bytes that are no UTF-8, control characters and % as %XX
    pa.field("entry", pa.int32()),  # the row of a container, such as an IDX file
    pa.field("window", pa.int32(), nullable=False),
    pa.field("start", pa.float64()),  # in the file, seconds: of the window, or of all that was taken of the file
    pa.field("end", pa.float64()),
    pa.field("duration", pa.float64()),  # of the item, seconds; null for what has none
    pa.field("caption", pa.string()),  # words that belong to the item; of a text, those that were embedded, bounded
    pa.field("topic", pa.string()),
    pa.field("task", pa.string()),
    pa.field("bytes", pa.int64()),  # of the file and when it was changed: what has not changed is not embedded again
    pa.field("changed", pa.int64()),  # nanoseconds since 1970
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
            card = cls(**{**said, "modalities": tuple(said["modalities"])})
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"{where}: not the card of an encoder with {[f.name for f in fields(cls)]}") from error
        words = (card.signature, card.run, card.name, card.recipe)
        if not all(isinstance(word, str) for word in words) or not set(card.modalities) <= set(MODALITIES):
            raise UserError(f"{where}: the card of an encoder holds what is no text or modality")
        if type(card.dim) is not int or type(card.task) is not int or card.dim < 1:
            raise UserError(f"{where}: the card of an encoder has no dim of at least 1, or no task")
        return card
