"""The command line. Heavy imports are inside the commands, so that --help answers at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from polymnia.errors import UserError
from polymnia.version import __version__

app = typer.Typer(
    name="polymnia",
    help="Teach one embedding space of audio, text and images task after task, measure what was kept, search with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value with dotted keys: train.lr=3e-4 only=[lwf]")]
RunFolder = Annotated[Path, typer.Argument(help="the folder of a run, such as runs/demo-lwf-s0-1a2b3c4d")]


@app.command()
def run(recipe: Annotated[Path, typer.Argument(help="a recipe.yaml")], overrides: Overrides = None) -> None:
    """Train a recipe's runs, evaluate after every task, write the report. The same command resumes."""
    from polymnia.recipe import parse_overrides

    _study(recipe, parse_overrides(overrides or []))


@app.command()
def demo(overrides: Overrides = None) -> None:
    """The main job on the embedded synthetic data: from nothing to a report and a search, in minutes."""
    from polymnia.recipe import parse_overrides
    from polymnia.runs.search import print_hits, search

    done = _study(_recipes() / "demo.yaml", parse_overrides(overrides or []))
    best = next((r for r in done.runs if r.recipe.variant == "er"), done.runs[-1])
    query = "a slow low drum that fades away"
    typer.echo(f'\nSearching the sounds of {best.folder} for "{query}":')
    print_hits(search(best.folder, query, modality="audio", k=5))
    typer.echo(f'Try your own: polymnia search {best.folder} "a fast high bird over a hum" --in image')


def _recipes() -> Path:
    """The recipes that come with polymnia: beside the sources, or inside an installed package."""
    here = Path(__file__).resolve().parent
    for folder in (here.parents[1] / "recipes", here / "recipes"):
        if (folder / "demo.yaml").exists():
            return folder
    raise UserError("the recipes that come with polymnia were not installed: clone the repository")


def _study(recipe: Path, changes: dict[str, object]):  # noqa: ANN202 (its type would import torch)
    from rich.console import Console

    from polymnia.report.tables import print_table
    from polymnia.runs.study import study

    # A first SIGTERM is handled by the run, which saves; before it starts, it ends the process as usual.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    with _bars() as progress:
        done = study(recipe, changes, progress)
    console = Console()
    print_table(done.report, console)
    console.print(f"report: {done.report.html}", soft_wrap=True)
    return done


@contextmanager
def _bars() -> Iterator[Callable[[str, str, int, int], None]]:
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
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:
        shown: dict[str, object] = {}

        def show(name: str, what: str, done: int, total: int) -> None:
            if not console.is_terminal:
                if said.get(name) != what:
                    said[name] = what
                    typer.echo(f"{name}: {what}", err=True)
                return
            if name not in shown:
                shown[name] = bars.add_task(name, total=None)
            if total:
                bars.update(shown[name], description=f"{name}: {what}", completed=done, total=total)  # type: ignore[arg-type]
            else:
                bars.update(shown[name], description=f"{name}: {what}")  # type: ignore[arg-type]

        yield show


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders; seeds of one variant are joined")],
    out: Annotated[Path, typer.Option(help="where the report goes")] = Path("report"),
) -> None:
    """Compare runs: Markdown, CSV, and one self-contained HTML page."""
    from rich.console import Console

    from polymnia.report.page import write_report
    from polymnia.report.tables import print_table

    written = write_report(runs, out)
    print_table(written, Console())
    typer.echo(f"report: {written.html}")


@app.command()
def search(
    run: RunFolder,
    query: Annotated[str, typer.Argument(help="a text, or the path of a recording or a picture")],
    k: Annotated[int, typer.Option("-k", min=1, help="how many hits")] = 10,
    modality: Annotated[
        Literal["audio", "image", "text"] | None,
        typer.Option("--in", help="what to search in (default: audio where there is any)"),
    ] = None,
    task: Annotated[int | None, typer.Option(help="the encoder after so many tasks (default: the last)")] = None,
    data: Annotated[Path | None, typer.Option(help="the run's data folder, if it was moved")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Search the test items of a run with its own encoder, by text, sound or picture."""
    import json
    from dataclasses import asdict

    from polymnia.runs.search import print_hits
    from polymnia.runs.search import search as find

    hits = find(run, query, modality, k, task, data)
    if as_json:
        typer.echo(json.dumps([asdict(h) for h in hits], indent=1, ensure_ascii=False))
    else:
        print_hits(hits)


@app.command()
def doctor(
    recipe: Annotated[Path | None, typer.Argument(help="a recipe.yaml to look into, too")] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """What is installed; with a recipe, whether its data are there and what it will take. Exit code 1: not fit."""
    import json

    from rich.console import Console

    from polymnia.doctor.examine import examine
    from polymnia.doctor.show import show
    from polymnia.recipe import parse_overrides

    diagnosis = examine(recipe, parse_overrides(overrides or []))
    if as_json:
        typer.echo(json.dumps(diagnosis.plain(), indent=1, ensure_ascii=False))
    else:
        show(diagnosis, Console())
    if not diagnosis.healthy:
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """The version."""
    typer.echo(__version__)


def main() -> None:
    """The entry point: bad input ends with one line on stderr and exit code 2, not with a traceback."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
