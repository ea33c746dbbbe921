"""`polymnia embed`, killed: the same command goes on to the same rows."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import soundfile
from embedded_files import RATE, by_key, embed, noise, rows
from small_run import small_run

from polymnia.index.vectors import parts


def left(out: Path) -> list[str]:
    return sorted(p.name for p in out.iterdir() if p.name != "lock")


def test_killed_at_every_file_it_puts_in_place_it_goes_on_to_the_same_rows(
    launcher: Launcher, sounds: Path, tmp_path: Path
):
    embed(sounds, tmp_path / "whole")
    out, kept = tmp_path / "v", []
    for number in range(1, 99):  # the first file, then the second of what is left, and so on
        launcher.embed(small_run(), sounds, out, die_at_rename=number)
        code = launcher.wait()
        kept.append(len(parts(out)))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert kept == sorted(kept) and set(kept) == {0, 1, 2, 3}  # no part is ever lost, and each was the last once
    assert rows(out).equals(rows(tmp_path / "whole")) and left(out) == left(tmp_path / "whole")


def test_killed_at_random_moments_it_goes_on_to_the_same_rows(launcher, sounds: Path, tmp_path: Path):
    embed(sounds, tmp_path / "whole")
    out, chance = tmp_path / "v", random.Random("moments of embed")
    killed = 0
    for _ in range(6):
        pid = launcher.embed(small_run(), sounds, out)
        time.sleep(chance.uniform(0.0, 0.5))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        killed += launcher.wait() == -signal.SIGKILL
        made = by_key(out) if (out / "vectors.json").exists() else {}
        assert all(made[k] == r for k, r in by_key(tmp_path / "whole").items() if k in made)
    assert killed
    launcher.embed(small_run(), sounds, out)
    assert launcher.wait() == 0
    assert rows(out).equals(rows(tmp_path / "whole")) and left(out) == left(tmp_path / "whole")


def test_killed_while_it_takes_in_changes_it_goes_on_to_the_same_rows(
    launcher: Launcher, sounds: Path, tmp_path: Path
):
    embed(sounds, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "v")
    for name in ("1.wav", "7.wav"):
        (sounds / name).unlink()
    soundfile.write(sounds / "3.wav", noise(0.4, 44), RATE, subtype="FLOAT")
    soundfile.write(sounds / "new.wav", noise(0.4, 45), RATE, subtype="FLOAT")
    embed(sounds, tmp_path / "whole")
    for number in range(1, 99):  # the first file, then the second of what is left, and so on
        launcher.embed(small_run(), sounds, tmp_path / "v", die_at_rename=number)
        code = launcher.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert number > 3 and rows(tmp_path / "v").equals(rows(tmp_path / "whole"))
    assert left(tmp_path / "v") == left(tmp_path / "whole")
