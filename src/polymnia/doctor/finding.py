"""What the doctor found out: lines, each good or bad, and needed or not."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

KIB = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """``ok`` is None where something optional is simply not there. Only what is ``needed`` makes a bad diagnosis.

    ``wrong``: nothing is missing, the recipe asks for what cannot be.
    """

    area: str
    name: str
    value: str
    ok: bool | None = True
    needed: bool = True
    wrong: bool = False


def healthy(findings: list[Finding]) -> bool:
    """Whether everything that is needed is there."""
    return all(f.ok is not False for f in findings if f.needed)


@dataclass(frozen=True)
class Diagnosis:
    """``counts``: items by task and split; ``estimate``: see ``polymnia.doctor.estimate``; None without a recipe."""

    findings: list[Finding]
    counts: list[dict[str, Any]] = field(default_factory=list)
    estimate: dict[str, Any] | None = None

    @property
    def healthy(self) -> bool:
        return healthy(self.findings)

    def plain(self) -> dict[str, Any]:
        """The same as data for JSON."""
        return {"ok": self.healthy, **asdict(self)}


def size(count: float | int) -> str:
    """Bytes for reading: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < KIB:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= KIB
    return f"{count:.1f} TiB"
