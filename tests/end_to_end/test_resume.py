"""Whatever kills a run, the same command goes on to the bit-identical result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from launched import Launcher
from prompt_miniatures import PROMPTED
from tiny import tiny_recipe

from polymnia.recipe import validate

STEPS, EVERY = 10, 4
METHODS: dict[str, list[dict[str, Any]]] = {
    "finetune": [],
    "cassle": [{"use": "cassle", "balance": {"skip": 1, "batches": 3}}],
    "er": [{"use": "er", "rows": 4}],
    "lwf and er": [{"use": "lwf"}, {"use": "er", "rows": 4}],
    "ptat": [{"use": "ptat"}],
    "lpi and er": [{"use": "lpi"}, {"use": "er", "rows": 4}],
    "dualprompt and lwf": [{"use": "dualprompt"}, {"use": "lwf"}],
}
PROMPTING = ("ptat", "lpi and er", "dualprompt and lwf")
SAME_BYTES = (
    "matrix.json",
    "matrix.csv",
    "examples.json",
    "encoders/after-0.safetensors",
    "encoders/after-3.safetensors",
)


def written(shared: Path, folder: Path, method: str, steps: int = STEPS) -> tuple[Path, Path]:
    """A recipe file, and the folder of its run."""
    folder.mkdir(parents=True)
    towers = PROMPTED if method in PROMPTING else {}
    raw = tiny_recipe(
        shared, folder / "runs", train__steps=steps, checkpoint_every=EVERY, method=METHODS[method], **towers
    )
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path, validate(raw).folder


@pytest.fixture(scope="module")
def whole(launcher: Launcher, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of runs that nothing interrupted."""
    folders = {}
    for method in METHODS:
        recipe, folders[method] = written(shared, tmp_path_factory.mktemp("whole") / "run", method)
        launcher.start(recipe)
        assert launcher.wait() == 0
    return folders


def lines(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_at(launcher: Launcher, recipe: Path, run: Path, line: int) -> bool:
    """Start the run and kill it once it has written that line of the log anew; False if it was finished before."""
    before = (run / "log.jsonl").stat().st_mtime_ns if (run / "log.jsonl").exists() else 0
    pid = launcher.start(recipe)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if lines(run) >= line and (run / "log.jsonl").stat().st_mtime_ns != before:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.0005)
    return launcher.wait() == -signal.SIGKILL


def logged(run: Path) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in every]


def assert_same(one: Path, other: Path) -> None:
    assert logged(one) == logged(other)
    for name in SAME_BYTES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    kept = [sorted(p.name for p in (run / "checkpoints").iterdir()) for run in (one, other)]
    assert kept[0] == kept[1] and len(kept[0]) == 2
    for name in kept[0]:
        a, b = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other))
        for part in ("model", "method"):
            assert a[part].keys() == b[part].keys()
            assert all(torch.equal(v, b[part][k]) for k, v in a[part].items())
        assert a["book"] == b["book"] and a["lesson"] == b["lesson"]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_five_times_ends_bit_identically(
    method: str, launcher: Launcher, whole: dict[str, Path], shared: Path, tmp_path: Path
) -> None:
    recipe, run = written(shared, tmp_path / "run", method)
    last = lines(whole[method])
    moments = sorted(random.Random(f"moments of {method}").sample(range(1, last - 1), 5))
    killed = [kill_at(launcher, recipe, run, line) for line in moments]
    assert killed.count(True) >= 2  # five, but on a busy machine a late moment may come too late
    launcher.start(recipe)
    assert launcher.wait() == 0
    assert_same(run, whole[method])


def test_a_run_killed_wherever_it_puts_a_file_in_place_ends_bit_identically(
    launcher: Launcher, whole: dict[str, Path], shared: Path, tmp_path: Path
) -> None:
    recipe, run = written(shared, tmp_path / "run", "cassle")
    for number in range(1, 99):  # the first file, then the second of what is left, and so on
        launcher.start(recipe, die_at_rename=number)
        code = launcher.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert number > 9
    assert_same(run, whole["cassle"])


def test_half_a_line_and_half_a_checkpoint_are_swept_away(
    launcher: Launcher, whole: dict[str, Path], shared: Path, tmp_path: Path
) -> None:
    recipe, run = written(shared, tmp_path / "run", "er")
    assert kill_at(launcher, recipe, run, STEPS + 6)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"kind": "step", "tas')
    (run / "checkpoints" / f"step-{STEPS + 2 * EVERY:09d}.tmp").write_bytes(b"half")
    (run / "matrix.json").write_text("half")
    launcher.start(recipe)
    assert launcher.wait() == 0
    assert_same(run, whole["er"])


def test_sigterm_saves_and_ends_with_code_75_and_the_command_line_goes_on(
    launcher: Launcher, shared: Path, tmp_path: Path
) -> None:
    (recipe, run), (other, whole) = (written(shared, tmp_path / n, "lwf and er", 40) for n in ("stopped", "whole"))
    command = [str(Path(sys.executable).with_name("polymnia")), "run", str(recipe)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        while lines(run) < 3 and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 75, (out, err)
    (saved,) = (run / "checkpoints").iterdir()
    steps = [line["step"] for line in logged(run) if line["kind"] == "step"]
    assert saved.name == f"step-{steps[-1]:09d}.pt"  # nothing that was done is lost
    assert b"Traceback" not in err
    again = subprocess.run(command, capture_output=True, env=environment, timeout=300)
    assert again.returncode == 0, again.stderr
    launcher.start(other)
    assert launcher.wait() == 0
    assert_same(run, whole)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    launcher.start(recipe)
    assert launcher.wait() == 0
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}  # what is finished is not done again
