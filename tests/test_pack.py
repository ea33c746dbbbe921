"""Packs: whole or not there at all, however many processes build at once, die, or run out of disk."""

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from clips import packs, recordings

from polymnia.data import pack
from polymnia.data.media import decode_audio
from polymnia.data.pack import Made, open_pack
from polymnia.data.store import open_audio_store
from polymnia.types import UserError


@pytest.fixture
def sources(tmp_path):
    return recordings(tmp_path)


def build(sources, folder, gate, answers):
    """What each of two processes does; ``gate`` lets both begin at once."""
    steps = []
    gate.wait(60)
    opened = open_audio_store(sources, 8000, folder, progress=lambda *at: (steps.append(at), time.sleep(0.05)))
    answers.put((len(steps), [float(np.abs(opened.read(i)).sum()) for i in range(len(sources))]))


def test_two_processes_that_build_at_once_make_one_pack(tmp_path, sources):
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(2), context.Queue()
    both = [context.Process(target=build, args=(sources, tmp_path / "cache", gate, answers)) for _ in range(2)]
    for process in both:
        process.start()
    (steps, sums), (others, same) = answers.get(timeout=120), answers.get(timeout=120)
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    answers.close()
    answers.join_thread()
    assert sorted([steps, others]) == [0, 6]  # one built, the other waited
    assert sums == same == [pytest.approx(float(np.abs(decode_audio(s, 8000)).sum()), rel=1e-3) for s in sources]
    assert len(packs(tmp_path / "cache")) == 1


def die(sources, folder):
    """Build, and be gone at the third recording, as by kill -9."""
    open_audio_store(sources, 8000, folder, progress=lambda done, _: os._exit(9) if done == 3 else None)


def test_a_killed_build_leaves_nothing_that_is_taken_for_a_pack(tmp_path, sources):
    process = multiprocessing.get_context("spawn").Process(target=die, args=(sources, tmp_path / "cache"))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    (left,) = packs(tmp_path / "cache")
    assert ".tmp-" in left
    opened = open_audio_store(sources, 8000, tmp_path / "cache")
    assert opened.length(5) == 4800
    assert packs(tmp_path / "cache") == [left.split(".tmp-")[0]]


def test_an_interrupted_build_cleans_up_behind_itself(tmp_path, sources):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_audio_store(sources, 8000, tmp_path / "cache", progress=stop)
    assert packs(tmp_path / "cache") == []


@pytest.mark.parametrize("file", ["data.bin", "index.json"])
def test_a_pack_that_lost_its_end_is_built_again(tmp_path, sources, file):
    before = open_audio_store(sources, 8000, tmp_path / "cache").read(5)
    (home,) = packs(tmp_path / "cache")
    path = tmp_path / "cache" / home / file
    path.write_bytes(path.read_bytes()[:-7])
    np.testing.assert_array_equal(open_audio_store(sources, 8000, tmp_path / "cache").read(5), before)


def test_a_folder_that_cannot_be_made_or_written_is_a_user_error(tmp_path, sources, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        open_audio_store(sources, 8000, tmp_path / "file" / "cache")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack.os, "fsync", full)
    with pytest.raises(UserError, match="cannot build a store in .*No space left"):
        open_audio_store(sources, 8000, tmp_path / "cache")
    assert packs(tmp_path / "cache") == []


def test_no_more_than_a_few_results_wait_to_be_written(tmp_path):
    made, written = [], []

    def make(i):
        made.append(i)
        return Made(np.full(3, i, np.uint8))

    def progress(done, _):
        written.append(done)
        assert len(made) - done <= 2 * 2 + 1

    opened = open_pack(tmp_path, "test", [str(i) for i in range(50)], make, "|u1", 2, progress)
    assert written == list(range(1, 51))
    assert [int(opened[i][2]) for i in range(50)] == list(range(50))


def test_a_large_set_is_kept_in_packs_that_other_sets_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "SIZE", 8)
    monkeypatch.setattr(pack, "MANY", 10)
    made: list[str] = []

    def opened(names: list[str], progress: list[tuple[int, int]] | None = None) -> pack.Packs:
        def make(i: int) -> pack.Made:
            made.append(names[i])
            return pack.Made(np.full(3, int(names[i][1:]), dtype="<i2"))

        tell = None if progress is None else (lambda done, total: progress.append((done, total)))
        return pack.open_packs(tmp_path, "numbers", names, [n[0] for n in names], make, "<i2", 2, tell)

    first, second, few = ([f"{home}{n}" for n in range(count)] for home, count in (("a", 40), ("b", 30), ("c", 3)))
    told: list[tuple[int, int]] = []
    mixed = [*first[:20], *few, *second, *first[20:]]
    found = opened(mixed, told)
    assert [int(found[i][0]) for i in range(len(mixed))] == [int(n[1:]) for n in mixed]
    assert told == [(n, 73) for n in range(1, 74)] and sorted(made) == sorted(mixed)
    made.clear()
    assert int(opened([*second, *first])[0][2]) == 0  # all of two homes, without the third: nothing is made again
    assert made == []
    opened([n for n in first if n != "a7"])
    assert 0 < len(made) < len(first) / 2 and "a7" not in made  # one pack of the home, not all of it
    assert [e[2] for e in found.entries] == [""] * 73
