"""The command that embeds files: embed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from polymnia.cli.rates import rates
from polymnia.cli.words import AfterTask, MovedData, RunFolder

if TYPE_CHECKING:
    from polymnia.runs.embedding.embed import Embedded

app = typer.Typer()


@app.command()
def embed(  # noqa: PLR0913 (each is a word of the command)
    run: RunFolder,
    source: Annotated[
        Path | None,
        typer.Argument(help="a folder, a manifest (.csv, .jsonl), a data set's folder; default: the run's own items"),
    ] = None,
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="of --dataset")] = None,
    out: Annotated[Path, typer.Option(help="the folder of vectors; what it holds already is kept")] = Path("vectors"),
    dataset: Annotated[str, typer.Option(help="SOURCE is the folder of this data set, such as esc10")] = "",
    split: Annotated[
        Literal["test", "valid", "train", "all"] | None,
        typer.Option(help="of the run's items (default: test), a manifest or a data set (default: all)"),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="only audio, image or text (may be repeated; default: all that the run has towers for)"),
    ] = None,
    task: AfterTask = None,
    data: MovedData = None,
    window: Annotated[
        float | None, typer.Option(help="seconds of a window (default: what the audio tower takes at once)")
    ] = None,
    hop: Annotated[float | None, typer.Option(help="seconds from window to window (default: half a window)")] = None,
    caption_from: Annotated[
        Literal["none", "name", "folder", "sidecar"],
        typer.Option(help="of a folder: captions from names of files or folders, or from rain.txt beside rain.wav"),
    ] = "none",
    links: Annotated[bool, typer.Option("--links", help="of a folder: follow links")] = False,
    max_broken: Annotated[float, typer.Option(min=0, max=1, help="share of items that may fail")] = 0.1,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="threads that decode (default: cores - 1)")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="media encoded together, at most")] = 32,
    prune: Annotated[bool, typer.Option("--prune", help="remove vectors of what is gone, even most of them")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Embed sounds, pictures, videos and texts of any size with a run's encoder. The same command goes on."""
    from polymnia.runs.embedding.ask import Ask
    from polymnia.runs.embedding.embed import embed as make
    from polymnia.runs.embedding.work import How

    ask = Ask(source, dataset, tuple(keys or ()), split, tuple(only or ()), links, caption_from)
    how = How(task, data, window, hop, max_broken, workers or How().workers, batch, prune=prune)
    with rates("embed") as progress:
        done = make(run, out, ask, how, progress)
    _show(done, as_json)


def _show(done: Embedded, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps({**asdict(done), "folder": str(done.folder)}, indent=1))
        return
    of = ", ".join(f"{done.counts[m]:,} {m}" for m in ("audio", "image", "text") if done.counts[m])
    typer.echo(f"{done.folder}: {done.counts['items']:,} items ({of or 'none'}), {done.counts['rows']:,} vectors")
    typer.echo(f"made {done.made:,}, kept {done.kept:,}, removed {done.removed:,}, failed {done.failed:,}")
    for id, why in done.listed[:5]:
        typer.echo(f"  {id}: {why}")
    left = ", ".join(f"{s.count:,} x {why}" for why, s in sorted(done.skipped.items()))
    if left:
        typer.echo(f"left out: {left}")
