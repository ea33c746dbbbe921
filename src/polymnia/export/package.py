"""A folder that pip installs: one Python package with data files in it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from polymnia.types import UserError
from polymnia.version import __version__

PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.0"
description = "{description}"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["{needs}>={version}"]

[tool.setuptools]
packages = ["{name}"]

[tool.setuptools.package-data]
{name} = ["**/*"]
"""


def module_name(run: Path, suffix: str = "") -> str:
    """The name under which a run's module is imported: ``runs/demo-lwf-s0-1a2b`` is ``polymnia_demo_lwf_s0_1a2b``."""
    return "polymnia_" + re.sub(r"\W", "_", run.resolve().name + suffix, flags=re.ASCII)


def plain(name: str) -> str:
    """A run's name without what ends or bends a text in Python, TOML or Markdown."""
    return re.sub(r"[^\w .+-]", "_", name)


def refuse_full(out: Path) -> None:
    """Raises UserError where ``out`` already holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already holds something: give a folder that is new or empty")


def write(  # noqa: PLR0913 (each is a file, or a line in one)
    out: Path, name: str, description: str, needs: str, code: str, readme: str, fill: Callable[[Path], None]
) -> None:
    """Write the folder whole or not at all. ``fill`` puts the data files into the package's own folder.

    Raises UserError where ``out`` already holds something.
    """
    with new_folder(out) as partial:
        inside = partial / name
        inside.mkdir()
        project = PROJECT.format(name=name, description=description, needs=needs, version=__version__)
        for path, text in (
            (partial / "pyproject.toml", project),
            (partial / "README.md", readme),
            (inside / "__init__.py", code),
        ):
            path.write_text(text, encoding="utf-8")
        fill(inside)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``out`` at the end of the block, or vanishes where it fails.

    Raises UserError where ``out`` already holds something.
    """
    refuse_full(out)
    partial = out.resolve().with_name(f".{out.resolve().name}.{os.getpid()}.tmp")
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, out.resolve())
    finally:
        shutil.rmtree(partial, ignore_errors=True)
