"""Digests of files: computed once, remembered, and forgotten when a file changes."""

import json
import os
import threading
import time

from clips import recordings

from polymnia.data import digest
from polymnia.data.digest import digests


def age(path):
    """Make a file look as if it had not been touched for a minute, so that its digest is remembered."""
    past = time.time_ns() - 60_000_000_000
    os.utime(path, ns=(past, past))


def test_the_digest_of_an_unchanged_file_is_not_computed_twice(tmp_path, monkeypatch):
    paths = [s.path for s in recordings(tmp_path)]
    for path in paths[:5]:
        age(path)
    first = digests(paths, tmp_path / "cache")
    hashed = []
    monkeypatch.setattr(digest, "file_digest", lambda p: hashed.append(p) or "new")
    second = digests(paths, tmp_path / "cache")
    assert hashed == paths[5:]  # too young: it might change again within one tick of the clock
    assert [second[p] for p in paths[:5]] == [first[p] for p in paths[:5]]
    os.utime(paths[0])
    assert digests(paths[:2], tmp_path / "cache") == {paths[0]: "new", paths[1]: first[paths[1]]}


def test_a_damaged_memo_of_digests_is_no_harm(tmp_path):
    path = recordings(tmp_path)[0].path
    age(path)
    first = digests([path], tmp_path / "cache")
    for text in ("", "{", "[1]", "\x00"):
        (tmp_path / "cache" / "digests.json").write_text(text)
        assert digests([path], tmp_path / "cache") == first


def test_many_threads_keep_each_others_digests(tmp_path):
    paths = [tmp_path / f"{i}.bin" for i in range(24)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]))
        age(path)
    threads = [threading.Thread(target=digests, args=(paths[i::8], tmp_path / "cache")) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(json.loads((tmp_path / "cache" / "digests.json").read_text())) == 24
