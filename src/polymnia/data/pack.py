"""A pack: many arrays in one memory-mapped file, built once for a set of contents, safe when processes build at once.

``folder/<key>/data.bin`` holds the values back to back, ``index.json`` where each begins, or why it is not there.
The folder is written under another name, flushed to disk, and renamed: it exists whole or not at all.

A large set is kept in several packs (``open_packs``): a build that is killed loses one of them, and sets that share
sources share packs.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from filelock import FileLock
from jaxtyping import Shaped

from polymnia.data.disk import CORES, make_folder, read_json, sync_folder, write_json
from polymnia.types import UserError

FORMAT = 1
KEY_BYTES = 16
SIZE, MANY = 2048, 256  # sources in a pack, about; of one home, to be kept apart from others
WORKERS = max(2, CORES)

Progress = Callable[[int, int], None]
T = TypeVar("T")


class Made(NamedTuple):
    """What became of a source: ``values`` to store, or a ``length`` that is read elsewhere, or a ``problem``."""

    values: Shaped[np.ndarray, " _"] | None = None
    length: int = 0
    problem: str = ""


class Pack:
    """Arrays on disk. ``entries[i]`` is (offset, length, problem) of source ``i``; offset -1: not stored."""

    def __init__(self, path: Path, dtype: str, entries: list[tuple[int, int, str]]):
        self.path = path
        self.dtype = dtype
        self.entries = entries
        self._data: np.ndarray | None = None

    def __getitem__(self, i: int) -> Shaped[np.ndarray, " _"]:
        """The stored values of source ``i``, a read-only view of the file."""
        if self._data is None:
            self._data = np.memmap(self.path / "data.bin", self.dtype, mode="r")
        offset, length, _ = self.entries[i]
        return self._data[offset : offset + length]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None}  # a pickled memmap would be a copy of the whole file


class Packs:
    """Several packs that are read as one: ``entries[i]`` and ``[i]`` are those of source ``i``."""

    def __init__(self, parts: Sequence[tuple[Pack, Sequence[int]]]):
        at = sorted((i, part, n) for part, (_, members) in enumerate(parts) for n, i in enumerate(members))
        self._parts = [pack for pack, _ in parts]
        self._at = [(part, n) for _, part, n in at]
        self.entries = [self._parts[part].entries[n] for part, n in self._at]

    def __getitem__(self, i: int) -> Shaped[np.ndarray, " _"]:
        """The stored values of source ``i``, a read-only view of a file."""
        part, n = self._at[i]
        return self._parts[part][n]


def open_packs(
    folder: Path,
    kind: str,
    names: Sequence[str],
    homes: Sequence[str],
    make: Callable[[int], Made],
    dtype: str,
    workers: int = WORKERS,
    progress: Progress | None = None,
) -> Packs:
    """As ``open_pack``, in packs of about ``SIZE`` sources. ``homes`` say where each source lies: those of one place
    go together, so that another set of sources from there finds them. A source more or less changes one pack."""
    total, done = len(set(names)), 0
    parts: list[tuple[Pack, Sequence[int]]] = []
    for members in _groups(names, homes):

        def tell(now: int, _: int, before: int = done) -> None:
            if progress:
                progress(before + now, total)

        chosen = [names[i] for i in members]
        pack = open_pack(folder, kind, chosen, lambda n, m=members: make(m[n]), dtype, workers, tell)
        parts.append((pack, members))
        done += len(set(chosen))
    return Packs(parts)


def _groups(names: Sequence[str], homes: Sequence[str]) -> list[list[int]]:
    """Places of sources that go into one pack: by home where that has many, then by a hash of the name."""
    count = Counter(homes)
    by_home: dict[str, list[int]] = {}
    for i, home in enumerate(homes):
        by_home.setdefault(home if count[home] >= MANY else "", []).append(i)
    groups: list[list[int]] = []
    for members in by_home.values():
        bits = max(0, math.ceil(math.log2(len(members) / SIZE)))
        buckets: dict[int, list[int]] = {}
        for i in members:
            hashed = int.from_bytes(hashlib.blake2b(names[i].encode(), digest_size=4).digest())
            buckets.setdefault(hashed & ((1 << bits) - 1), []).append(i)
        groups += [buckets[b] for b in sorted(buckets)]
    return groups


def open_pack(
    folder: Path,
    kind: str,
    names: Sequence[str],
    make: Callable[[int], Made],
    dtype: str,
    workers: int = WORKERS,
    progress: Progress | None = None,
) -> Pack:
    """The pack of the sources ``names``, built if it is not there. The same name is the same array, stored once.

    ``kind`` says with what settings; ``make(i)`` gives source ``i``, in ``workers`` threads. While another process
    builds the same pack this one waits, and then uses that. UserError if the folder cannot be written.
    """
    jobs: dict[str, int] = {}
    for i, name in enumerate(names):
        jobs.setdefault(name, i)
    text = "\n".join([f"{FORMAT} {kind} {dtype}", *sorted(jobs)])
    home = folder / hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).hexdigest()
    make_folder(folder)
    entries = _entries(home)
    if entries is None:
        try:
            with FileLock(folder / f"{home.name}.lock"):
                entries = _entries(home) or _build(home, jobs, make, dtype, workers, progress)
        except OSError as error:
            raise UserError(f"cannot build a store in {folder}: {error}") from error
    return Pack(home, dtype, [entries[name] for name in names])


def _build(
    home: Path,
    jobs: dict[str, int],
    make: Callable[[int], Made],
    dtype: str,
    workers: int,
    progress: Progress | None,
) -> dict[str, tuple[int, int, str]]:
    """Write the pack beside ``home`` and rename it. The caller holds the lock: what lies there is a dead builder's."""
    for left in home.parent.glob(f"{home.name}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    new = home.with_name(f"{home.name}.tmp-{os.getpid()}")
    new.mkdir()
    entries: dict[str, tuple[int, int, str]] = {}
    size = 0
    try:
        with (new / "data.bin").open("wb") as file:
            for name, made in zip(jobs, in_order(make, jobs.values(), workers), strict=True):
                if made.values is None:
                    entries[name] = (-1, made.length, made.problem)
                else:
                    entries[name] = (size, len(made.values), "")
                    size += len(made.values)
                    file.write(np.ascontiguousarray(made.values, dtype).data)
                if progress:
                    progress(len(entries), len(jobs))
            file.flush()
            os.fsync(file.fileno())
        write_json(new / "index.json", {"bytes": size * np.dtype(dtype).itemsize, "entries": entries})
        if home.exists():
            shutil.rmtree(home)  # damaged, or it would have been used
        new.rename(home)
        sync_folder(home.parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return entries


def in_order(make: Callable[[int], T], jobs: Iterable[int], workers: int) -> Iterator[T]:
    """Results in the order of the jobs, a few ahead of the reader and never more: memory stays bounded."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque = deque()
        try:
            for job in jobs:
                ahead.append(pool.submit(make, job))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _entries(home: Path) -> dict[str, tuple[int, int, str]] | None:
    """The index of a pack, or None if there is no whole pack."""
    index = read_json(home / "index.json")
    data = home / "data.bin"
    if not index or not data.is_file() or data.stat().st_size != index.get("bytes"):
        return None
    return {name: (offset, length, problem) for name, (offset, length, problem) in index["entries"].items()}
