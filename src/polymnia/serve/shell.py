"""What Gradio answers, cut down to its page and its own files, under a policy of what a browser may do with them."""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polymnia.serve.guard import content_hash

SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)
OURS = ("/assets/", "/static/", "/theme.css", "/favicon.ico")  # of Gradio: files that come with the package
POLICY = (
    "default-src 'none'; script-src 'self' {}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


class Shell:
    """ASGI: Gradio's page and its own files, and none of its other routes (uploads, files by path, a proxy)."""

    def __init__(self, inner: ASGIApp):
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(404)
        if path == "/":
            return await (await self._page(scope, receive))(scope, receive, send)
        if not path.startswith(OURS) or ".." in path:
            raise HTTPException(404)
        return await self.inner(scope, receive, send)

    async def _page(self, scope: Scope, receive: Receive) -> Response:
        """The page with a policy that names each of its inline scripts."""
        status, parts = 500, []

        async def collect(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self.inner({**scope, "method": "GET"}, receive, collect)
        page = b"".join(parts).decode()
        scripts = " ".join(content_hash(s) for s in SCRIPT.findall(page))
        return HTMLResponse(
            page, status, {"Content-Security-Policy": POLICY.format(scripts), "Cache-Control": "no-store"}
        )
