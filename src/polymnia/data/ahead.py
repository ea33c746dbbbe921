"""Work done in threads ahead of who asks for it, in order, and bounded by what waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

J = TypeVar("J")
T = TypeVar("T")
ROOM = 64 << 20  # bytes of results that wait: two batches of sounds, many of pictures
MOST = 1024  # results that wait


def make_ahead(
    make: Callable[[J], T], jobs: Sequence[J], workers: int, size: Callable[[T], int], room: int = ROOM
) -> Iterator[T]:
    """What ``make`` gives of each job, in the order of the jobs, made in ``workers`` threads.

    They go on while results of less than ``room`` bytes (by ``size``), and fewer than ``MOST`` of them, wait, whatever
    who asks does meanwhile. An error of ``make`` is raised in its turn.
    """
    shared = _Shared(make, jobs, size, room)
    threads = [threading.Thread(target=shared.work, daemon=True) for _ in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for number in range(len(jobs)):
            yield shared.take(number)
    finally:
        shared.stop()
        for thread in threads:
            thread.join()


class _Shared(Generic[J, T]):
    """Jobs are begun in order; so the one that is waited for is always in hand, or nothing waits and it is next."""

    def __init__(self, make: Callable[[J], T], jobs: Sequence[J], size: Callable[[T], int], room: int):
        self.make, self.jobs, self.size, self.room = make, jobs, size, room
        self.changed = threading.Condition()
        self.begun, self.held, self.stopped = 0, 0, False
        self.done: dict[int, tuple[T | None, BaseException | None, int]] = {}

    def work(self) -> None:
        """What each thread does."""
        while (number := self._begin()) is not None:
            result, error, size = None, None, 0
            try:
                result = self.make(self.jobs[number])
                size = self.size(result)
            except BaseException as fault:  # told in its turn
                error = fault
            with self.changed:
                self.done[number] = result, error, size
                self.held += size
                self.changed.notify_all()

    def _begin(self) -> int | None:
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or (self.held < self.room and len(self.done) < MOST))
            if self.stopped or self.begun == len(self.jobs):
                return None
            self.begun += 1
            return self.begun - 1

    def take(self, number: int) -> T:
        """The result of a job, which is then no longer held."""
        with self.changed:
            self.changed.wait_for(lambda: number in self.done)
            result, error, size = self.done.pop(number)
            self.held -= size
            self.changed.notify_all()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()


def stream_ahead(make: Callable[[], Iterator[T]], size: int = 2) -> Iterator[T]:
    """What ``make()`` gives, made in a thread of its own, at most ``size`` before they are asked for."""
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(size)
    left = threading.Event()

    def run() -> None:
        try:
            for value in make():
                if not _put(made, (True, value), left):
                    return
            _put(made, (False, None), left)
        except BaseException as error:  # told where it is asked for
            _put(made, (False, error), left)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            more, value = made.get()
            if more:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        left.set()
        thread.join()


def _put(made: queue.Queue[tuple[bool, Any]], value: tuple[bool, Any], left: threading.Event) -> bool:
    """Whether it could be put before the reader left."""
    while not left.is_set():
        try:
            made.put(value, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
