"""Who may ask, and what every answer says: an ASGI layer around the whole application."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polymnia.serve.faults import plain
from polymnia.serve.metrics import Metrics
from polymnia.serve.rate import Buckets, name_of, whole_seconds
from polymnia.serve.settings import Settings

log = logging.getLogger("polymnia.serve")
COOKIE = "polymnia"
OPEN = ("/api/health", "/login", "/page/login.css")
COSTLY = ("/api/search", "/api/similar", "/api/add", "/login")
LIGHT = 40  # requests that cost little for each that costs much: a page is made of many
CLOSED = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}


class Guard:
    """ASGI: the Host header on loopback, requests of other sites' pages, the token, the rate, headers, metrics."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, explain: Callable[[Exception], str]):
        self.app, self.settings, self.metrics, self.explain = app, settings, metrics, explain
        rate = settings.limits.rate
        self.costly, self.light = Buckets(rate, max(1, 3 * rate)), Buckets(LIGHT * rate, max(1, 10 * LIGHT * rate))
        self.guesses = Buckets(0.2, 10)
        self.cookie = hmac.new(secrets.token_bytes(32), (settings.token or "").encode(), hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan; a websocket is never accepted
            return None if scope["type"] == "websocket" else await self.app(scope, receive, send)
        began, status = time.perf_counter(), 0

        async def adorned(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _adorn(MutableHeaders(scope=message), scope["path"])
            await send(message)

        try:
            await self._admit(scope)
            scope["polymnia.guard"] = self
            await self.app(scope, receive, adorned)
        except HTTPException as refusal:
            await _refused(scope, refusal)(scope, receive, adorned)
        except Exception as error:
            log.exception("%s %s", scope["method"], scope["path"])
            if status:  # it has begun to answer: all that is left is to hang up
                raise
            await JSONResponse({"error": self.explain(error)}, 500)(scope, receive, adorned)
        finally:
            self.metrics.answered(_route(scope), _method(scope), status or 500, time.perf_counter() - began)

    async def _admit(self, scope: Scope) -> None:
        """Raises HTTPException for a request that goes no further."""
        headers, path = Headers(scope=scope), scope["path"]
        self._check_host(headers)
        if scope["method"] not in ("GET", "HEAD"):
            self._check_site(headers)
        client = name_of(scope["client"][0] if scope.get("client") else "")
        buckets = self.costly if path.startswith(COSTLY) and scope["method"] != "HEAD" else self.light
        self._take(buckets, client)
        if self.settings.token is not None and path not in OPEN:
            self._check_token(headers, client)

    def _check_host(self, headers: Headers) -> None:
        """On loopback: a page of another name that resolves to this machine (DNS rebinding) is refused."""
        host = _name(headers.get("host", ""))
        if self.settings.loopback and host not in ("localhost", "127.0.0.1", "::1", self.settings.host):
            self._refuse("host", 421, "this server answers to localhost only")

    def _check_site(self, headers: Headers) -> None:
        """What changes or costs something is not for other sites' pages."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        strange = origin is not None and urlsplit(origin).netloc != headers.get("host")
        if strange or (site is not None and site not in ("same-origin", "none")):
            self._refuse("site", 403, "requests of another site's page are refused")

    def _take(self, buckets: Buckets, client: str) -> None:
        wait = buckets.wait(client)
        if wait:
            self._refuse("rate", 429, "too many requests; try again later", {"Retry-After": whole_seconds(wait)})

    def _check_token(self, headers: Headers, client: str) -> None:
        given = _bearer(headers)
        if given is None:
            if not _same(_cookie(headers), self.cookie):
                self._refuse("token", 401, "this server needs its token", {"WWW-Authenticate": "Bearer"})
        elif not self.knows(given, client):
            self._refuse("token", 401, "the token is wrong", {"WWW-Authenticate": "Bearer"})

    def knows(self, token: str, client: str) -> bool:
        """Whether this is the token. A client may be wrong only so often; HTTPException 429 beyond."""
        right = _same(token, self.settings.token or "")
        if not right:
            self._take(self.guesses, client)
        return right

    def _refuse(self, reason: str, status: int, said: str, headers: dict[str, str] | None = None) -> None:
        self.metrics.refuse(reason)
        raise HTTPException(status, said, headers)


def _same(one: str, other: str) -> bool:
    """In constant time for given lengths."""
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode())


def _name(host: str) -> str | None:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _bearer(headers: Headers) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _refused(scope: Scope, refusal: HTTPException) -> Response:
    """JSON; a browser that lacks the token is sent to where it can give it."""
    wants_page = scope["path"] == "/" and "text/html" in Headers(scope=scope).get("accept", "")
    if refusal.status_code == 401 and wants_page:
        return RedirectResponse("/login", 303)
    return JSONResponse({"error": plain(str(refusal.detail))}, refusal.status_code, dict(refusal.headers or {}))


def _adorn(headers: MutableHeaders, path: str) -> None:
    for name in [n for n in headers if n.lower().startswith("access-control-")]:
        del headers[name]  # no other origin is ever allowed anything
    for name, value in HEADERS.items():
        headers[name] = value
    headers.setdefault("Content-Security-Policy", CLOSED)
    if path.startswith("/api/"):
        headers.setdefault("Cache-Control", "no-store")


def _route(scope: Scope) -> str:
    """The template of the route. What no route takes counts as one."""
    route = scope.get("route")
    return str(getattr(route, "path", "") or "other")


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other"


def content_hash(script: str) -> str:
    """How a policy names an inline script that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
