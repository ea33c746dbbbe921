"""Files on the disk: found the same way on every machine, and replaced whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from polymnia.data import disk
from polymnia.data.layout import Clips


class _Entries:
    """What ``os.scandir`` gives, in an order of our own."""

    def __init__(self, names: list[str]):
        self._names = names

    def __enter__(self) -> list[Path]:
        return [Path(name) for name in self._names]

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("turned", [False, True])
def test_the_order_in_which_a_folder_lists_its_files_decides_nothing(
    turned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a.WAV", "a.wav", "a.flac", "b.FLAC", "b.Flac"]
    monkeypatch.setattr(os, "scandir", lambda _: _Entries(names[::-1] if turned else names))
    found = Clips([tmp_path])
    assert (found.path("a").name, found.path("b").name) == ("a.wav", "b.FLAC")


def test_a_file_is_replaced_whole_and_flushed_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "a.json", []
    really = os.fsync
    monkeypatch.setattr(os, "fsync", lambda f: (done.append(path.exists()), really(f))[1])
    disk.write_text(path, "caf\u00e9")
    assert done == [False, True]  # the file, then the folder's names
    assert path.read_bytes() == b"caf\xc3\xa9"
    disk.write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    disk.write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), disk.replacing(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"
