"""An index of the small run's own test items, as the commands would make it."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from small_run import small_run

from polymnia.index.store import Index
from polymnia.index.vectors import read_vectors
from polymnia.runs.embedding.embed import embed


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="polymnia-index-")  # removed when the process ends


@functools.cache
def _made() -> Path:
    root = Path(_folder().name)
    embed(small_run(), root / "vectors")
    vectors = read_vectors(root / "vectors")
    Index.create(root / "index", vectors.card).add(vectors, vectors.card)
    return root / "index"


def small_index(folder: Path) -> Path:
    """A copy that may be written into."""
    return shutil.copytree(_made(), folder)
