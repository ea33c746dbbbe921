"""Walking a folder: every medium once, in one order, whatever else lies there, and never hung."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from polymnia.data.walk import KINDS, Walk, kind_of, walk
from polymnia.types import UserError


def put(root: Path, *names: str | bytes) -> None:
    """Files of one byte."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x")


def names(found: Walk) -> list[bytes]:
    return [m.name for m in found.media]


def counts(found: Walk) -> dict[str, int]:
    return {why: s.count for why, s in found.skipped.items()}


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in: the path of a socket may have no more than a hundred bytes."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def test_media_come_in_the_order_of_the_bytes_of_their_paths(tmp_path: Path):
    put(tmp_path, "b.wav", "a/z.png", "a.wav", "B.wav", "a-1.mp3", "é.wav", b"\xff.wav", "a/b/c.txt")
    wanted = [b"B.wav", b"a-1.mp3", b"a.wav", b"a/b/c.txt", b"a/z.png", b"b.wav", "é.wav".encode(), b"\xff.wav"]
    assert names(walk(tmp_path)) == wanted == sorted(wanted)


def test_a_suffix_says_what_a_file_is_in_capitals_too(tmp_path: Path):
    put(tmp_path, "a.WAV", "b.JPeG", "c.Mp4", "d.TXT", "e.m4a", "f.mka")
    assert [m.kind for m in walk(tmp_path).media] == ["audio", "image", "video", "text", "audio", "audio"]
    assert kind_of(b"x.pdf") is None and kind_of(b"wav") is None and kind_of(b"\xff\xfe.\xff") is None
    assert set(KINDS.values()) == {"audio", "image", "video", "text"}


def test_size_and_time_of_change_are_those_of_the_file(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(b"12345")
    os.utime(tmp_path / "a.wav", ns=(7, 123_456_789_000))
    (medium,) = walk(tmp_path).media
    assert (medium.size, medium.changed) == (5, 123_456_789_000)


def test_hidden_and_unknown_files_are_counted_and_not_taken(tmp_path: Path):
    put(tmp_path, ".a.wav", ".git/b.wav", "c.pdf", "d.PDF", "e.tar.gz", "Makefile", "x/.hidden/deep/f.wav", "g.wav")
    found = walk(tmp_path)
    assert names(found) == [b"g.wav"] and found.failed == []
    assert counts(found) == {"hidden": 3, "*.pdf": 2, "*.gz": 1, "no suffix": 1}
    assert found.skipped["*.pdf"].examples == ["c.pdf", "d.PDF"]


def test_examples_are_few_and_the_count_is_whole(tmp_path: Path):
    put(tmp_path, *(f"{n}.pdf" for n in range(9)))
    (left,) = walk(tmp_path).skipped.values()
    assert left.count == 9 and left.examples == [f"{n}.pdf" for n in range(5)]


def test_an_empty_file_is_broken_and_an_empty_folder_is_not(tmp_path: Path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "c.pdf").touch()
    found = walk(tmp_path)
    assert found.media == [] and found.failed == [("a.wav", "is empty (0 bytes)")]


def test_sockets_and_pipes_are_never_opened(short: Path):
    os.mkfifo("pipe.wav")  # opening it would wait for ever
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind("s.wav")
        other.bind("s")
        found = walk(short)
    assert found.media == [] and found.failed == [("pipe.wav", "is a pipe"), ("s.wav", "is a socket")]
    assert counts(found) == {"a pipe": 1, "a socket": 1}


def test_links_are_counted_and_not_followed_unless_asked_for(tmp_path: Path):
    put(tmp_path, "out/a.wav", "out/more/b.wav")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "file.wav").symlink_to(tmp_path / "out" / "a.wav")
    (inside / "folder").symlink_to(tmp_path / "out")
    (inside / "gone.wav").symlink_to("nowhere")
    (inside / "null.wav").symlink_to("/dev/null")
    found = walk(inside)
    assert found.media == [] and found.failed == [] and counts(found) == {"a link": 4}
    followed = walk(inside, links=True)
    assert names(followed) == [b"file.wav", b"folder/a.wav", b"folder/more/b.wav"] and followed.skipped == {}
    assert followed.failed == [("gone.wav", "is a link that leads nowhere"), ("null.wav", "is a device")]


def test_loops_of_links_end_and_every_folder_is_walked_once(tmp_path: Path):
    put(tmp_path, "a/x.wav", "b/y.wav")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "b" / "twin").symlink_to("../a")
    (tmp_path / "b" / "round").symlink_to("round")
    (tmp_path / "b" / "ring.wav").symlink_to("ring.wav")
    found = walk(tmp_path, links=True)
    assert names(found) == [b"a/x.wav", b"b/y.wav"]
    assert counts(found) == {"a folder that was walked already": 3, "a link that leads nowhere": 1}
    assert found.failed == [("b/ring.wav", "is a link that leads nowhere")]


def test_the_root_may_be_a_link(tmp_path: Path):
    put(tmp_path, "real/a.wav")
    (tmp_path / "link").symlink_to("real")
    assert names(walk(tmp_path / "link")) == [b"a.wav"]


def test_strange_names_are_found_and_written_on_one_line(tmp_path: Path):
    put(tmp_path, b"two\nlines\xff.wav", b"50%.pdf")
    (tmp_path / "empty\t.wav").touch()
    found = walk(tmp_path)
    assert names(found) == [b"two\nlines\xff.wav"]
    assert found.failed == [("empty%09.wav", "is empty (0 bytes)")]
    assert found.skipped["*.pdf"].examples == ["50%25.pdf"]


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path, "a/x.wav", "b/y.wav")
    scandir = os.scandir

    def denied(path: bytes | Path):  # noqa: ANN202 (chmod does not stop root)
        if os.fsencode(path).endswith(b"/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    found = walk(tmp_path)
    assert names(found) == [b"b/y.wav"] and found.unread == ["a"]
    assert found.failed == [("a", "the folder cannot be read: Permission denied")]
    with pytest.raises(UserError, match="/a cannot be read: Permission denied"):
        walk(tmp_path / "a")


def test_folders_deeper_than_the_stack_are_walked(tmp_path: Path):
    deep = os.fsencode(tmp_path)
    for _ in range(1200):  # over Python's limit of recursion, under the system's limit of a path
        deep += b"/d"
        os.mkdir(deep)
    with open(deep + b"/a.wav", "wb") as file:
        file.write(b"x")
    assert names(walk(tmp_path)) == [b"d/" * 1200 + b"a.wav"]
    os.remove(deep + b"/a.wav")
    os.removedirs(deep)  # what clears the test's folder is not as thorough


def test_a_folder_to_leave_out_is_left_out(tmp_path: Path):
    put(tmp_path, "a.wav", "vectors/b.wav")
    found = walk(tmp_path, without=tmp_path / "vectors")
    assert names(found) == [b"a.wav"] and counts(found) == {"a folder that was walked already": 1}


def test_what_is_no_folder_is_refused(tmp_path: Path):
    put(tmp_path, "a.wav")
    for path in (tmp_path / "a.wav", tmp_path / "gone"):
        with pytest.raises(UserError, match="is no folder"):
            walk(path)
