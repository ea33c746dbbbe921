"""Digests of files' contents, remembered by path, size and time of change."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from polymnia.data.disk import make_folder, read_json, write_json

DIGEST_BYTES = 16
SETTLED_NS = 2_000_000_000  # a file changed later than this before hashing may change again within one clock tick


def digests(paths: Iterable[Path], folder: Path, workers: int = 2) -> dict[Path, str]:
    """A digest of each file's content, remembered in ``folder`` by path, size and time of change.

    A file that cannot be read has a digest that no content has, so that it is tried again once it can.
    """
    make_folder(folder)
    memo = read_json(folder / "digests.json")
    found: dict[Path, str] = {}
    stale: dict[Path, list[int]] = {}
    for path in dict.fromkeys(paths):
        try:
            stat = path.stat()
        except OSError:
            found[path] = f"unreadable {path}"
            continue
        known = memo.get(os.path.abspath(path))
        if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            found[path] = known[2]
        else:
            stale[path] = [stat.st_size, stat.st_mtime_ns]
    with ThreadPoolExecutor(workers) as pool:
        found.update(zip(stale, pool.map(file_digest, stale), strict=True))
    settled = time.time_ns() - SETTLED_NS
    fresh = {os.path.abspath(p): [*stat, found[p]] for p, stat in stale.items() if stat[1] < settled}
    if fresh:
        with suppress(OSError), FileLock(folder / "digests.lock"):  # a cache that is read-only is still a cache
            write_json(folder / "digests.json", read_json(folder / "digests.json") | fresh)  # others added theirs
    return found


def file_digest(path: Path) -> str:
    """A digest of a file's content; "unreadable ..." where that is not possible."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
    except OSError:
        return f"unreadable {path}"
