"""IDX containers: rows of the right one are pictures, and those that lie are refused."""

import gzip
import struct

import numpy as np
import pytest
from real import DATA, needs_data

from polymnia.data import idx
from polymnia.data.media import MediaError, decode_image
from polymnia.types import ImageFile


def write_idx(path, rows, head=None):
    head = head or struct.pack(">4I", 0x803, *rows.shape)
    path.write_bytes(gzip.compress(head + rows.tobytes()) if path.suffix == ".gz" else head + rows.tobytes())


@pytest.mark.parametrize("name", ["rows.gz", "rows-idx3-ubyte"])
def test_rows_of_an_idx_container_are_pictures(tmp_path, name):
    rows = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    write_idx(tmp_path / name, rows)
    for i in range(5):
        np.testing.assert_array_equal(decode_image(ImageFile(tmp_path / name, i), 28, 1)[0], rows[i])
        np.testing.assert_array_equal(decode_image(ImageFile(tmp_path / name, i), 28, 3)[2], rows[i])
    for i in (-1, 5):
        with pytest.raises(MediaError, match=f"no row {i}: it holds 5"):
            decode_image(ImageFile(tmp_path / name, i), 28, 1)


def test_a_container_is_unpacked_once_even_if_it_is_broken(tmp_path, monkeypatch):
    rows = np.zeros((3, 4, 4), np.uint8)
    write_idx(tmp_path / "good.gz", rows)
    write_idx(tmp_path / "bad.gz", rows[:2], struct.pack(">4I", 0x803, 3, 4, 4))
    opened = []
    unpack = gzip.open
    monkeypatch.setattr(idx.gzip, "open", lambda path: opened.append(path.name) or unpack(path))
    for i in range(3):
        decode_image(ImageFile(tmp_path / "good.gz", i), 4, 1)
        with pytest.raises(MediaError, match="claims 3 x 4 x 4 bytes, but holds 32"):
            decode_image(ImageFile(tmp_path / "bad.gz", i), 4, 1)
    assert sorted(opened) == ["bad.gz", "good.gz"]


def test_containers_that_lie_are_refused(tmp_path):
    rows = np.zeros((2, 4, 4), np.uint8)
    cases = {
        "labels.gz": (struct.pack(">2I", 0x801, 32), "not an IDX container"),
        "huge.gz": (struct.pack(">4I", 0x803, 2**31, 2**15, 2**15), "more than"),
        "none.gz": (struct.pack(">4I", 0x803, 0, 28, 28), "not an IDX container"),
        "longer.gz": (struct.pack(">4I", 0x803, 1, 4, 4), "holds more"),
    }
    for name, (head, reason) in cases.items():
        write_idx(tmp_path / name, rows, head)
        with pytest.raises(MediaError, match=f"{name}: .*{reason}"):
            decode_image(ImageFile(tmp_path / name, 0), 4, 1)
    whole = gzip.compress(struct.pack(">4I", 0x803, 2, 4, 4) + np.random.default_rng(0).bytes(32))
    (tmp_path / "cut.gz").write_bytes(whole[:-20])
    (tmp_path / "flip.gz").write_bytes(whole[:30] + b"\xff\xff\xff" + whole[33:])
    for name in ("cut.gz", "flip.gz"):
        with pytest.raises(MediaError, match=f"{name}: not a readable IDX container"):
            decode_image(ImageFile(tmp_path / name, 0), 4, 1)


@needs_data
def test_mnist_rows_are_those_of_an_independent_reading():
    path = next((DATA / "mnist_t10k").glob("*images-idx3-ubyte.gz"))
    rows = np.frombuffer(gzip.decompress(path.read_bytes())[16:], np.uint8).reshape(-1, 28, 28)
    assert len(rows) == 10000
    for i in (0, 1, 4999, 9999):
        np.testing.assert_array_equal(decode_image(ImageFile(path, i), 28, 1)[0], rows[i])
    with pytest.raises(MediaError, match="no row 10000"):
        decode_image(ImageFile(path, 10000), 28, 1)
