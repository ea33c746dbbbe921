"""Several runs of one recipe: what happens to the others when one is stopped, fails, or is already at work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from tiny import tiny, tiny_recipe

import polymnia as pm
from polymnia.runs.life import Session
from polymnia.types import UserError

CRASHING = '''"""A method with a fault."""
from polymnia.continual.method import AbstractMethod, MethodConfig

class Config(MethodConfig):
    pass

class Method(AbstractMethod):
    def __init__(self, cfg, setup):
        super().__init__()

    def loss(self, model, batch, out):
        return {"gone": 1 / 0}
'''


def finished(folder: Path) -> list[str]:
    """The variants whose runs are finished."""
    metas = [json.loads(p.read_text()) for p in folder.glob("*/meta.json")]
    return sorted(m["variant"] for m in metas if m["finished"])


def training(out: Path) -> list[Path]:
    """Logs of runs that have made a step: before it there is nothing to save."""
    return [log for log in out.glob("*/log.jsonl") if '"step",' in log.read_text()]


def command_line(path: Path) -> list[str]:
    return [str(Path(sys.executable).with_name("polymnia")), "run", str(path)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fault_in_one_run_costs_neither_the_others_nor_the_report(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], jobs: int
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    raw = tiny_recipe(shared, tmp_path / "runs", train__steps=2, jobs=jobs)
    raw["variants"] = {"plain": {}, "faulty": {"method": [{"use": "faulty.x"}]}, "last": {"train.lr": 0.02}}
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty" / "__init__.py").write_text("")
    (tmp_path / "faulty" / "x.py").write_text(CRASHING)
    with pytest.raises(UserError, match="faulty seed 0: ZeroDivisionError"):
        pm.study(raw)
    assert finished(tmp_path / "runs") == ["last", "plain"]
    assert "last" in (tmp_path / "runs" / "tiny-report" / "report.md").read_text()
    assert "1 / 0" in capfd.readouterr().err  # the traceback leads to the fault


def test_sigterm_stops_every_run_of_a_study_and_the_same_command_goes_on(shared: Path, tmp_path: Path) -> None:
    Session(tiny(shared, tmp_path / "warm", train__steps=1)).go()  # the world and its caches, so that both runs train
    raw = tiny_recipe(shared, tmp_path / "runs", train__steps=400, jobs=2, checkpoint_every=1000)
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump({**raw, "seeds": [0, 1, 2]}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command_line(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        while len(training(tmp_path / "runs")) < 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()  # a study that does not stop fails the test, and does not hold up all others
            raise
    assert process.returncode == 75, (out, err)
    begun = list((tmp_path / "runs").glob("tiny-s*"))
    assert len(begun) == 2 and finished(tmp_path / "runs") == []  # the third was not begun
    assert all(list((run / "checkpoints").glob("step-*.pt")) for run in begun)
    again = subprocess.run([*command_line(path), "seeds=[0]"], capture_output=True, env=environment, timeout=300)
    assert again.returncode == 0, again.stderr
    (run,) = (tmp_path / "runs").glob("tiny-s0-*")
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines() if '"step",' in line]
    assert steps == [*range(1, 401)] * 3  # nothing lost, nothing done twice


def test_a_run_that_another_process_is_at_work_on_is_left_alone(shared: Path, tmp_path: Path) -> None:
    recipe = tiny(shared, tmp_path, train__steps=1)
    recipe.folder.mkdir(parents=True)
    with FileLock(recipe.folder / ".lock"), pytest.raises(UserError, match="another process is at work"):
        Session(recipe).go()
    Session(recipe).go()
