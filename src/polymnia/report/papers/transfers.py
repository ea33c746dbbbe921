"""Forward and backward transfer as the paper uses the words: a method minus another, paired by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from polymnia.report.collect import Estimate, estimate
from polymnia.report.papers.cells import Cell, Line
from polymnia.report.published import Transfer


@dataclass(frozen=True)
class Gain:
    """A difference of two rows: of the paper's values, and of ours, paired by seed."""

    paper: tuple[float, ...]
    by_seed: Mapping[int, float] = field(default_factory=dict)

    @property
    def ours(self) -> Estimate | None:
        return estimate(self.by_seed.values())


@dataclass(frozen=True)
class TransferLine:
    """``note`` says why there is no pair."""

    method: str
    minus: str
    cells: Mapping[str, Gain]
    note: str = ""


def transfer_lines(transfer: Transfer, columns: Sequence[str], lines: Sequence[Line]) -> Iterator[TransferLine]:
    """A line a setting of the methods and each setting of the baseline that differs from it in the method alone."""
    bases = [line for line in lines if line.row == transfer.minus]
    for line in (x for name in transfer.of for x in lines if x.row == name):
        paired = [b for b in bases if line.setting and b.setting and line.setting.comparable == b.setting.comparable]
        for base in paired or bases[:1]:
            cells = {c: _gain(line.cells[c], base.cells[c], pair=bool(paired)) for c in columns}
            minus = base.name if paired else base.row
            lacking = line.setting is not None and not paired
            note = f"{line.name}: no {base.row} on the same data with the same towers and training" if lacking else ""
            yield TransferLine(line.name, minus, cells, note)


def _gain(own: Cell, base: Cell, *, pair: bool) -> Gain:
    paper = tuple(round(a - b, 2) for a, b in zip(own.paper, base.paper, strict=True))
    both = {s: v - base.by_seed[s] for s, v in own.by_seed.items() if s in base.by_seed} if pair else {}
    return Gain(paper, both)
