"""The dependency rule, and that the linter which keeps it is awake."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import polymnia

ROOT = Path(__file__).parents[1]
LINT = """
import sys
from importlinter.cli import lint_imports
sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))
"""
PLANTED = {
    "Imports point down": ("ops/search.py", "from polymnia.models.model import Model"),
    "A part does not know its siblings": ("methods/er.py", "from polymnia.methods.lwf import Config as Other"),
    "Evaluation and the index see a function, never a model": (
        "eval/matrix.py",
        "from polymnia.models.model import Model",
    ),
    "The command line starts without torch": ("errors.py", "import torch"),
}


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    """The contracts over the package in ``path``."""
    words = [sys.executable, "-c", LINT, str(ROOT / ".importlinter")]
    there = os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=path, env=there)


def test_imports_keep_the_dependency_rule():
    done = lint(ROOT / "src")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_notices_an_import_that_breaks_it(tmp_path: Path):
    source = Path(polymnia.__file__).parent
    shutil.copytree(source, tmp_path / "polymnia", ignore=shutil.ignore_patterns("__pycache__"))
    for name, line in PLANTED.values():
        path = tmp_path / "polymnia" / name
        path.write_text(path.read_text() + f"\n{line}\n")
    said = lint(tmp_path).stdout
    assert all(f"{rule} BROKEN" in said for rule in PLANTED), said


@pytest.mark.parametrize("module", ["polymnia", "polymnia.cli"])
def test_importing_the_command_line_imports_neither_torch_nor_any_other_heavy_package(module: str):
    code = f"import {module}, sys; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "torch",
        "numpy",
        "pydantic",
        "transformers",
        "sklearn",
        "matplotlib",
        "soundfile",
        "jinja2",
        "yaml",
        "rich.table",
    }
    assert module in found and heavy.isdisjoint(found)
