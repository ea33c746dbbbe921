"""One connection of the server, which is not kept for who sends nothing."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD = 10.0  # seconds from connecting, or from the first byte after an answer, to the end of a request's head


class Connection(H11Protocol):
    """uvicorn's, but closed when no request has begun in ``HEAD`` seconds.

    uvicorn waits without end for the first request, and for the rest of one that has begun to come; as all connections
    together are limited, a few hundred silent ones would keep everybody out.
    """

    waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_more()  # a body has its own time, see ``body``
        elif self.waiting is None and not self.transport.is_closing():
            self._wait()  # whatever came has ended the wait of a connection that is kept alive

    def _wait(self) -> None:
        self.waiting = self.loop.call_later(HEAD, self.timeout_keep_alive_handler)

    def _wait_no_more(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
