"""Files that vectors are written into a batch at a time, and read back from: npy, Parquet, FAISS."""

from __future__ import annotations

import abc
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from polymnia.index.schema import schema
from polymnia.types import UserError

BATCH = 4096
TOLD = ("key", "id", "modality", "window", "start", "end", "source", "entry", "caption", "topic", "task", "made")
Rows = tuple[list[str], Float32[np.ndarray, "n d"]]


def numbers(batch: pa.RecordBatch) -> Float32[np.ndarray, "n d"]:
    """The vectors of rows."""
    column = batch.column("vector")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


class Sink(abc.ABC):
    """A file, or several, of vectors of ``dim`` numbers. ``said``: what the files say of themselves.

    ``beside``: suffixes of the files that come with it.
    """

    beside: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, dim: int, said: dict[str, Any]):
        self.path, self.dim, self.said, self.rows = path, dim, said, 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows of ``schema(dim)``."""
        self.put(batch)
        self.rows += batch.num_rows

    @abc.abstractmethod
    def put(self, batch: pa.RecordBatch) -> None:
        """Write rows, which come behind ``rows`` others."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Come to the end: all rows are there."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of what is open, whatever state it is in."""

    @abc.abstractmethod
    def again(self) -> Iterator[Rows]:
        """Keys and vectors, read from the disk, in batches."""


class Beside(Sink):
    """Vectors in a file that holds nothing else: ids stand beside it, and the card."""

    beside = (".ids.jsonl", ".json")

    def __init__(self, path: Path, dim: int, said: dict[str, Any]):
        super().__init__(path, dim, said)
        self._ids = path.with_suffix(".ids.jsonl").open("w", encoding="utf-8")

    def put(self, batch: pa.RecordBatch) -> None:
        self.write(numbers(batch))
        for row in batch.select(list(TOLD)).to_pylist():
            told = {k: v for k, v in row.items() if v is not None}
            self._ids.write(json.dumps(told, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        self.end()
        self.close()
        said = {**self.said, "rows": self.rows, "compare": "inner product: vectors are of unit length"}
        told = json.dumps(said, indent=1, ensure_ascii=False)
        self.path.with_suffix(".json").write_text(told + "\n", encoding="utf-8")

    def close(self) -> None:
        self._ids.close()

    def again(self) -> Iterator[Rows]:
        found = self.read()
        with self.path.with_suffix(".ids.jsonl").open(encoding="utf-8") as lines:
            for first in range(0, self.rows, BATCH):
                wanted = min(BATCH, self.rows - first)
                keys = [json.loads(line)["key"] for line in islice(lines, wanted)]
                yield keys, np.ascontiguousarray(found(first, wanted))

    @abc.abstractmethod
    def write(self, vectors: Float32[np.ndarray, "n d"]) -> None:
        """Vectors of the next rows."""

    @abc.abstractmethod
    def end(self) -> None:
        """All vectors are there."""

    @abc.abstractmethod
    def read(self) -> Any:
        """A function of the first row and a number of rows, to their vectors on the disk."""


class Npy(Beside):
    """NumPy's own format, version 1.0, to be opened by ``np.load(path, mmap_mode="r")``."""

    def __init__(self, path: Path, dim: int, said: dict[str, Any]):
        super().__init__(path, dim, said)
        self._file = path.open("w+b")
        self._head(0)
        self._begin = self._file.tell()

    def _head(self, rows: int) -> None:
        said = {"descr": "<f4", "fortran_order": False, "shape": (rows, self.dim)}
        np.lib.format.write_array_header_1_0(self._file, said)  # has room for any number of rows

    def write(self, vectors: Float32[np.ndarray, "n d"]) -> None:
        self._file.write(vectors.astype("<f4", copy=False).tobytes())

    def end(self) -> None:
        self._file.seek(0)
        self._head(self.rows)
        assert self._file.tell() == self._begin

    def close(self) -> None:
        super().close()
        self._file.close()

    def read(self) -> Any:
        with self.path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            begin = file.tell()
        if (shape, dtype) != ((self.rows, self.dim), np.dtype("<f4")):
            raise UserError(f"{self.path.name} says that it holds {shape} of {dtype}; nothing was kept")

        def read(first: int, count: int) -> Float32[np.ndarray, "n d"]:
            flat = np.fromfile(self.path, dtype, count * self.dim, offset=begin + first * self.dim * dtype.itemsize)
            return flat.reshape(-1, self.dim)  # pages of a map would count as memory of the process

        return read


class Faiss(Beside):
    """``IndexFlatIP`` behind an ``IndexIDMap2``: the id of a vector is the number of its line, from 0.

    FAISS holds a flat index in memory while it is made: 4 d bytes a row.
    """

    def __init__(self, path: Path, dim: int, said: dict[str, Any]):
        try:
            import faiss
        except ImportError as error:
            raise UserError(f"{path.name} needs FAISS ({error}): pip install faiss-cpu; or write .npy") from error
        super().__init__(path, dim, said)
        self._faiss: Any = faiss
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))

    def write(self, vectors: Float32[np.ndarray, "n d"]) -> None:
        ids = np.arange(self.rows, self.rows + len(vectors), dtype=np.int64)
        self._index.add_with_ids(np.ascontiguousarray(vectors), ids)

    def end(self) -> None:
        try:
            self._faiss.write_index(self._index, str(self.path))
        except RuntimeError as error:
            raise OSError(0, f"FAISS: {str(error).splitlines()[0]}") from error
        self._index = None

    def read(self) -> Any:
        index = self._faiss.read_index(str(self.path))
        return lambda first, count: index.reconstruct_batch(np.arange(first, first + count, dtype=np.int64))


class Parquet(Sink):
    """All columns of ``index/schema.py`` in one file; the card is in its metadata."""

    def __init__(self, path: Path, dim: int, said: dict[str, Any]):
        super().__init__(path, dim, said)
        columns = schema(dim).with_metadata({"polymnia": json.dumps(said)})
        self._writer = pq.ParquetWriter(path, columns, compression="zstd")

    def put(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch.cast(self._writer.schema), row_group_size=BATCH)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        self._writer.close()

    def again(self) -> Iterator[Rows]:
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):  # iter_batches would keep all groups of a file in memory
                for batch in file.read_row_group(group, columns=["key", "vector"]).to_batches():
                    yield batch.column("key").to_pylist(), numbers(batch)


SINKS: dict[str, type[Sink]] = {".npy": Npy, ".parquet": Parquet, ".faiss": Faiss}
