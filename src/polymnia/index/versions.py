"""The states of an index that can be opened again, and how many of them are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from polymnia.types import UserError

SLACK = timedelta(seconds=1)  # between two looks at the clock; versions that close to the last one kept stay, too


@dataclass(frozen=True, slots=True)
class Version:
    """A state that can be opened again. ``made`` is in UTC."""

    number: int
    made: datetime
    rows: int


def versions(table: Any) -> list[Version]:
    """All of a table's, the oldest first."""
    return [
        Version(v["version"], v["timestamp"].astimezone(UTC), int(v["metadata"].get("total_rows", 0)))
        for v in sorted(table.list_versions(), key=lambda v: v["version"])
    ]


def age(there: Sequence[Version], days: int | float | None, keep: int | None) -> timedelta:
    """How old a version must be to go; without a wish older than any is. Raises UserError for a wish that is none."""
    if days is not None and keep is not None:
        raise UserError("keep versions by days or by number, not both")
    if (days is not None and not 0 <= days < 36_500) or (keep is not None and keep < 1):
        raise UserError("keep at least one version, and no negative number of days")
    if days is not None:
        return max(SLACK, timedelta(days=days))
    if keep is not None and len(there) > keep:
        return datetime.now(UTC) - there[-keep].made + SLACK
    return timedelta(days=36_500)
