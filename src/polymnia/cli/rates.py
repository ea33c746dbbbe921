"""A progress bar that says how fast it goes: items a second, seconds of sound a second, what remains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

EVERY = 10.0  # seconds between two lines where there is no terminal


class Rate:
    """Items and seconds of sound per second since the first call of ``at``; what was done before it does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock, self.began, self.before = clock, 0.0, -1.0

    def at(self, done: float, total: int, seconds: float) -> str:
        """As a line says it."""
        if self.before < 0:
            self.began, self.before = self.clock(), done
        took = self.clock() - self.began
        if took <= 0 or done <= self.before:
            return ""
        rate = (done - self.before) / took
        heard = f", {seconds / took:,.1f} s of sound/s" if seconds else ""
        return f"{rate:,.1f} items/s{heard}, {_clock((total - done) / rate)} left"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@contextmanager
def rates(name: str) -> Iterator[Callable[[float, int, float], None]]:
    """A function of (items done, of how many, seconds of sound so far) that draws on stderr: a bar on a terminal,
    elsewhere a line every ten seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console, rate, said = Console(stderr=True), Rate(), [time.monotonic()]
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn()]
    drawn = Progress(*columns, TextColumn("{task.fields[speed]}"), console=console, disable=not console.is_terminal)
    with drawn:
        bar = drawn.add_task(name, total=None, count="", speed="")

        def show(done: float, total: int, seconds: float) -> None:
            speed = rate.at(done, total, seconds)
            count = f"{int(done):,} of {total:,}"
            if console.is_terminal:
                drawn.update(bar, completed=done, total=total, count=count, speed=speed)
            elif speed and time.monotonic() - said[0] >= EVERY:
                said[0] = time.monotonic()
                typer.echo(f"{name}: {count}, {speed}", err=True)

        yield show
