"""The command line. Heavy imports are inside the commands, so that --help answers at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from polymnia.errors import UserError
from polymnia.version import __version__

app = typer.Typer(
    name="polymnia",
    help="Teach one embedding space of audio, text and images task after task, measure what was kept, search with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
WIDE = 160  # columns of tables that go into a file
exports = typer.Typer(help="Put a run's encoder into the shape that a benchmark takes.", no_args_is_help=True)
app.add_typer(exports, name="export")


class _RunOrBenchmark(TyperGroup):
    """`polymnia eval RUN ...` is `polymnia eval suite RUN ...`: what is no benchmark's name is a run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["suite", *args]
        return super().parse_args(ctx, args)


eval_app = typer.Typer(
    cls=_RunOrBenchmark,
    help="Score an encoder: polymnia eval RUN --suite audio --data ROOT, or polymnia eval hear RUN TASKS.",
    no_args_is_help=True,
)
app.add_typer(eval_app, name="eval")
data_sets = typer.Typer(help="What is really there of a data set.", no_args_is_help=True)
app.add_typer(data_sets, name="data")
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value with dotted keys: train.lr=3e-4 only=[lwf]")]
RunFolder = Annotated[Path, typer.Argument(help="the folder of a run, such as runs/demo-lwf-s0-1a2b3c4d")]


With = Annotated[list[Path] | None, typer.Option("--with", help="a YAML file of dotted keys, as key=value words are")]


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
    with_files: With = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """What is installed; with a recipe, whether its data are there and what it will take. Exit code 1: not fit."""
    import json

    from rich.console import Console

    from polymnia.doctor.examine import examine
    from polymnia.doctor.show import show
    from polymnia.recipe import parse_overrides

    diagnosis = examine(recipe, parse_overrides(overrides or [], with_files or []))
    if as_json:
        typer.echo(json.dumps(diagnosis.plain(), indent=1, ensure_ascii=False))
    else:
        show(diagnosis, Console())
    if not diagnosis.healthy:
        raise typer.Exit(1)


OutFolder = Annotated[Path, typer.Argument(help="a new folder, which pip installs")]
AfterTask = Annotated[int | None, typer.Option("--task", help="the encoder after so many tasks (default: the last)")]
MovedData = Annotated[Path | None, typer.Option("--data", help="the run's data folder, if it was moved")]


@exports.command("hear")
def export_hear(
    run: RunFolder,
    out: OutFolder,
    task: AfterTask = None,
    timestamps: Annotated[
        Literal["frames", "sliding"] | None,
        typer.Option(help="the tower's own features over time (default where it has them), or windows of a second"),
    ] = None,
    data: MovedData = None,
) -> None:
    """Write a module with the common API of HEAR 2021 around the audio tower of a run."""
    from polymnia.export.modules import export_hear as export

    name = export(run, out, task, timestamps, data)
    typer.echo(f"{name}: pip install {out}; then polymnia export check {name}")


@exports.command("mteb")
def export_mteb(run: RunFolder, out: OutFolder, task: AfterTask = None, data: MovedData = None) -> None:
    """Write a module that gives a run's encoder to MTEB (texts, sounds: MAEB, pictures: MIEB)."""
    from polymnia.export.modules import export_mteb as export

    name = export(run, out, task, data)
    typer.echo(f"{name}: pip install {out}; then mteb.evaluate({name}.load_model(), tasks)")


@exports.command("check")
def export_check(
    module: Annotated[str, typer.Argument(help="the name of an importable module, or the folder of an export")],
    model: Annotated[str, typer.Option(help="weights to load instead of the module's own")] = "",
) -> None:
    """Do to a HEAR module what HEAR's validator does. Exit code 1: it has an error."""
    from polymnia.export.validate import find_module, validate

    found = find_module(module)
    problems = validate(found, model)
    for problem in problems:
        typer.echo(problem)
    if any(p.level == "error" for p in problems):
        raise typer.Exit(1)
    typer.echo(f"{found.__name__} keeps the common API of HEAR 2021")


@data_sets.command("check")
def data_check(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME ROOT [KEY=VALUE]...",
            help="a data set, such as clotho, the folder that it lies in, its keys; with --recipe only KEY=VALUE",
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="check all data sets of this recipe.yaml instead")] = None,
    out: Annotated[Path | None, typer.Option(help="the manifest (default: ./ROOT-NAME-check.csv); a folder")] = None,
    hashed: Annotated[bool, typer.Option("--hash/--no-hash", help="hash the content of every file")] = True,
    min_seconds: Annotated[float, typer.Option(min=0, help="shorter recordings are counted as short")] = 0.31,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Count what is present, missing, unreadable and too short; write a manifest. Exit code 1: not fit."""
    import json

    from rich.console import Console

    from polymnia.doctor.collection import Checking, check_words
    from polymnia.doctor.show import show_sets

    with _bars() as progress:
        checked = check_words(words or [], recipe, Checking(out, hashed, min_seconds), progress)
    if as_json:
        typer.echo(json.dumps([c.plain() for c in checked], indent=1, ensure_ascii=False))
    else:
        show_sets(checked, Console())
    if any(c.faults for c in checked):
        raise typer.Exit(1)


@eval_app.command("suite")
def eval_suite(  # noqa: PLR0913 (each is a word of the command)
    run: RunFolder,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="of the suite: watch.AVE.data.max_missing=0.9 max_broken=0.1")
    ] = None,
    suite: Annotated[str, typer.Option(help="of which paper (audio), or a recipe.yaml with a watch list")] = "audio",
    data: Annotated[Path | None, typer.Option(help="where the sets lie (default: the run's data folder)")] = None,
    task: AfterTask = None,
    only: Annotated[list[str] | None, typer.Option(help="only this set (may be repeated)")] = None,
    head: Annotated[
        Literal["latest", "stored"],
        typer.Option(help="shown: the heads after that task, or those kept when their pair was last taught"),
    ] = "latest",
    cache: Annotated[Path | None, typer.Option(help="for decoded media and features (default: the run's)")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: the run's)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Score a run's encoder on every set of a suite that is there. The same command goes on; done sets are kept."""
    import json

    from rich.console import Console

    from polymnia.recipe import parse_overrides
    from polymnia.runs.suite.score import complain, evaluate
    from polymnia.runs.suite.sets import read_suite
    from polymnia.runs.suite.show import plain, show

    wanted = read_suite(suite, _recipes(), parse_overrides(overrides or [])).only(only or ())
    with _bars() as progress:
        done = evaluate(run, wanted, data, task, cache, device, lambda *step: progress(wanted.name, *step))
    if as_json:
        typer.echo(json.dumps(plain(done, head), indent=1, ensure_ascii=False))
    else:
        show(done, head, Console())
    complain(done)


@eval_app.command("hear")
def eval_hear(  # noqa: PLR0913 (each is a word of the command)
    encoder: Annotated[str, typer.Argument(help="a run folder, or a module (or its folder) with HEAR's common API")],
    tasks_dir: Annotated[Path, typer.Argument(help="the folder of <task>-<version>-<mode> folders")],
    task: Annotated[list[str] | None, typer.Option(help="only this one, such as esc50 (may be repeated)")] = None,
    out: Annotated[Path | None, typer.Option(help="results and embeddings (default: ./hear-ENCODER)")] = None,
    probe: Annotated[Literal["hear", "linear"], typer.Option(help="HEAR's predictor, or no hidden layer")] = "hear",
    points: Annotated[int, typer.Option(min=1, max=16, help="points of HEAR's grid of 16")] = 8,
    rate: Annotated[int | None, typer.Option(help="read recordings of this rate and resample them")] = None,
    after: Annotated[int | None, typer.Option(help="of a run: the encoder after so many tasks")] = None,
    timestamps: Annotated[
        Literal["frames", "sliding"] | None,
        typer.Option(help="of a run: the tower's own features over time, or windows"),
    ] = None,
    data: MovedData = None,
    model: Annotated[str, typer.Option(help="of a module: its weights")] = "",
    options: Annotated[str, typer.Option(help="of a module: options of load_model, as JSON")] = "{}",
    full16: Annotated[list[str] | None, typer.Option(help="a task of the 'full16' mean (may be repeated)")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Score an encoder on HEAR's tasks, from their official folders, by the protocol of its kit."""
    from polymnia.eval.hear.results import FULL16
    from polymnia.eval.hear.runner import Options
    from polymnia.eval.probes.trainer import Settings
    from polymnia.export.named import named
    from polymnia.runs.hear import evaluate, summarise

    found = named(encoder, after, data, timestamps, model, options, device)
    folder = out or Path(f"hear-{Path(encoder).resolve().name}")
    how = Options(probe, points, Settings(device=device))
    with _bars() as progress:
        done = evaluate(found, tasks_dir, folder, task or (), how, rate, lambda *step: progress("hear", *step))
    typer.echo(summarise(done, folder, full16 or FULL16))
    typer.echo(f"results: {folder}")


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
