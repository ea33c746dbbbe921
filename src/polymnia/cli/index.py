"""Commands that keep an index: index create, add, delete, info, compact, versions, restore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polymnia.cli.words import AsJson, IndexPlace, MovedData, RunsNow
from polymnia.errors import UserError

if TYPE_CHECKING:
    from polymnia.index.store import Index

app = typer.Typer(help="An index: a database of vectors to search in.", no_args_is_help=True)
VectorsFolder = Annotated[Path, typer.Argument(help="a folder that `polymnia embed` wrote")]


@app.command("create")
def create(
    index: IndexPlace,
    vectors: VectorsFolder,
    exact_below: Annotated[
        int, typer.Option(min=0, help="rows of an encoder up to which every one is compared")
    ] = 20_000,
    recall: Annotated[float, typer.Option(min=0.5, max=1, help="recall@10 that approximate search must reach")] = 0.98,
    runs: RunsNow = None,
    data: MovedData = None,
    as_json: AsJson = False,
) -> None:
    """Make an index of a folder of vectors. If it was killed, the same command goes on."""
    from polymnia.index.about import Settings
    from polymnia.index.opening import there_is
    from polymnia.index.store import Index
    from polymnia.index.vectors import read_vectors

    card = read_vectors(vectors).card
    if not there_is(index):
        Index.create(index, card, Settings(exact_below, recall))
    elif Index.open(index).spaces.keys() - {card.signature}:
        raise UserError(f"{index} is an index of another encoder already; create this one in another folder")
    _add(index, vectors, runs, data, as_json)


@app.command("add")
def add(
    index: IndexPlace,
    vectors: VectorsFolder,
    replace: Annotated[
        bool, typer.Option("--replace", help="also put files in the place of others of that name in another folder")
    ] = False,
    runs: RunsNow = None,
    data: MovedData = None,
    as_json: AsJson = False,
) -> None:
    """Put the vectors of a folder into an index; what is there as it is stays. The same command goes on."""
    _add(index, vectors, runs, data, as_json, replace)


def _add(
    index: str, vectors: Path, runs: list[Path] | None, data: Path | None, as_json: bool, over: bool = False
) -> None:
    from dataclasses import asdict

    from polymnia.cli.words import bars
    from polymnia.index.store import Index
    from polymnia.index.vectors import read_vectors

    source, opened = read_vectors(vectors), Index.open(index)
    if not source.complete:
        typer.echo(f"{vectors}: `polymnia embed` has not come to its end there; adding what is done", err=True)
    with bars() as show:
        total = source.rows
        done = opened.add(
            source, source.card, lambda a: show("index", "rows", a.new + a.replaced + a.same, total), over
        )
        _settle(opened, runs, data, lambda what: show("index", what, 0, 0))
    if as_json:
        _print({"index": index, **asdict(done), "rows": opened.count(), "version": opened.version})
    else:
        typer.echo(
            f"{index}: {done.new:,} rows new, {done.replaced:,} replaced, {done.same:,} there already, "
            f"{done.removed:,} removed; {opened.count():,} rows, version {opened.version}"
        )


def _settle(index: Index, runs: list[Path] | None, data: Path | None, say: Callable[[str], None]) -> None:
    """Choose the approximate index where one is due, with texts as queries where the encoder is at hand."""
    from polymnia.index.database import OvertakenError

    queries = {}
    if index.unsettled:
        from polymnia.runs.lookup import Encoders, questions

        try:
            queries = questions(index, Encoders(runs or (), data))
        except UserError as error:
            typer.echo(f"approximate search is measured with rows alone, no texts as queries: {error}", err=True)
    try:
        index.settle(queries, say)
    except OvertakenError:  # the rows are in, and every one that is not in the approximate index is compared
        said = "others add to it now; approximate search waits for the next add or compact"
        typer.echo(f"{index.uri}: {said}", err=True)


@app.command("delete")
def delete(
    index: IndexPlace,
    where: Annotated[str | None, typer.Option(help="rows that pass a filter: \"topic = 'rain'\"")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="all rows of an item (may be repeated)")] = None,
    as_json: AsJson = False,
) -> None:
    """Take rows out. Earlier versions still have them until `index compact` forgets these."""
    from polymnia.index.store import Index

    opened = Index.open(index)
    gone = opened.delete(where, ids or ())
    if as_json:
        _print({"index": index, "deleted": gone, "rows": opened.count(), "version": opened.version})
    else:
        typer.echo(f"{index}: {gone:,} rows deleted; {opened.count():,} rows, version {opened.version}")


@app.command("info")
def info(
    index: IndexPlace,
    at: Annotated[int | None, typer.Option(min=1, help="as it was at this version")] = None,
    as_json: AsJson = False,
) -> None:
    """What is in an index, which encoders made it, how it searches and how well."""
    from dataclasses import asdict

    from rich.console import Console

    from polymnia.index.store import Index
    from polymnia.runs.show_index import show_info

    found = Index.open(index, at).info()
    if as_json:
        _print(asdict(found))
    else:
        show_info(found, Console())


@app.command("versions")
def versions(index: IndexPlace, as_json: AsJson = False) -> None:
    """The states of an index that can be searched (--at) and restored."""
    from dataclasses import asdict

    from rich.console import Console

    from polymnia.index.store import Index
    from polymnia.runs.show_index import show_versions

    found = Index.open(index).versions()
    if as_json:
        _print([{**asdict(v), "made": v.made.isoformat()} for v in found])
    else:
        show_versions(found, Console())


@app.command("restore")
def restore(index: IndexPlace, version: Annotated[int, typer.Argument(min=1, help="see `index versions`")]) -> None:
    """Make an earlier version the latest one, as a new version."""
    from polymnia.index.store import Index

    opened = Index.open(index)
    opened.restore(version)
    typer.echo(f"{index}: {opened.count():,} rows, version {opened.version}")


@app.command("compact")
def compact(
    index: IndexPlace,
    keep_days: Annotated[float | None, typer.Option(min=0, help="forget versions that are older")] = None,
    keep_versions: Annotated[int | None, typer.Option(min=1, help="forget all but so many of the latest")] = None,
    runs: RunsNow = None,
    data: MovedData = None,
    as_json: AsJson = False,
) -> None:
    """Join small files, make approximate search fit for all rows, forget old versions if asked to."""
    from polymnia.cli.words import bars
    from polymnia.index.store import Index

    opened = Index.open(index)
    before = opened.info()
    opened.compact(keep_days, keep_versions)
    with bars() as show:
        _settle(opened, runs, data, lambda what: show("index", what, 0, 0))
    after = opened.info()
    if as_json:
        _print({"index": index, "bytes": [before.bytes, after.bytes], "versions": [before.versions, after.versions]})
    else:
        size = "" if after.bytes is None else f", {(before.bytes or 0) / 1e6:,.1f} to {after.bytes / 1e6:,.1f} MB"
        typer.echo(f"{index}: {before.versions} to {after.versions} versions{size}")


def _print(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
