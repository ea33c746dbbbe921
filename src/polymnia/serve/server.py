"""The process: listens, answers, and on SIGTERM or SIGINT finishes what it has begun and ends with 0."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from polymnia.serve.connection import Connection
from polymnia.serve.settings import Settings
from polymnia.types import UserError

GRACE = 15  # seconds for requests in flight; then their connections are cut
KEEP_ALIVE = 15  # seconds that an idle connection is kept
CONNECTIONS = 512  # at a time; uvicorn answers 503 beyond
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """uvicorn's, but a signal is not raised again at the end: a server that was asked to stop has not failed."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)

        if threading.current_thread() is not threading.main_thread():
            yield  # Python gives signals to the main thread only
            return
        before = {number: signal.signal(number, stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(app: FastAPI, sock: socket.socket, ready: Callable[[str, Server], None]) -> None:
    """Answer on a socket of ``bound`` until a signal, or ``should_exit`` of the server, says stop.

    ``ready`` is told the address and the server, as soon as it answers.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a form that is torn is the client's affair
    config = uvicorn.Config(
        app,
        http=Connection,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=64_000,
        proxy_headers=False,  # a header that anyone may send is not who asks
    )
    host, port = sock.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    server = Server(config, lambda: ready(address, server))
    server.run(sockets=[sock])


@contextmanager
def bound(settings: Settings) -> Iterator[socket.socket]:
    """A bound socket. UserError where the address is taken or is not this machine's."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise UserError(f"--host {settings.host}: {error.strerror or error}") from error
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise UserError(f"cannot listen on {where}: {error.strerror}; choose another --port") from error
        yield sock
