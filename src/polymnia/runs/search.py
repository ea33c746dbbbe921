"""Search the test items of a run with its own encoder: exact, in any modality, by text or by a file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from polymnia.data.walk import PICTURES, SOUNDS
from polymnia.ops.search import top_k
from polymnia.runs.encoder import Encoder, load
from polymnia.runs.gallery import encode, gallery, media_of
from polymnia.runs.own_items import own_items
from polymnia.types import MODALITIES, AudioFile, Captions, ImageFile, Item, Modality, UserError, VideoFile


@dataclass(frozen=True, slots=True)
class Hit:
    """One item found. ``score`` is a cosine; ``rank`` counts from 1; ``task`` is the name of the item's task.

    ``path`` is the medium searched in (for texts, what the text is about), relative to the working directory where it
    lies inside it, with ``#t=start,end`` for a stretch in seconds and ``#number`` for a row of a container.
    """

    rank: int
    score: float
    id: str
    topic: str
    task: str
    caption: str | None
    path: str | None


def search(
    run: Path,
    query: str,
    modality: Modality | None = None,
    k: int = 10,
    task: int | None = None,
    data: Path | None = None,
) -> list[Hit]:
    """The ``k`` test items of a run nearest to ``query``, best first, each once (its best caption counts).

    ``query`` is a text, or the path of a recording or a picture. ``modality`` is what to search in (default: audio
    where the run has it). ``task``: with the encoder as it was after so many tasks (default: the last). ``data``: the
    folder of the run's data, if it is not where the recipe says.

    The gallery is embedded once for each encoder and modality, and kept in the run folder.

    Raises UserError for a query, run, task, modality or data that is not there, MediaError for a broken file.
    """
    if k < 1:
        raise UserError(f"k is {k}; ask for at least one hit")
    kind = kind_of(query)
    encoder = load(run, task, data)
    names, items = own_items(run, encoder.recipe, "search")
    wanted = _searched(encoder, items, modality)
    items = [i for i in items if wanted in i.sources]
    asked = torch.from_numpy(encode(encoder, kind, [query if kind == "text" else Path(query)]))
    owner = [n for n, item in enumerate(items) for _ in media_of(item, wanted)]
    # k items have at most k x (captions of the richest item) rows before the last of them
    scores, at = top_k(asked, gallery(run, encoder, items, wanted), k * max(Counter(owner).values()))
    best: dict[int, tuple[float, int]] = {}
    for score, row in zip(scores[0].tolist(), at[0].tolist(), strict=True):
        best.setdefault(owner[row], (score, row - owner.index(owner[row])))
    return [
        _hit(rank, score, items[n], names[items[n].id], wanted, which)
        for rank, (n, (score, which)) in enumerate(list(best.items())[:k], start=1)
    ]


def kind_of(query: str) -> Modality:
    """Whether a query is the path of a recording, of a picture, or a text. Raises UserError for any other path."""
    path, exists = Path(query), False
    with suppress(OSError):  # a long text is no file name
        exists = path.is_file()
    suffix = path.suffix.lower()
    if suffix in SOUNDS + PICTURES or exists or _like_a_path(query):
        if not exists:
            raise UserError(f"no file '{query}'; if it is meant as a text, write it as words with spaces")
        if suffix in SOUNDS + PICTURES:
            return "audio" if suffix in SOUNDS else "image"
        raise UserError(
            f"'{query}' is a file, but its name says neither recording ({' '.join(SOUNDS)}) "
            f"nor picture ({' '.join(PICTURES)}); if it is meant as a text, say it in more words"
        )
    return "text"


def _like_a_path(query: str) -> bool:
    return query.startswith(("/", "./", "../", "~")) or ("/" in query and not any(c.isspace() for c in query))


def print_hits(hits: Sequence[Hit], console: Console | None = None) -> None:
    """The hits as a table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, side in (("", "right"), ("score", "right"), ("item", "left"), ("task", "left"), ("caption", "left")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for hit in hits:  # Text: a caption with [brackets] is no markup
        found = Text(hit.path or hit.id)
        table.add_row(str(hit.rank), f"{hit.score:.3f}", found, Text(hit.task), Text(hit.caption or ""))
    (console or Console()).print(table)


def _searched(encoder: Encoder, items: Sequence[Item], modality: Modality | None) -> Modality:
    there = [m for m in MODALITIES if m in encoder.model.towers and any(m in i.sources for i in items)]
    if modality is None and there:
        return there[0]
    if modality is None or modality not in there:
        raise UserError(f"no test item of this run has {modality or 'anything'} to search in; there is {there}")
    return modality


def _hit(rank: int, score: float, item: Item, task: str, modality: Modality, which: int) -> Hit:
    captions = item.sources.get("text")
    caption = captions.texts[which if modality == "text" else 0] if isinstance(captions, Captions) else None
    sources = [item.sources[m] for m in (modality, "audio", "image") if m in item.sources and m != "text"]
    return Hit(rank, score, item.id, item.topic, task, caption, _place(sources[0]) if sources else None)


def _place(source: object) -> str:
    assert isinstance(source, (AudioFile, ImageFile, VideoFile))
    path = Path(os.path.abspath(source.path))
    shown = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    if isinstance(source, ImageFile):
        return shown if source.index is None else f"{shown}#{source.index}"
    if source.seconds is None:
        return f"{shown}#t={source.start:g}" if source.start else shown
    return f"{shown}#t={source.start:g},{source.start + source.seconds:g}"
