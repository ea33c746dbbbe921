"""Commands that train and compare: run, demo, report, table."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from polymnia.cli.words import Overrides, With, bars, recipes
from polymnia.errors import UserError

if TYPE_CHECKING:
    from polymnia.report.tables import Report

app = typer.Typer()
WIDE = 160  # columns of tables that go into a file


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="a recipe.yaml")],
    overrides: Overrides = None,
    with_files: With = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything, print the plan and an estimate, write nothing")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="with --dry-run: print JSON")] = False,
) -> None:
    """Train a recipe's runs, evaluate after every task, write the report. The same command resumes."""
    from polymnia.recipe import parse_overrides

    if as_json and not dry_run:
        raise UserError("--json goes with --dry-run")
    changes = parse_overrides(overrides or [], with_files or [])
    if dry_run:
        _rehearse(recipe, changes, as_json)
    else:
        _study(recipe, changes)


def _rehearse(recipe: Path, changes: dict[str, object], as_json: bool) -> None:
    """A dry run. Exit code 1: something is missing; UserError: the recipe asks for what cannot be."""
    import json

    from rich.console import Console

    from polymnia.doctor.rehearsal import rehearse
    from polymnia.doctor.show_rehearsal import show_rehearsal

    found = rehearse(recipe, changes)
    if as_json:
        typer.echo(json.dumps(found.plain(), indent=1, ensure_ascii=False))
    else:
        console = Console()
        show_rehearsal(found, console if console.is_terminal else Console(width=WIDE))
    if found.wrong:
        raise UserError(found.wrong)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def extend(
    run: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    more: Annotated[Path, typer.Argument(help="a YAML file with the tasks to add, as a recipe has them (and watch)")],
    data: Annotated[Path | None, typer.Option(help="the run's data folder, if it was moved")] = None,
) -> None:
    """Teach a finished run more tasks, without learning again what it knows. The same command resumes."""
    from polymnia.report.page import write_report
    from polymnia.runs.extend import extend as go_on

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    with bars() as progress:
        done = go_on(run, more, data, lambda what, n, of: progress(run.name, what, n, of))
    _show(write_report([done.folder], done.folder / "report"))
    typer.echo(f"run: {done.folder}")


@app.command()
def demo(overrides: Overrides = None) -> None:
    """The main job on the embedded synthetic data: from nothing to a report and a search, in minutes."""
    from polymnia.recipe import parse_overrides
    from polymnia.runs.search import print_hits, search

    done = _study(recipes() / "demo.yaml", parse_overrides(overrides or []))
    best = next((r for r in done.runs if r.recipe.variant == "er"), done.runs[-1])
    query = "a slow low drum that fades away"
    typer.echo(f'\nSearching the sounds of {best.folder} for "{query}":')
    print_hits(search(best.folder, query, modality="audio", k=5))
    typer.echo(f'Try your own: polymnia search {best.folder} "a fast high bird over a hum" --in image')


def _study(recipe: Path, changes: dict[str, object]):  # noqa: ANN202 (its type would import torch)
    from polymnia.runs.study import study

    # A first SIGTERM is handled by the run, which saves; before it starts, it ends the process as usual.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    with bars() as progress:
        done = study(recipe, changes, progress)
    _show(done.report)
    return done


def _show(report: Report) -> None:
    from rich.console import Console

    from polymnia.report.tables import print_table

    console = Console()
    print_table(report, console)
    console.print(f"report: {report.html}", soft_wrap=True)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders; seeds of one variant are joined")],
    out: Annotated[Path, typer.Option(help="where the report goes")] = Path("report"),
) -> None:
    """Compare runs: Markdown, CSV, and one self-contained HTML page."""
    from polymnia.report.page import write_report

    _show(write_report(runs, out))


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(help="a paper's recipes, such as recipes/papers/audio")],
    runs: Annotated[list[Path], typer.Argument(help="run folders; seeds of one setting are joined")],
    out: Annotated[Path | None, typer.Option(help="a folder for the tables as Markdown, CSV and JSON")] = None,
    head: Annotated[
        Literal["row", "latest", "stored"],
        typer.Option(help="whose scores: row by row as the paper has it, the latest heads', the stored heads'"),
    ] = "row",
) -> None:
    """A paper's tables beside our runs: its values, ours, the difference, and what differs in protocol."""
    from rich.console import Console

    from polymnia.report.papers.sheets import compare
    from polymnia.report.papers.terminal import show
    from polymnia.report.papers.write import write

    compared = compare(folder, runs, head)
    show(compared, Console())
    if out is not None:
        typer.echo(f"tables: {', '.join(map(str, write(compared, out)))}")
