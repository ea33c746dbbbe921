"""Checkpoints: what is on disk is whole and ours, or it is not opened."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from polymnia.train import checkpoint
from polymnia.types import UserError

RECIPE = "1a2b3c4d"


def state(number: float = 1.0) -> dict[str, Any]:
    best = {"metric": -float("inf"), "model": None, "cut": -1}
    trainer = {"done": 3, "best": best, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []}}
    return {"recipe": RECIPE, "model": {"w": torch.full((40, 50), number)}, "trainer": trainer, "seconds": 1.5}


def numbers(folder: Path) -> list[int]:
    return [n for n, _ in checkpoint.found(folder)]


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "new" / "folder", 12, state())
    loaded = checkpoint.load(path, RECIPE)
    assert torch.equal(loaded["model"]["w"], torch.ones(40, 50))
    assert loaded["trainer"]["best"] == {"metric": -float("inf"), "model": None, "cut": -1}
    assert loaded["seconds"] == 1.5 and numbers(path.parent) == [12]


def test_the_two_newest_are_kept_by_position_not_by_name_or_time(tmp_path: Path) -> None:
    for position in (5, 900, 90, 1000):
        checkpoint.save(tmp_path, position, state(position))
    assert numbers(tmp_path) == [900, 1000]
    checkpoint.save(tmp_path, 1000, state(7.0))  # a boundary has the position of the last step before it
    assert numbers(tmp_path) == [900, 1000]
    assert checkpoint.load(checkpoint.found(tmp_path)[-1][1], RECIPE)["model"]["w"][0, 0] == 7.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000900.pt", "step-000001000.pt"]


def test_other_files_are_no_checkpoints_and_stay(tmp_path: Path) -> None:
    for name in ("step-000000001.tmp", "step-1.pt", "step-000000002.pt.bak", "notes.txt"):
        (tmp_path / name).write_text("mine")
    assert checkpoint.found(tmp_path) == [] == checkpoint.found(tmp_path / "nowhere")
    for position in (1, 2, 3):
        checkpoint.save(tmp_path, position, state())
    assert (tmp_path / "notes.txt").exists() and (tmp_path / "step-1.pt").exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named_with_the_way_out(share: float, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, state())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="delete it") as caught:
        checkpoint.load(path, RECIPE)
    assert str(path) in str(caught.value)


def test_a_flipped_byte_is_no_other_error_than_a_users(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, state())
    whole = path.read_bytes()
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            checkpoint.load(path, RECIPE)  # a flipped weight cannot be told from another weight
        except UserError as error:
            assert str(path) in str(error)


def test_no_file_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="step-000000009.pt"):
        checkpoint.load(tmp_path / "step-000000009.pt", RECIPE)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, state())
    with pytest.raises(UserError, match=f"another recipe \\({RECIPE}, not ffffffff\\)"):
        checkpoint.load(path, "ffffffff")


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"model": {}}])
def test_a_file_that_holds_no_state_of_ours_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match="another recipe"):
        checkpoint.load(path, RECIPE)


class Trap:
    """Pickled, it makes a file as soon as it is opened."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.path), "w")


def as_torch(trap: Any, path: Path) -> None:
    torch.save({**state(), "extra": trap}, path)


def as_old_torch(trap: Any, path: Path) -> None:
    torch.save({**state(), "extra": trap}, path, _use_new_zipfile_serialization=False)


def as_pickle(trap: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps({"recipe": RECIPE, "model": trap}))


def in_an_archive(trap: Any, path: Path) -> None:
    torch.save(state(), path)
    parts = {i: zipfile.ZipFile(path).read(i) for i in zipfile.ZipFile(path).namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, pickle.dumps(trap) if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("write", [as_torch, as_old_torch, as_pickle, in_an_archive])
def test_nothing_executable_is_ever_executed(write: Callable[[Any, Path], None], tmp_path: Path) -> None:
    path, mark = tmp_path / "step-000000001.pt", tmp_path / "was here"
    write(Trap(mark), path)
    with pytest.raises(UserError, match="delete it"):
        checkpoint.load(path, RECIPE)
    assert not mark.exists()


def test_a_class_of_ones_own_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.pt"
    torch.save({**state(), "extra": torch.nn.Linear(2, 2)}, path)
    with pytest.raises(UserError, match="other than tensors and plain values"):
        checkpoint.load(path, RECIPE)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_said_plainly_and_the_last_good_checkpoint_still_loads(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, state(1.0))
    checkpoint.save(tmp_path, 2, state(2.0))
    (tmp_path / "step-000000003.tmp").symlink_to("/dev/full")  # every write there fails with ENOSPC
    with pytest.raises(UserError, match="free disk space"):
        checkpoint.save(tmp_path, 3, state(3.0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000001.pt", "step-000000002.pt"]
    assert checkpoint.load(checkpoint.found(tmp_path)[-1][1], RECIPE)["model"]["w"][0, 0] == 2.0


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_late_loses_nothing_either(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, 1, state(1.0))

    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UserError, match=os.strerror(code)):
        checkpoint.save(tmp_path, 2, state(2.0))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001.pt"]
    assert checkpoint.load(tmp_path / "step-000000001.pt", RECIPE)["model"]["w"][0, 0] == 1.0


def test_a_kill_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, state(1.0))

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        with pytest.raises(Killed):
            checkpoint.save(tmp_path, 2, state(2.0))
    assert numbers(tmp_path) == [1]
    checkpoint.save(tmp_path, 2, state(3.0))  # the same position again, over the half-written file
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000001.pt", "step-000000002.pt"]
    assert checkpoint.load(tmp_path / "step-000000002.pt", RECIPE)["model"]["w"][0, 0] == 3.0
