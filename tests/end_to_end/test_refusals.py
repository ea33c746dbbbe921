"""What is told instead of done silently: an encoder that learned nothing, a rule that watches nothing, odd inputs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny

import polymnia as pm
from polymnia.ops.contrastive import info_nce
from polymnia.report.page import write_report
from polymnia.runs import life
from polymnia.runs.life import Run, Session
from polymnia.types import UserError


@pytest.fixture(scope="module")
def done(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Session(tiny(shared, tmp_path_factory.mktemp("refusals"), train__steps=2)).go()


def test_an_encoder_that_has_learned_nothing_is_given_only_when_asked_for(done: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(done.folder, tmp_path / "run"))
    for after in (1, 2, 3):
        (folder / "encoders" / f"after-{after}.safetensors").unlink()
    with pytest.raises(UserError, match="has learned no task yet"):
        pm.load(folder)
    assert pm.load(folder, task=0).task == 0


def test_what_is_neither_path_nor_medium_is_named(done: Run) -> None:
    # In a process of its own: here the annotations are checked, and would refuse before the encoder can.
    code = f"""
import numpy as np, torch, polymnia as pm
encoder = pm.load({str(done.folder)!r})
for given in (lambda: encoder.encode_image([np.zeros((8, 8, 3), dtype=np.uint8)]),
              lambda: encoder.encode_audio([torch.zeros(8000)], 16000)):
    try:
        given()
    except ValueError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [
        "encode_image takes paths or a PIL image each, not ndarray",
        "encode_audio takes paths or a numpy array each, not Tensor",
    ]


def test_a_report_over_all_that_lies_in_a_folder_passes_over_earlier_reports(done: Run, tmp_path: Path) -> None:
    first = write_report([done.folder], tmp_path / "report")
    again = write_report([tmp_path / "report", done.folder], tmp_path / "again")
    assert again.table == first.table
    with pytest.raises(UserError, match="cannot be written"):
        write_report([done.folder], first.html)


def test_a_joint_run_stops_early_by_the_mean_over_all_tasks(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {f"tasks__{n}__data__valid": 1 for n in range(3)}
    changes |= {"train__epochs": 5, "train__stop": {"patience": 1}, "method": ["joint"]}
    asked: list[str] = []
    score = {"nature": 3.0, "animals": 2.0, "machines": 1.0}

    def falling(task: object, embed: object) -> float:
        asked.append(task.name)  # type: ignore[attr-defined]
        return score[asked[-1]] - len(asked)

    monkeypatch.setattr(life, "validation_score", falling)
    session = Session(tiny(shared, tmp_path, **changes))
    session.go()
    assert asked == ["nature", "animals", "machines"] * 2  # the second epoch is no better: the last


def test_a_positive_that_is_no_row_of_the_keys_is_refused() -> None:
    query, key = torch.eye(3), torch.eye(4)[:, :3]
    with pytest.raises(UserError, match="row numbers of 4 keys"):
        info_nce(query, key, torch.tensor([0, 1, 4]), 10.0)
