"""The command that brings an index to an encoder that has learned: index upgrade."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from polymnia.cli.index import app
from polymnia.cli.words import AfterTask, AsJson, IndexPlace, MovedData, RunFolder

if TYPE_CHECKING:
    from rich.console import Console

    from polymnia.runs.upgrading.advice import Advice
    from polymnia.runs.upgrading.upgrade import Upgraded

Ways = Literal["auto", "vectors", "queries", "lazy"]


@app.command("upgrade")
def index_upgrade(  # noqa: PLR0913 (each is a word of the command)
    index: IndexPlace,
    run: RunFolder,
    task: AfterTask = None,
    mode: Annotated[
        Ways,
        typer.Option(
            help="auto: what was measured to be best; vectors: map all rows; queries: leave all rows and map queries "
            "back; lazy: as auto, then embed what was mapped again by importance"
        ),
    ] = "auto",
    queries: Annotated[
        list[str] | None, typer.Option(help="what people ask with: audio, image, text (may be repeated; default: all)")
    ] = None,
    items: Annotated[int | None, typer.Option(min=0, help="lazy: embed so many items again, at most")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="lazy: for so many seconds, at most")] = None,
    max_loss: Annotated[float, typer.Option(help="points that mapping may cost on held-out anchors")] = 10.0,
    margin: Annotated[float, typer.Option(min=0, help="points by which another way must be better")] = 2.0,
    force: Annotated[bool, typer.Option("--force", help="map even where more is lost than --max-loss")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="measure and recommend only")] = False,
    data: MovedData = None,
    as_json: AsJson = False,
) -> None:
    """Bring an index to the encoder after another task without embedding everything again.

    Measures on held-out anchors of the run what old vectors are worth, mapped or as they are, and does what is best.
    """
    import json

    from rich.console import Console

    from polymnia.runs.upgrading.lazily import Budget
    from polymnia.runs.upgrading.upgrade import How, upgrade

    how = How(mode, _modalities(queries or []), Budget(items, seconds), margin, max_loss, force, dry_run)
    done = upgrade(index, run, task, data, how, lambda what: typer.echo(f"index: {what}", err=True))
    if as_json:
        typer.echo(json.dumps(plain(done), indent=1, ensure_ascii=False))
    else:
        show(done, dry_run, Console())


def _modalities(given: list[str]) -> tuple[Any, ...]:
    from polymnia.types import MODALITIES, UserError

    strange = [m for m in given if m not in MODALITIES]
    if strange:
        raise UserError(f"--queries {strange[0]}: no modality; there are {', '.join(MODALITIES)}")
    return tuple(given)


def plain(done: Upgraded) -> dict[str, Any]:
    """What was found and done, as plain data."""
    from dataclasses import asdict

    found = [
        {
            "from": a.old,
            "to": a.new,
            "modality": a.modality,
            "action": a.action,
            "why": a.why,
            "adapter": a.fitted.kind,
            "query_maps": dict(a.backwards),
            "held_out": a.chosen,
            "test": a.measured,
            "weights": dict(a.weights),
            "won_back": _won_back(a),
            "lines": [asdict(line) for line in a.lines],
        }
        for a in done.advices
    ]
    again = None if done.again is None else asdict(done.again)
    said = {"encoder": asdict(done.card), "mapped": done.mapped, "left": done.left, "seconds": done.seconds}
    said["seconds_to_embed_all"] = done.all_again
    return {**said, "embedded_again": again, "queries_mapped_for": list(done.bridged), "measures": found}


def show(done: Upgraded, dry: bool, console: Console) -> None:
    """The measures as a table, then what was done."""
    from rich.table import Table

    if not done.advices:
        console.print(f"every row is of the encoder after task {done.card.task} ({done.card.name}) already")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("task", "direction"):
        table.add_column(name)
    lines = [line for a in done.advices for line in a.lines]
    back = any(line.back is not None for line in lines)
    for name in ("kept", "stale", "upgraded", "re-embedded", *(["queries back"] if back else [])):
        table.add_column(name, justify="right")
    table.add_column("better")
    for line in lines:
        values = (line.kept, line.stale, line.upgraded, line.self, *([line.back] if back else []))
        table.add_row(line.task, line.direction, *("" if v is None else f"{v:.1f}" for v in values), line.action)
    if table.row_count:
        console.print("mean of R@1, R@5 and R@10 on test items of the run, in percent")
        console.print(table)
    mapped = not dry and done.again is None and done.mapped > 0
    for line in (line for a in done.advices for line in _words(a, mapped)):
        console.print(line)
    if done.all_again is not None:
        console.print(f"embedding all media again would take about {done.all_again:,.0f} s (estimated from a few)")
    if not dry and (done.advices or done.again):
        console.print(_summary(done))


def _words(a: Advice, mapped: bool) -> Iterator[str]:
    """What is said of one encoder and modality."""
    yield f"{a.modality}, from task {a.old} to {a.new}: [bold]{a.action}[/bold] ({a.fitted.kind}); {a.why}"
    if a.action == "re-embed" and mapped:
        yield "  they are mapped for now; --mode lazy embeds them again, the most doubtful first"
    if a.backwards:
        found = f" find {a.chosen[a.way]:.1f} on held-out anchors" if a.way in a.chosen else ""
        yield f"  queries mapped back ({', '.join(f'{m}: {kind}' for m, kind in a.backwards.items())}){found}"
    if (share := _won_back(a)) is not None:
        yield f"  of what stale vectors lose on test items, mapping wins back {100 * share:.0f} %"


def _won_back(advice: Advice) -> float | None:
    from polymnia.spaces.compatibility import won_back

    share = won_back(advice.measured) if advice.measured else float("nan")
    return share if share == share else None


def _summary(done: Upgraded) -> str:
    if done.bridged:
        return (
            f"all {done.left:,} rows stay; queries of the encoder after task {done.card.task} are mapped back to them"
        )
    said = f"{done.mapped:,} rows mapped in {done.seconds:.1f} s, {done.left:,} left in the space that they are in"
    if done.again is not None:
        again = done.again
        said += f"; {again.items:,} items embedded again in {again.took:.1f} s, {again.left:,} still mapped"
        said += "".join(f"\n  {item}: {why}" for item, why in again.failed[:5])
    return said
