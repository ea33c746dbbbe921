"""What the routes share: the service, the settings, the gates before the work, the counts, and what is kept."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock

from starlette.exceptions import HTTPException
from starlette.requests import Request

from polymnia.serve.gate import Gate, Room
from polymnia.serve.metrics import Metrics
from polymnia.serve.service import GALLERY, Entry, SearchService
from polymnia.serve.settings import Settings

KEPT = 32_000_000  # bytes of small pictures in memory
LOOKING = 64  # small pictures that may wait: a page of hits asks for all of them at once


class Kept:
    """Bytes by key, the least recently used forgotten beyond ``most`` bytes."""

    def __init__(self, most: int = KEPT):
        self.most, self.size = most, 0
        self.held: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self.lock = Lock()

    def get(self, key: tuple[object, ...]) -> bytes | None:
        with self.lock:
            if key in self.held:
                self.held.move_to_end(key)
            return self.held.get(key)

    def put(self, key: tuple[object, ...], content: bytes) -> None:
        """Keep it, unless it alone is too large."""
        with self.lock:
            self.size -= len(self.held.pop(key, b""))
            if len(content) <= self.most:
                self.held[key] = content
                self.size += len(content)
            while self.size > self.most:
                self.size -= len(self.held.popitem(last=False)[1])


class Desk:
    """``work`` encodes and searches, ``look`` is for items and small pictures, so that neither waits for the other.

    ``forms``: a body with a file is on the disk before there is work, so there are as many as work has places.
    """

    def __init__(self, service: SearchService, settings: Settings, secret: tuple[Path, ...] = ()):
        self.service, self.settings, self.secret = service, settings, secret
        self.metrics, self.kept = Metrics(), Kept()
        limits = settings.limits
        self.work = Gate("work", limits.workers, limits.queue, limits.patience, self.metrics)
        self.forms = Room(limits.workers + limits.queue, self.metrics)
        self.look = Gate("look", 2, LOOKING, limits.patience, self.metrics)

    async def entry(self, name: str, gallery: str = GALLERY) -> Entry:
        """The item. HTTPException 404 where there is none of this name."""
        found = await self.look.run(lambda: self.service.item(name, gallery))
        if found is None:
            raise HTTPException(404, "there is no item of this id")
        return found

    def open(self) -> None:
        """Let work in again, where the application is started a second time."""
        self.work.open()
        self.look.open()

    def close(self) -> None:
        """Start no more work."""
        self.work.close()
        self.look.close()


def desk(request: Request) -> Desk:
    """The desk of the application that a request came to."""
    return request.app.state.desk
