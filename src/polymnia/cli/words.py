"""What several commands share: their words, the recipes that come along, the progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from polymnia.errors import UserError

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value with dotted keys: train.lr=3e-4 only=[lwf]")]
With = Annotated[list[Path] | None, typer.Option("--with", help="a YAML file of dotted keys, as key=value words are")]
RunFolder = Annotated[Path, typer.Argument(help="the folder of a run, such as runs/demo-lwf-s0-1a2b3c4d")]
AfterTask = Annotated[int | None, typer.Option("--task", help="the encoder after so many tasks (default: the last)")]
MovedData = Annotated[Path | None, typer.Option("--data", help="the run's data folder, if it was moved")]

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
IndexPlace = Annotated[str, typer.Argument(metavar="INDEX", help="a folder, or what LanceDB takes: s3://bucket/index")]
RunsNow = Annotated[list[Path] | None, typer.Option("--run", help="where the index's run is, if it was moved")]


def recipes() -> Path:
    """The recipes that come with polymnia: beside the sources, or inside an installed package."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here.parents[1] / "recipes", here / "recipes"):
        if (folder / "demo.yaml").exists():
            return folder
    raise UserError("the recipes that come with polymnia were not installed: clone the repository")


@contextmanager
def bars() -> Iterator[Callable[[str, str, int, int], None]]:
    """A progress bar a run, on stderr; a line a stage where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    said: dict[str, str] = {}
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as drawn:
        shown: dict[str, object] = {}

        def show(name: str, what: str, done: int, total: int) -> None:
            if not console.is_terminal:
                if said.get(name) != what:
                    said[name] = what
                    typer.echo(f"{name}: {what}", err=True)
                return
            if name not in shown:
                shown[name] = drawn.add_task(name, total=None)
            if total:
                drawn.update(shown[name], description=f"{name}: {what}", completed=done, total=total)  # type: ignore[arg-type]
            else:
                drawn.update(shown[name], description=f"{name}: {what}")  # type: ignore[arg-type]

        yield show
