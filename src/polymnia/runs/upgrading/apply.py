"""Rows of an index carried over into the space of a newer encoder, batch by batch, in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from polymnia.index.rows import vectors
from polymnia.index.schema import EncoderCard, schema
from polymnia.index.store import Index
from polymnia.runs.upgrading.advice import Advice
from polymnia.types import Modality

BATCH = 8192


@dataclass
class Moved:
    """Counts of rows: mapped, and left in the space that they are in."""

    mapped: int = 0
    left: int = 0
    by: dict[tuple[str, Modality], int] = field(default_factory=dict)


def upgrade_rows(index: Index, card: EncoderCard, advices: Mapping[tuple[str, Modality], Advice]) -> Moved:
    """Map all rows that are to be upgraded into the space of ``card``; others stay as they are. One commit.

    ``advices`` by the signature of the rows' encoder and their modality. Memory is that of one batch; killed at any
    moment, the index is as it was before.
    """
    moved = Moved()
    chosen = {k: a for k, a in advices.items() if a.action == "upgrade"}
    present = kinds(index)
    stays = {s for s, m in present if (s, m) not in chosen}
    cards = {s: c for s, c in index.cards.items() if s in stays or s == card.signature} | {card.signature: card}
    index.rewrite(_mapped(index, card, chosen, moved), cards)
    return moved


def kinds(index: Index) -> dict[tuple[str, Modality], int]:
    """Rows of each encoder and modality."""
    found: dict[tuple[str, Modality], int] = {}
    for batch in index.rows(["encoder", "modality"], batch=65_536):
        counted = pa.Table.from_batches([batch]).group_by(["encoder", "modality"]).aggregate([([], "count_all")])
        for one in counted.to_pylist():
            at = (one["encoder"], one["modality"])
            found[at] = found.get(at, 0) + one["count_all"]
    return found


def _mapped(
    index: Index, card: EncoderCard, chosen: Mapping[tuple[str, Modality], Advice], moved: Moved
) -> Iterator[pa.RecordBatch]:
    for batch in index.rows(schema(card.dim).names, batch=BATCH):
        encoders, modalities = (np.array(batch.column(c).to_pylist(), dtype=object) for c in ("encoder", "modality"))
        x = np.array(vectors(batch))
        made, doubts = batch.column("made").to_pylist(), batch.column("doubt").to_pylist()
        for (signature, modality), advice in chosen.items():
            rows = ((encoders == signature) & (modalities == modality)).nonzero()[0]
            if not len(rows):
                continue
            old = torch.from_numpy(x[rows])
            x[rows] = advice.fitted.adapter(old).numpy()
            if not advice.fitted.still:  # else they are the new encoder's own
                for row, doubt in zip(rows.tolist(), advice.doubt(old).tolist(), strict=True):
                    made[row], doubts[row] = "upgraded", doubt
            encoders[rows] = card.signature
            moved.mapped += len(rows)
            moved.by[signature, modality] = moved.by.get((signature, modality), 0) + len(rows)
        moved.left += int(sum(e != card.signature for e in encoders))
        yield _with(batch, {"encoder": encoders.tolist(), "made": made, "doubt": doubts}, x)


def _with(batch: pa.RecordBatch, columns: Mapping[str, Sequence[object]], x: np.ndarray) -> pa.RecordBatch:
    arrays = []
    for place in batch.schema:
        if place.name == "vector":
            flat = pa.array(np.ascontiguousarray(x, dtype=np.float32).reshape(-1), pa.float32())
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=place.type))
        elif place.name in columns:
            arrays.append(pa.array(columns[place.name], place.type))
        else:
            arrays.append(batch.column(place.name))
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)
