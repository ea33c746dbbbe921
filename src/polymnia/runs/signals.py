"""SIGTERM asks; what was asked decides."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_sigterm(ask: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGTERM calls ``ask`` instead of ending the process. No effect outside the main thread."""

    def handle(signum: int, frame: FrameType | None) -> None:
        ask()

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # only the main thread is sent signals, and only it may say what they do
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
