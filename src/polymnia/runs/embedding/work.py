"""The work itself: jobs are read ahead in threads, encoded in order, and written part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from polymnia.data.ahead import make_ahead, stream_ahead
from polymnia.data.disk import CORES
from polymnia.data.faults import MediaError
from polymnia.data.texts import TextFile, text_windows
from polymnia.data.windows import MOST
from polymnia.index.schema import EncoderCard
from polymnia.index.vectors import write_part
from polymnia.runs.embedding.batches import BATCH, Batches
from polymnia.runs.embedding.decode import Piece, Read, Reader
from polymnia.runs.embedding.folder import next_part
from polymnia.runs.embedding.job import Failures, Job
from polymnia.runs.embedding.plans import shown
from polymnia.runs.embedding.rows import Made, table
from polymnia.runs.embedding.windows import Windows
from polymnia.runs.encoder import Encoder

PART, PART_ROWS = 256, 1024  # items in a part, and rows after which it is closed: what a kill loses at most
UNCUT = 16  # times the bytes of a window: no text that is longer fits a text tower uncut
Progress = Callable[[float, int, float], None]  # items done, of how many, seconds of sound and video so far


@dataclass(frozen=True)
class How:
    """``task`` and ``data``: as ``load`` has them. ``window`` and ``hop``: seconds, see ``make_windows``.

    ``max_broken``: the share of items that may fail. ``workers``: threads that decode. ``batch``: media encoded
    together, at most. ``part``: items in a file. ``prune``: remove vectors of what is gone, even of more than half.
    """

    task: int | None = None
    data: Path | None = None
    window: float | None = None
    hop: float | None = None
    max_broken: float = 0.1
    workers: int = max(1, CORES - 1)  # a core is left for the tower
    batch: int = BATCH
    part: int = PART
    prune: bool = False


class Worker:
    """Reads jobs ahead, encodes them in order, and writes them part by part."""

    def __init__(self, encoder: Encoder, card: EncoderCard, windows: Windows, out: Path, how: How, progress: Progress):
        self.encoder, self.card, self.windows, self.out, self.how = encoder, card, windows, out, how
        self.progress = progress
        self.batches, self.failures = Batches(encoder, how.batch), Failures()
        self.made, self.seconds, self.looked, self.total = 0, 0.0, 0, 0
        self.part: list[Made] = []
        self.rows = 0

    def work(self, jobs: Sequence[Job], before: int = 0) -> None:
        """Embed them all; so many were there ``before``."""
        self.looked, self.total = before, before + len(jobs)
        self.tell()
        reader = Reader(self.encoder.model.specs, self.windows)
        for read in make_ahead(reader, jobs, self.how.workers, lambda r: r.nbytes):
            try:
                self.take(read)
            except MediaError as error:
                self.failures.add(read.job.id, error.reason)
            self.looked += 1
            self.tell()
            if len(self.part) >= self.how.part or self.rows >= PART_ROWS:
                self.write()
        self.write()

    def take(self, read: Read) -> None:
        """Hand the pieces of a job to the towers. Raises MediaError for one that breaks off on the way."""
        if read.problem:
            self.failures.add(read.job.id, read.problem)
        if read.problem or read.lacks:
            return
        made = Made(read.job, read.duration)
        for number, piece in enumerate(self.pieces(read, made), start=1):
            self.batches.add(read.job.modality, piece.medium, partial(made.put, made.expect(piece)))
            if read.stream is not None:
                self.tell(number / read.count)
        self.seconds += read.duration or 0.0
        self.part.append(made)
        self.rows += len(made.vectors)

    def pieces(self, read: Read, made: Made) -> Iterator[Piece]:
        """What is embedded of a job, piece by piece."""
        if read.stream is not None:
            return stream_ahead(read.stream)
        if not isinstance(read.job.source, TextFile):
            return iter(read.pieces)
        text, tower = read.pieces[0].medium, self.encoder.model.tower("text")
        made.words = shown(text)
        # the tower's own rule says whether a text fits; a long one is not worth asking for
        if len(text.encode()) <= UNCUT * self.windows.bytes and tower.prepare([text]).shape[1] < tower.spec.max_tokens:
            return iter(read.pieces)
        windows = text_windows(text, self.windows.words, self.windows.bytes)
        if len(windows) > MOST:
            raise MediaError(read.job.source.path, f"is {len(windows):,} windows long, more than {MOST:,}: cut it")
        return map(Piece, windows)

    def write(self) -> None:
        """Close the part, if there is anything in it."""
        self.batches.flush()
        whole = [made for made in self.part if made.finite]
        for made in (m for m in self.part if not m.finite):
            self.failures.add(made.job.id, "its vector holds values that are not finite")
        self.part, self.rows = [], 0
        if whole:
            stamps = {made.job.key: str(made.job.stamp) for made in whole}
            rows = table(whole, self.card.signature, self.card.dim)
            write_part(next_part(self.out), rows, stamps, self.card)
            self.made += len(whole)

    def tell(self, share: float = 0.0) -> None:
        self.progress(self.looked + share, self.total, self.seconds)
