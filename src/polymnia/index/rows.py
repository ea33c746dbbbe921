"""Rows on their way into an index: looked at, gathered into commits, compared with what is there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32

from polymnia.index.schema import EncoderCard, schema
from polymnia.index.where import among
from polymnia.types import MODALITIES, UserError

COMMIT = 64 << 20  # bytes of vectors in a commit
MOST = 65_536  # rows in a commit
APART = 1e-3  # from unit length


@dataclass(frozen=True, slots=True)
class Changes:
    """What a commit has to write: rows that are ``new`` or ``changed``; ``gone``: keys of windows no longer there.

    ``clash``: an id that another file of another folder has already, and both folders.
    """

    new: pa.Table
    changed: pa.Table
    same: int
    gone: tuple[str, ...]
    clash: tuple[str, str, str] | None = None


class Stream:
    """Batches for the database, which counts them and keeps the error that ended them: it would tell only its text."""

    def __init__(self, batches: Iterable[pa.RecordBatch], columns: pa.Schema):
        self.columns, self.rows = columns, 0
        self._batches: Iterable[pa.RecordBatch] = batches
        self._error: BaseException | None = None

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.columns, self._counted())

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What is raised while the batches are made is raised here as it was."""
        try:
            yield
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise

    def _counted(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                self.rows += batch.num_rows
                yield batch.cast(self.columns)
        except BaseException as error:
            self._error = error
            raise


def vectors(rows: pa.Table | pa.RecordBatch) -> Float32[np.ndarray, "n d"]:
    """The vectors of rows."""
    column = rows.column("vector")
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def sample(table: Any, sql: str | None, most: int, columns: Sequence[str] = ("key", "vector")) -> pa.Table:
    """Rows spread evenly over those that pass; the same ones as long as the table stays as it is."""
    ask = table.search().select(["key"]).with_row_id(True)
    found = (ask.where(sql) if sql else ask).to_arrow()
    ids = np.sort(found["_rowid"].to_numpy())  # the database reads in any order
    chosen = ids[np.unique(np.linspace(0, len(ids) - 1, min(len(ids), most)).round().astype(int))]
    return table.take_row_ids(chosen.tolist()).select(list(columns)).to_arrow()


def gathered(batches: Iterable[pa.RecordBatch], dim: int) -> Iterator[pa.Table]:
    """Batches joined until they are worth a commit: memory is that of one commit."""
    most = max(1, min(MOST, COMMIT // (4 * dim)))
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        while batch.num_rows:
            room = most - sum(w.num_rows for w in waiting)
            waiting.append(batch.slice(0, room))
            batch = batch.slice(room)
            if sum(w.num_rows for w in waiting) == most:
                yield pa.Table.from_batches(waiting)
                waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def checked(
    batch: pa.RecordBatch, cards: Mapping[str, EncoderCard], dim: int, wanted: Collection[str]
) -> pa.RecordBatch:
    """The batch as the table takes it. ``wanted``: signatures that its rows may have.

    Raises UserError for other columns, another size of vectors, rows of other encoders, vectors that are not of unit
    length.
    """
    columns = schema(dim)
    if batch.schema.names != columns.names:
        missing = sorted({*columns.names} ^ {*batch.schema.names}) or batch.schema.names
        raise UserError(f"these rows are not in the columns of vectors: look at {', '.join(missing[:5])}")
    size = getattr(batch.schema.field("vector").type, "list_size", None)
    if size != dim:
        raise UserError(f"these vectors have {size} numbers, those of the index {dim}: they are of another encoder")
    try:
        batch = batch.cast(columns)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise UserError(f"these rows are not in the columns of vectors: {error}") from error
    strange = {*pc.unique(batch.column("modality")).to_pylist()} - {*MODALITIES}
    if strange:
        raise UserError(f"these rows are of the modality {min(strange)!r}; there are {', '.join(MODALITIES)}")
    others = sorted({*pc.unique(batch.column("encoder")).to_pylist()} - {*wanted})
    if others:
        raise UserError(_strange(others[0], cards))
    lengths = np.linalg.norm(vectors(batch), axis=1)
    if not (np.abs(lengths - 1) < APART).all():  # so written that NaN fails too
        worst = int(np.argmax(~(np.abs(lengths - 1) < APART)))
        raise UserError(
            f"row {batch.column('key')[worst]} has a vector of length {lengths[worst]:.3g}; an index takes those of 1"
        )
    return batch


def _strange(signature: str, cards: Mapping[str, EncoderCard]) -> str:
    own = " and ".join(f"{c.signature} ({c.run} after task {c.task}, {c.name})" for c in cards.values())
    return (
        f"these vectors are of the encoder {signature}, the index is of {own}: embed with that one, bring the index "
        "to the new encoder (`polymnia index upgrade`), or create an index of their own"
    )


def compared(table: Any, rows: pa.Table) -> Changes:
    """What of ``rows`` the table does not have yet, or has otherwise. Of rows with one key the last counts."""
    rows = _last(rows)
    there = table.search().where(among("id", pc.unique(rows["id"]).to_pylist())).to_arrow().combine_chunks()
    at = pc.index_in(rows["key"], there["key"])
    known = at.is_valid()
    old = there.take(pc.fill_null(at, 0)) if there.num_rows else None
    same = pa.array(np.zeros(rows.num_rows, dtype=bool)) if old is None else pc.and_(known, _equal(rows, old))
    changed = pc.and_not(known, same)
    return Changes(
        new=rows.filter(pc.invert(known)),
        changed=rows.filter(changed),
        same=pc.sum(same).as_py() or 0,
        gone=_gone(rows, there),
        clash=None if old is None else _clash(rows.filter(changed), old.filter(changed)),
    )


def _clash(rows: pa.Table, old: pa.Table) -> tuple[str, str, str] | None:
    """The first id that stands for another file of another folder, which is no file that changed or moved."""
    state = ["id", "root", "bytes", "changed"]
    for new, there in zip(rows.select(state).to_pylist(), old.select(state).to_pylist(), strict=True):
        apart = new["root"] and there["root"] and new["root"] != there["root"]
        if apart and (new["bytes"], new["changed"]) != (there["bytes"], there["changed"]):
            return new["id"], there["root"], new["root"]
    return None


def _last(rows: pa.Table) -> pa.Table:
    keys = rows["key"].to_pylist()
    last = {key: at for at, key in enumerate(keys)}
    return rows if len(last) == len(keys) else rows.take(pa.array(sorted(last.values())))


def _equal(rows: pa.Table, old: pa.Table) -> pa.Array:
    """Row by row, whether all columns say the same; nulls are like nulls."""
    same = np.array(vectors(rows) == vectors(old)).all(axis=1)
    for name in rows.column_names[:-1]:
        a, b = rows[name], old[name]
        alike = pc.or_(pc.fill_null(pc.equal(a, b), False), pc.and_(a.is_null(), b.is_null()))
        same &= alike.to_numpy()
    return pa.array(same)


def _gone(rows: pa.Table, there: pa.Table) -> tuple[str, ...]:
    """Windows of an earlier state of a file: of an item and modality at hand, but of another file or encoder.

    What says so is in every row, so that the windows of one item may come in several commits.
    """
    state = ("bytes", "changed", "encoder")
    now: dict[tuple[str, str], set[tuple[Any, ...]]] = {}
    for row in rows.select(["id", "modality", *state]).to_pylist():
        now.setdefault((row["id"], row["modality"]), set()).add(tuple(row[c] for c in state))
    keys = set(rows["key"].to_pylist())
    return tuple(
        row["key"]
        for row in there.select(["key", "id", "modality", *state]).to_pylist()
        if row["key"] not in keys
        and (found := now.get((row["id"], row["modality"]))) is not None
        and tuple(row[c] for c in state) not in found
    )
