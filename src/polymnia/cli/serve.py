"""The command that puts an index behind an HTTP API and a page: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polymnia.cli.words import MovedData
from polymnia.errors import UserError

app = typer.Typer()
MB = 1_000_000


@app.command()
def serve(  # noqa: PLR0913 (each is a word of the command)
    index: Annotated[str, typer.Argument(help="the folder of an index")],
    host: Annotated[str, typer.Option(help="the address to listen on; all but loopback need a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(envvar="POLYMNIA_TOKEN", help="what clients must know (in the environment nobody sees it)"),
    ] = None,
    allow_add: Annotated[bool, typer.Option("--allow-add", help="let clients put files into the index")] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="the search page, or the API alone")] = True,
    run: Annotated[Path | None, typer.Option(help="the run that made the index, if it was moved")] = None,
    data: MovedData = None,
    max_upload: Annotated[int, typer.Option(min=1, max=1000, help="MB of one file")] = 32,
    max_seconds: Annotated[float, typer.Option(min=0.1, max=14400, help="of a recording")] = 300,
    max_pixels: Annotated[int, typer.Option(min=1, max=89_000_000, help="of a picture")] = 50_000_000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="searches at a time")] = 2,
    queue: Annotated[int, typer.Option(min=0, max=10_000, help="searches that may wait")] = 32,
    rate: Annotated[float, typer.Option(min=0, help="searches a second of one client; 0: any number")] = 10,
    patience: Annotated[float, typer.Option(min=0.1, max=600, help="seconds that a search may take")] = 30,
) -> None:
    """Serve an index: an HTTP API and a search page. Ctrl-C or SIGTERM finishes what was begun, and stops it."""
    from polymnia.serve.settings import Limits, Settings, check

    limits = Limits(max_upload * MB, max_seconds, max_pixels, patience, workers, queue, rate)
    settings = Settings(host, port, token, allow_add, page, limits)
    check(settings)
    try:
        from polymnia.serve.start import start
    except ImportError as error:
        raise UserError(f"serving needs the package {error.name}: pip install 'polymnia[serve]'") from error
    start(index, settings, run, data, lambda said: typer.echo(said, err=True))
