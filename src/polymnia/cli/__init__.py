"""The command line. Heavy imports are inside the commands, so that --help answers at once."""

from __future__ import annotations

import sys

import typer

from polymnia.cli import embed, export, find, index, learn, measure, serve, upgrade  # noqa: F401 (of index)
from polymnia.errors import UserError
from polymnia.version import __version__

app = typer.Typer(
    name="polymnia",
    help="Teach one embedding space of audio, text and images task after task, measure what was kept, search with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
for part in (learn, measure, embed, find, serve):
    app.add_typer(part.app)
app.add_typer(index.app, name="index")
app.add_typer(export.app, name="export")


@app.command()
def version() -> None:
    """The version."""
    typer.echo(__version__)


def main() -> None:
    """The entry point: bad input ends with one line on stderr and exit code 2, not with a traceback."""
    try:
        app(prog_name="polymnia")  # whatever started it: python -m, a test
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
