"""IDX, the container of MNIST and its kin: a header of big-endian numbers, then uint8 values; often gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

MAX_BYTES = 1 << 30
SIZES = ("rows", "height", "width")


def read(path: Path, dims: int) -> UInt8[np.ndarray, "..."] | str:
    """The values of a container of ``dims`` dimensions (labels: 1, pictures: 3), or what is wrong with it."""
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4 + 4 * dims)
            shape = [int(size) for size in np.frombuffer(head[4 : len(head) // 4 * 4], ">u4")]
            if head[:4] != bytes((0, 0, 8, dims)) or len(shape) < dims or not all(shape):
                sizes = ", ".join(SIZES[:dims])
                return f"is not an IDX container of uint8 in {dims} dimension(s) (header 00 00 08 0{dims}, {sizes})"
            claim = f"claims {' x '.join(map(str, shape))} bytes"
            size = math.prod(shape)
            if size > MAX_BYTES:
                return f"{claim}, more than {MAX_BYTES:,}"
            data = file.read(size + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        return f"not a readable IDX container: {error}"
    if len(data) != size:
        return f"{claim}, but holds {'more' if len(data) > size else len(data)}"
    return np.frombuffer(data, np.uint8).reshape(shape)


def pictures(path: Path) -> UInt8[np.ndarray, "n h w"] | str:
    """All pictures of a container, or what is wrong with it; unpacked once until it changes. OSError if not there."""
    stat = path.stat()
    return _kept(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2)  # train and test; a broken one is kept too, or each of its rows would unpack it again
def _kept(path: Path, size: int, mtime_ns: int) -> UInt8[np.ndarray, "n h w"] | str:
    return read(path, dims=3)
