"""The command that searches: a run's own items, or an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from polymnia.cli import index as index_commands
from polymnia.cli.words import AsJson, RunsNow
from polymnia.errors import UserError

app = typer.Typer()


@index_commands.app.command("search")
@app.command()
def search(  # noqa: PLR0913 (each is a word of the command)
    place: Annotated[str, typer.Argument(metavar="WHERE", help="an index, or the folder of a run")],
    query: Annotated[str | None, typer.Argument(help="a text, or the path of a recording or a picture")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="how many hits")] = 10,
    modality: Annotated[
        Literal["audio", "image", "text", "any"] | None,
        typer.Option("--in", "--modality", help="what to search in (default: sounds and pictures; of a run: sounds)"),
    ] = None,
    where: Annotated[str | None, typer.Option(help="such as \"duration < 10 AND topic IN ('rain', 'wind')\"")] = None,
    like: Annotated[list[str] | None, typer.Option(help="more like this item or file (may be repeated)")] = None,
    unlike: Annotated[list[str] | None, typer.Option(help="less like this item or file (may be repeated)")] = None,
    like_weight: Annotated[float, typer.Option(min=0, help="of --like; the query itself weighs 1")] = 0.75,
    unlike_weight: Annotated[float, typer.Option(min=0, help="of --unlike")] = 0.15,
    exact: Annotated[bool, typer.Option("--exact", help="compare every row")] = False,
    windows: Annotated[bool, typer.Option("--windows", help="all near windows, not each item once")] = False,
    at: Annotated[int | None, typer.Option(min=1, help="the index as it was at this version")] = None,
    runs: RunsNow = None,
    task: Annotated[int | None, typer.Option(help="of a run: the encoder after so many tasks (default: all)")] = None,
    data: Annotated[Path | None, typer.Option(help="the run's data folder, if it was moved")] = None,
    as_json: AsJson = False,
) -> None:
    """Search an index, or the test items of a run, by text, sound or picture."""
    if Path(place, "recipe.yaml").exists() or not _is_index(place):
        given = {"--where": where, "--like": like, "--unlike": unlike, "--exact": exact, "--windows": windows,
                 "--at": at, "--run": runs}  # fmt: skip
        _search_run(Path(place), query, (modality, k, task, data), [n for n, v in given.items() if v], as_json)
        return
    if task is not None:
        raise UserError(f"--task goes with a run; the encoders of {place} say after which task they are")
    from polymnia.runs.lookup import Query, Weights

    asked = Query(query, tuple(like or ()), tuple(unlike or ()), Weights(1.0, like_weight, unlike_weight))
    how = {"k": k, "modality": modality, "where": where, "exact": exact, "per_item": not windows}
    _search_index(place, asked, at, how, (runs, data), as_json)


def _is_index(place: str) -> bool:
    return "://" in place or Path(place, "items.lance").exists()


def _search_run(run: Path, query: str | None, how: tuple[Any, ...], strange: list[str], as_json: bool) -> None:
    from dataclasses import asdict

    from polymnia.runs.search import print_hits
    from polymnia.runs.search import search as find

    if strange:
        raise UserError(f"{', '.join(strange)} need an index, and {run} is none")
    if "any" in how:
        raise UserError(f"--in any needs an index, and {run} is none")
    if query is None:
        raise UserError("nothing is asked: give words, or the path of a recording or a picture")
    hits = find(run, query, *how)
    if as_json:
        _print([asdict(h) for h in hits])
    else:
        print_hits(hits)


def _search_index(
    place: str, query: Any, at: int | None, how: dict[str, Any], moved: tuple[list[Path] | None, Path | None],
    as_json: bool,
) -> None:  # fmt: skip
    from dataclasses import asdict

    from rich.console import Console

    from polymnia.index.store import Index
    from polymnia.runs.lookup import Encoders, find
    from polymnia.runs.show_index import show_hits, where

    runs, data = moved
    hits = find(Index.open(place, at), query, Encoders(runs or (), data), **how)
    if as_json:
        _print([{**asdict(h), "path": where(h)} for h in hits])
    else:
        show_hits(hits, Console())


def _print(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
