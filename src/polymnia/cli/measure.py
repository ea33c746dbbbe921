"""Commands that look and score: doctor, data, eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from polymnia.cli.words import AfterTask, MovedData, Overrides, RunFolder, With, bars, recipes

app = typer.Typer()


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
data_sets = typer.Typer(help="What is really there of a data set, and splits made from it.", no_args_is_help=True)
app.add_typer(data_sets, name="data")


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

    with bars() as progress:
        checked = check_words(words or [], recipe, Checking(out, hashed, min_seconds), progress)
    if as_json:
        typer.echo(json.dumps([c.plain() for c in checked], indent=1, ensure_ascii=False))
    else:
        show_sets(checked, Console())
    if any(c.faults for c in checked):
        raise typer.Exit(1)


@data_sets.command("build")
def data_build(
    name: Annotated[str, typer.Argument(help="what to make: coco-supercategory, LPI's twelve tasks")],
    root: Annotated[Path, typer.Argument(help="the folder that the data set lies in")],
    out: Annotated[Path | None, typer.Option(help="a folder (default: beside the files it is made of)")] = None,
) -> None:
    """Make a split that no one publishes from a data set's official files, and say how large its parts are."""
    from polymnia.data.builders import build

    for line in build(name, root, out):
        typer.echo(line)


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

    wanted = read_suite(suite, recipes(), parse_overrides(overrides or [])).only(only or ())
    with bars() as progress:
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
    with bars() as progress:
        done = evaluate(found, tasks_dir, folder, task or (), how, rate, lambda *step: progress("hear", *step))
    typer.echo(summarise(done, folder, full16 or FULL16))
    typer.echo(f"results: {folder}")
