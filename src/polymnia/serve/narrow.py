"""What hits must be, as a filter of an index."""

from __future__ import annotations

from polymnia.index.where import column, quoted, to_sql
from polymnia.serve.service import Narrowed
from polymnia.types import UserError


def where_of(narrowed: Narrowed) -> str | None:
    """The filters as one condition, in the words of ``index.where``. UserError for one that is none by itself.

    A client may not ask where files are: by asking often enough it would learn the folders of the server.
    """
    parts = []
    if narrowed.where is not None:
        if column("root") in to_sql(narrowed.where):
            raise UserError("the filter asks for the column 'root', which is not shown here")
        parts.append(f"({narrowed.where})")
    named = (("modality", narrowed.modalities), ("task", narrowed.tasks), ("topic", narrowed.topics))
    parts += [f"{name} IN ({', '.join(map(quoted, values))})" for name, values in named if values]
    parts += [] if narrowed.shortest is None else [f"duration >= {narrowed.shortest!r}"]
    parts += [] if narrowed.longest is None else [f"duration <= {narrowed.longest!r}"]
    return " AND ".join(parts) or None
