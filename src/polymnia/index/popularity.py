"""How often items of an index were hits: a small file beside the table, for local indexes only."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing, suppress
from pathlib import Path

from polymnia.index.database import is_local

FILE, ASKED = "hits.sqlite", 500
WAIT = 0.2  # seconds for another process that counts
MADE = "CREATE TABLE IF NOT EXISTS hits (id TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID"


def count(uri: str, ids: Iterable[str]) -> None:
    """Count one more hit for each of some items; nothing where the index is not local or cannot be written now."""
    if not is_local(uri):
        return
    with suppress(sqlite3.Error), closing(_open(uri)) as file, file:  # a search does not wait, or fail, for its count
        file.execute("PRAGMA synchronous = OFF")
        file.execute(MADE)
        insert = "INSERT INTO hits VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1"
        file.executemany(insert, [(i,) for i in ids])


def counts(uri: str, ids: Collection[str]) -> dict[str, int]:
    """How often some items were hits, of those that ever were."""
    found: dict[str, int] = {}
    if not is_local(uri) or not (Path(uri) / FILE).exists():
        return found
    wanted = list(ids)
    with suppress(sqlite3.Error), closing(_open(uri)) as file:
        for first in range(0, len(wanted), ASKED):
            some = wanted[first : first + ASKED]
            marks = ",".join("?" * len(some))
            found |= dict(file.execute(f"SELECT id, n FROM hits WHERE id IN ({marks})", some))
    return found


def _open(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(Path(uri) / FILE, timeout=WAIT)
