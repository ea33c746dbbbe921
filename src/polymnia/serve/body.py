"""Request bodies are counted and timed while they come in: what is too long is refused before it is read."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polymnia.serve.metrics import Metrics

FORM = 64_000  # bytes of a request that carries no file, and of the fields around one
UPLOADS = ("/api/search", "/api/add")  # the routes that take a file
SLOWEST = 60.0  # seconds that a body may take


class Bounded:
    """ASGI: at most ``upload`` bytes of a form with a file, ``FORM`` bytes of all else; 413 or 408, and hang up."""

    def __init__(self, app: ASGIApp, upload: int, metrics: Metrics):
        self.app, self.upload, self.metrics = app, upload, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        form = (
            headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data") and scope["path"] in UPLOADS
        )
        most = FORM + (self.upload if form else 0)
        promised = headers.get(b"content-length", b"0")
        if not promised.isdigit() or int(promised) > most:
            raise self._too_long(most)
        seen, ended = 0, False
        until = asyncio.get_running_loop().time() + SLOWEST

        async def counted() -> Message:
            nonlocal seen, ended
            if ended:  # all that can still come is that the client leaves
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                self.metrics.refuse("slow")
                raise HTTPException(408, "the request came in too slowly", {"Connection": "close"}) from error
            seen, ended = seen + len(message.get("body", b"")), not message.get("more_body", False)
            if seen > most:
                raise self._too_long(most)
            return message

        return await self.app(scope, counted, send)

    def _too_long(self, most: int) -> HTTPException:
        self.metrics.refuse("size")
        said = f"the request is longer than the {most / 1e6:.3g} MB that this server takes"
        return HTTPException(413, said, {"Connection": "close"})
