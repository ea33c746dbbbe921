"""The command line: what is wrong is one line and exit code 2, and every command does what the function does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from command import command
from small_run import small_recipe, small_root, small_run

from polymnia.cli import app
from polymnia.cli.words import recipes
from polymnia.runs.search import search
from polymnia.version import __version__


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(small_recipe(small_root(), out=str(tmp_path / "runs"))))
    return path


def test_the_installed_command_prints_its_version():
    command = Path(sys.executable).with_name("polymnia")
    done = subprocess.run([command, "version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command with the words that lead to it."""
    for name, inner in getattr(group, "commands", {}).items():
        yield (*path, name)
        yield from commands(inner, (*path, name))


def test_every_command_has_a_help_that_says_what_it_does():
    known = list(commands(typer.main.get_command(app)))
    assert {("run",), ("demo",), ("search",), ("eval", "suite"), ("data", "check"), ("export", "hear")} <= {*known}
    for path in known:
        code, out, _ = command(*path, "--help")
        assert code == 0 and re.search(r"Usage: polymnia " + " ".join(path), out)
    code, out, err = command()
    assert all(path[0] in out + err for path in known)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "gone.yaml"], "no recipe at gone.yaml"),
        (["doctor", "gone.yaml"], "no recipe at gone.yaml"),
        (["run", "{own}", "train.lrr=3"], "own.yaml: train: unknown key 'lrr'; did you mean 'lr'?"),
        (["run", "{own}", "dim=many"], "dim: Input should be a valid integer"),
        (["run", "{own}", "only=[x]"], "no variant x"),
        (["run", "{own}", "fast"], "'fast' is no key=value"),
        (["run", "{own}", "method=[lwff]"], "no 'lwff' in methods; did you mean 'lwf'?"),
        (["report", "{own}"], "own.yaml"),
        (["search", ".", "a drum"], "is no run folder"),
        (["search", "{run}", "gone.wav"], "no file 'gone.wav'"),
        (["search", "{run}", "a drum", "--data", "gone"], "--data FOLDER"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(own: Path, words: list[str], message: str):
    said = command(*(w.format(own=own, run=small_run()) for w in words))
    assert message in said.error and said.out == "" and said.err.count("\n") == 1


def test_a_run_that_fails_is_named_and_is_not_called_done(own: Path):
    code, out, err = command("run", str(own), "device=nonsense")
    said, error = err.splitlines()
    assert code == 2 and out == "" and said == "small seed 0: failed"
    assert error.startswith("error: small seed 0: device 'nonsense' cannot be used here")


def test_an_option_that_is_none_is_refused_with_exit_code_2():
    assert command("search", ".", "a drum", "--in", "video").code == 2
    assert command("search", ".", "a drum", "-k", "0").code == 2


def test_run_trains_and_reports_and_the_same_command_comes_back_with_the_same(own: Path):
    code, out, err = command(
        "run", str(own), "train.steps=2", "stages.0.train={steps: 1}", "stages.1.train={steps: 1}"
    )
    assert code == 0, err
    (page,) = re.findall(r"^report: (.*\.html)$", out, re.M)
    (folder,) = (own.parent / "runs").glob("small-s0-*")
    assert Path(page).exists() and json.loads((folder / "meta.json").read_text())["finished"]
    before = (folder / "matrix.json").stat().st_mtime_ns
    code, again, _ = command(
        "run", str(own), "train.steps=2", "stages.0.train={steps: 1}", "stages.1.train={steps: 1}"
    )
    assert code == 0 and again == out and (folder / "matrix.json").stat().st_mtime_ns == before


def test_report_writes_a_page_about_run_folders(tmp_path: Path):
    code, out, _ = command("report", str(small_run()), "--out", str(tmp_path / "report"))
    (page,) = re.findall(r"^report: (.*)$", out, re.M)
    assert code == 0 and Path(page).parent == tmp_path / "report"
    assert "seas" in Path(page).read_text() and "tunes" in Path(page).read_text()


def test_search_prints_what_the_function_finds(tmp_path: Path):
    query, run = "a slow low drum", str(shutil.copytree(small_run(), tmp_path / "run"))  # a search leaves its gallery
    hits = search(Path(run), query, "image", 3, 1)
    code, out, _ = command("search", run, query, "-k", "3", "--in", "image", "--task", "1", "--json")
    assert code == 0 and [h["id"] for h in json.loads(out)] == [h.id for h in hits]
    code, out, _ = command("search", run, query, "-k", "3", "--in", "image", "--task", "1")
    assert code == 0 and all(f"{h.score:.3f}" in out for h in hits)


def test_the_recipes_that_come_along_are_found():
    assert {"demo.yaml", "soundworld.yaml"} <= {p.name for p in recipes().iterdir()}


def test_runs_that_fail_for_one_reason_say_it_once(tmp_path: Path):
    path = tmp_path / "nowhere.yaml"
    task = {"name": "t", "pairs": [["audio", "text"]], "data": {"use": "esc10", "root": "gone"}}
    path.write_text(yaml.safe_dump(small_recipe(tmp_path, tasks=[task], stages=[], seeds=[0, 1, 2])))
    code, _, err = command("run", str(path))
    assert code == 2 and err.count("does not exist") == 1 and "all 3 runs" in err and "data=FOLDER" in err
