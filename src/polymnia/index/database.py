"""LanceDB as the index uses it: found or asked for, its errors in a user's words, one writer at a time."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from polymnia.types import UserError

ITEMS = "items"  # the table
LOCK, SETTLING = ".lock", ".settling"
TRIES = 12  # commits that another writer overtook
FULL = re.compile(r"no space left|file too large|disk quota|os error (28|27|122)\b", re.IGNORECASE)
OVERTAKEN = re.compile(r"commit conflict|concurrent|retryable", re.IGNORECASE)
Got = TypeVar("Got")


class FullError(UserError):
    """The disk took no more. What was committed before is in the index."""


class DamagedError(UserError):
    """The database could not read or write the index."""


class OvertakenError(UserError):
    """Another process committed first; nothing of this commit is in the index."""


def connect(uri: str) -> Any:
    """A connection to a folder, or to what else LanceDB takes (``s3://...``, with its keys from the environment)."""
    if find_spec("lancedb") is None:
        raise UserError("an index needs lancedb, which is not installed: pip install 'polymnia[index]'")
    os.environ.setdefault("LANCEDB_LOG", "error")  # else every empty partition is told on stderr
    import lancedb

    with explained(uri):
        return lancedb.connect(uri)


def is_local(uri: str) -> bool:
    """Whether this is a folder of this machine."""
    return "://" not in uri


def place(uri: str | Path) -> str:
    """An index as LanceDB takes it. Raises UserError for an empty name."""
    if not str(uri).strip():
        raise UserError("the index has no name; give a folder, or a URI such as s3://bucket/index")
    return str(uri)


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """What the database says of trouble, as a UserError that names the index and the way out."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        if not isinstance(error, OSError) and type(error) not in (RuntimeError, ValueError):
            raise  # a UserError, or a fault of ours: the database itself raises the plain ones
        said = " ".join(str(error).split())
        said = said if len(said) <= 300 else said[:297] + "..."
        if FULL.search(str(error)):
            raise FullError(
                f"{uri}: no room left to write; what was committed before is kept: make room, and run the same "
                f"command again ({said})"
            ) from error
        if OVERTAKEN.search(str(error)):
            raise OvertakenError(f"{uri}: another process changed the index; run the same command again") from error
        raise DamagedError(
            f"{uri}: the index cannot be read or written, it may be damaged; an earlier version may be whole "
            f"(`polymnia index versions`, --at), else create it again from its vectors ({said})"
        ) from error


@contextmanager
def writing(uri: str, name: str = LOCK) -> Iterator[None]:
    """One writer at a time on this machine: two that add the same new key at once would both insert it.

    ``name``: SETTLING for what takes long and leaves rows as they are; others may write meanwhile. Elsewhere than in a
    folder only the database itself keeps writers apart: by refusing commits that others overtook.
    """
    if not is_local(uri):
        with nullcontext():
            yield
        return
    try:
        lock = FileLock(str(Path(uri) / name))
        lock.acquire()
    except OSError as error:
        raise UserError(f"{uri}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


def committed(uri: str, commit: Callable[[], Got]) -> Got:
    """``commit()``, again while other writers come first. ``commit`` must look at the latest version each time."""
    for tried in range(TRIES):
        try:
            with writing(uri), explained(uri):
                return commit()
        except OvertakenError:
            if tried + 1 == TRIES:
                raise
            time.sleep(random.uniform(0, 0.05 * 2**tried))
    raise AssertionError
