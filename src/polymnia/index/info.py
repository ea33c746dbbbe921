"""What an index says of itself when asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from polymnia.index.about import About, Settings, Tuned
from polymnia.index.ann import NAME
from polymnia.index.database import is_local
from polymnia.index.schema import EncoderCard

BATCH = 65_536


@dataclass(frozen=True, slots=True)
class Space:
    """An encoder whose rows are, or may be, in the index; ``rows`` by modality, ``made`` by how ("upgraded")."""

    card: EncoderCard
    rows: dict[str, int]
    made: dict[str, int]


@dataclass(frozen=True, slots=True)
class Info:
    """``unindexed``: rows that approximate search compares one by one. ``bytes``: on disk, all versions, or None."""

    uri: str
    format: int
    version: int
    versions: int
    rows: int
    items: int
    spaces: tuple[Space, ...]
    settings: Settings
    tuned: Tuned | None
    unindexed: int
    bytes: int | None


def info(table: Any, about: About, uri: str) -> Info:
    """Reads the short columns of every row."""
    rows, made = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for batch in table.search().select(["encoder", "modality", "made"]).to_batches(BATCH):
        for counter, name in ((rows, "modality"), (made, "made")):
            groups = pa.table({"encoder": batch.column("encoder"), "what": batch.column(name)})
            for group in groups.group_by(["encoder", "what"]).aggregate([([], "count_all")]).to_pylist():
                counter[group["encoder"], group["what"]] += group["count_all"]
    ids = table.search().select(["id"]).to_arrow()["id"]
    stats = table.index_stats(NAME)
    total = rows.total()
    return Info(
        uri=uri,
        format=about.format,
        version=int(table.version),
        versions=len(table.list_versions()),
        rows=total,
        items=pc.count_distinct(ids).as_py(),
        spaces=tuple(Space(c, _of(rows, s), _of(made, s)) for s, c in about.cards.items()),
        settings=about.settings,
        tuned=about.tuned,
        unindexed=total if stats is None else stats.num_unindexed_rows,
        bytes=_bytes(Path(uri)) if is_local(uri) else None,
    )


def _of(counter: Counter[tuple[str, str]], signature: str) -> dict[str, int]:
    return {name: n for (encoder, name), n in sorted(counter.items()) if encoder == signature}


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
