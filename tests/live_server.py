"""A server that really listens, in a thread of the test's own process, and a browser before it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from polymnia.serve.server import Server, bound, serve
from polymnia.serve.settings import Settings

CHROMIUM = Path("/usr/bin/chromium")
# A microphone that beeps, and nobody who asks whether it may be used.
MICROPHONE = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@contextmanager
def live(app: FastAPI, settings: Settings) -> Iterator[str]:
    """The address of a server that answers until the context ends."""
    up, told = threading.Event(), {}

    def ready(address: str, server: Server) -> None:
        told["address"], told["server"] = address, server
        up.set()

    with bound(settings) as sock:
        thread = threading.Thread(target=serve, args=(app, sock, ready))
        thread.start()
        try:
            assert up.wait(10)
            yield told["address"]
        finally:
            told["server"].should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's browser; a test that needs it is skipped where it is not there."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    with api.sync_playwright() as p:
        found = p.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", *MICROPHONE])
        yield found
        found.close()
