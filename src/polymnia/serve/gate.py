"""Work in threads: so many at a time, so many waiting, and the rest is told to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from starlette.exceptions import HTTPException

from polymnia.serve.metrics import Metrics

T = TypeVar("T")


class Gate:
    """``workers`` threads and ``queue`` places before them. A place is given back when its thread has really ended.

    A thread cannot be stopped: work that takes longer than ``patience`` seconds is answered with 503, and holds its
    place until it is done. So what is decoded is bounded before it comes here.
    """

    def __init__(self, name: str, workers: int, queue: int, patience: float | int, metrics: Metrics):
        self.name = name
        self.workers, self.room, self.patience = workers, workers + queue, patience
        self.inside = 0
        self.metrics = metrics
        self.open()
        metrics.watch("queue_length", name, lambda: max(0, self.inside - self.workers))
        metrics.watch("working", name, lambda: min(self.inside, self.workers))

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, from a thread. HTTPException 503 where no place is free, or when it took too long."""
        if self.inside >= self.room:
            raise _busy(self.metrics)
        loop = asyncio.get_running_loop()
        self.inside += 1
        future = self.pool.submit(work)
        future.add_done_callback(lambda _: self._left(loop))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.patience)
        except TimeoutError as error:
            self.metrics.refuse("slow")
            raise HTTPException(503, "this took too long and was given up", {"Retry-After": "5"}) from error

    def _left(self, loop: asyncio.AbstractEventLoop) -> None:
        def leave() -> None:
            self.inside -= 1

        if not loop.is_closed():
            loop.call_soon_threadsafe(leave)

    def open(self) -> None:
        """Let work in, for the first time or again."""
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix=f"polymnia-{self.name}")

    def close(self) -> None:
        """Start nothing more. What runs is waited for when the process ends."""
        self.pool.shutdown(wait=False, cancel_futures=True)


class Room:
    """Places for what is no work yet, but already takes from the server: bodies that come in and lie on its disk."""

    def __init__(self, places: int, metrics: Metrics):
        self.free, self.metrics = places, metrics

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places, until the context ends. HTTPException 503 where none is free."""
        if not self.free:
            raise _busy(self.metrics)
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1


def _busy(metrics: Metrics) -> HTTPException:
    metrics.refuse("busy")
    return HTTPException(503, "the server is busy; try again in a moment", {"Retry-After": "1"})
