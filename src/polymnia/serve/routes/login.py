"""GET and POST /login: a browser gives the token once, and gets a cookie for it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from polymnia.serve.guard import COOKIE, Guard
from polymnia.serve.rate import name_of

router = APIRouter(include_in_schema=False)
WEB = Path(__file__).parents[1] / "web"
POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
WRONG = '<p role="alert" id="wrong">This is not the token.</p>'


@router.get("/login")
async def ask() -> Response:
    """The form."""
    return _form("", 200)


@router.post("/login")
async def enter(request: Request) -> Response:
    """A cookie for who knows the token; the form again for who does not."""
    guard: Guard = request.scope["polymnia.guard"]
    given = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=4).get("token", [""])[0]
    client = request.client.host if request.client else ""
    if not guard.knows(given.strip(), name_of(client)):
        guard.metrics.refuse("token")
        return _form(WRONG, 401)
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, guard.cookie, httponly=True, samesite="strict", secure=secure)
    return answer


@router.get("/page/login.css")
async def style() -> Response:
    """The form's style."""
    return FileResponse(WEB / "login.css", media_type="text/css")


def _form(said: str, status: int) -> Response:
    page = (WEB / "login.html").read_text(encoding="utf-8").replace("<!-- said -->", said)
    return HTMLResponse(page, status, {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})
