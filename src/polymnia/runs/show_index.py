"""What an index and its hits look like in a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polymnia.index.about import Tuned
from polymnia.index.hit import Hit
from polymnia.index.info import Info
from polymnia.index.schema import WHOLE
from polymnia.index.versions import Version


def where(hit: Hit) -> str:
    """The file of a hit, relative to the working directory where it lies inside it, with ``#t=start,end`` for a window
    in seconds and ``#number`` for a row of a container; the item's id where there is no file. Names are as by
    ``data.names.escape``."""
    if hit.source is None:
        return hit.id
    path = Path(hit.root or ".", hit.source)
    here = Path(os.path.abspath(path))
    shown = str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else path)
    if hit.entry is not None:
        return f"{shown}#{hit.entry}"
    if hit.window != WHOLE and hit.start is not None:
        return f"{shown}#t={hit.start:g},{hit.end:g}" if hit.end is not None else f"{shown}#t={hit.start:g}"
    return shown


def show_hits(hits: Sequence[Hit], console: Console) -> None:
    """Hits as a table; what no hit has is no column."""
    if not hits:
        console.print("nothing was found")
        return
    several = len({h.encoder for h in hits}) > 1 or any(h.score != h.cosine for h in hits)
    columns = {
        "": [str(h.rank) for h in hits],
        "score": [f"{h.score:.3f}" for h in hits],
        "cosine": [f"{h.cosine:.3f}" if several else "" for h in hits],
        "where": [where(h) for h in hits],
        "of": [h.modality for h in hits],
        "task": [h.task or "" for h in hits],
        "caption": [h.caption or h.topic or "" for h in hits],
        "encoder": [h.encoder[:8] if several else "" for h in hits],
        "doubt": ["" if h.doubt is None else f"{h.doubt:.2f}" for h in hits],
    }
    table = _table(*((n, n in ("", "score", "cosine", "doubt")) for n, cells in columns.items() if any(cells)))
    for row in zip(*(cells for cells in columns.values() if any(cells)), strict=True):
        table.add_row(*map(plain, row))
    console.print(table)


def show_info(info: Info, console: Console) -> None:
    """An index: what is in it, who made it, how it searches."""
    console.print(plain(f"{info.uri}: {info.items:,} items, {info.rows:,} rows; version {info.version}{_size(info)}"))
    table = _table(("encoder", False), ("run", False), ("after task", False), ("rows", False), ("made", False))
    for space in info.spaces:
        card = space.card
        after = f"{card.task} {card.name}" if card.name else str(card.task)
        table.add_row(*map(plain, (card.signature, card.run, after, _counts(space.rows), _counts(space.made))))
    console.print(table)
    console.print(plain(_how(info)))


def show_versions(versions: Sequence[Version], console: Console) -> None:
    """The states that can be opened, the oldest first."""
    table = _table(("version", True), ("made (UTC)", False), ("rows", True))
    for version in versions:
        table.add_row(str(version.number), f"{version.made:%Y-%m-%d %H:%M:%S}", f"{version.rows:,}")
    console.print(table)


def _how(info: Info) -> str:
    tuned, settings = info.tuned, info.settings
    if tuned is None and max((sum(s.rows.values()) for s in info.spaces), default=0) > settings.exact_below:
        return "search: exact, until `polymnia index compact` or `add` builds an approximate index"
    if tuned is None:
        return f"search: exact (approximate from {settings.exact_below:,} rows of an encoder on)"
    if tuned.kind == "exact":
        return f"search: exact; no approximate index reached recall@10 {settings.recall:g} faster: {_tried(tuned)}"
    pairs = ", ".join(f"{name} {value:.3f}" for name, value in tuned.recalls.items())
    return (
        f"search: {tuned.kind}, {tuned.probes} of {tuned.partitions} partitions, measured on {tuned.rows:,} rows: "
        f"recall@10 {tuned.recall:.3f} ({pairs}; wanted {settings.recall:g}), {tuned.milliseconds:.1f} ms a query, "
        f"exact {tuned.exact_milliseconds:.1f} ms\ntried: {_tried(tuned)}\nnot in it yet, compared one by one: "
        f"{info.unindexed:,} rows"
    )


def _tried(tuned: Tuned) -> str:
    return "; ".join(
        f"{t['kind']} {t['probes']} probes, recall {t['recall']:.3f}, {t['milliseconds']:.1f} ms" for t in tuned.tried
    )


def _size(info: Info) -> str:
    several = f" of {info.versions}" if info.versions > 1 else ""
    return several if info.bytes is None else f"{several}; {info.bytes / 1e6:,.1f} MB on disk"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "none"


def _table(*columns: tuple[str, bool]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, right in columns:
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table


def plain(text: str) -> Text:
    """Text that is no markup and moves no cursor: what stands in files may hold anything."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text))
