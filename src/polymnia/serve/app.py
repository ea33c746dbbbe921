"""The application: routes, the guard around them, and sentences for whatever goes wrong."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from polymnia.data.media import MediaError
from polymnia.serve.body import Bounded
from polymnia.serve.desk import Desk
from polymnia.serve.faults import hide, plain, sentence, unreadable
from polymnia.serve.guard import Guard
from polymnia.serve.routes import items, login, search, status
from polymnia.serve.service import NotYet, SearchService
from polymnia.serve.settings import Settings, check
from polymnia.serve.shapes import Problem
from polymnia.types import UserError
from polymnia.version import __version__

log = logging.getLogger(__name__)
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": said}
    for code, said in {
        400: "the request cannot be read",
        401: "the token is missing or wrong",
        403: "not allowed here",
        404: "no such item",
        408: "the request came in too slowly",
        413: "the upload is too long",
        415: "not a type of file that is taken",
        421: "not a name of this server",
        422: "a field is wrong, or the file cannot be used",
        429: "too many requests; Retry-After says when",
        503: "busy, or the index cannot be read; Retry-After says when",
    }.items()
}


def create_app(service: SearchService, settings: Settings, secret: Sequence[Path] = ()) -> FastAPI:
    """The ASGI application without its page. ``secret``: folders that no answer may name. UserError: see ``check``."""
    check(settings)
    desk = Desk(service, settings, tuple(secret))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.open()
        yield
        desk.close()

    app = FastAPI(
        title="polymnia",
        version=__version__,
        summary="Search a collection of sounds, pictures and texts.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # these pages load their scripts from another host
        redoc_url=None,
        lifespan=lifespan,
        responses=ERRORS,
    )
    app.state.desk = desk
    for part in (search, items, status, login):
        app.include_router(part.router)
    _explain(app, desk)
    app.add_middleware(Bounded, upload=settings.limits.upload, metrics=desk.metrics)
    app.add_middleware(Guard, settings=settings, metrics=desk.metrics, explain=lambda e: sentence(e, desk.secret))
    return app


def _explain(app: FastAPI, desk: Desk) -> None:
    """Every error is JSON with one sentence."""

    def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        said = "there is nothing at this address" if error.detail == "Not Found" else str(error.detail)
        return JSONResponse({"error": plain(hide(said, desk.secret))}, error.status_code, dict(error.headers or {}))

    def fields(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"][1:])
        said = first["msg"].removeprefix("Value error, ")
        return JSONResponse({"error": plain(hide(f"{place}: {said}" if place else said, desk.secret))}, 422)

    def user(_: Request, error: Exception) -> JSONResponse:
        if isinstance(error, NotYet):
            return JSONResponse({"error": sentence(error, desk.secret)}, 503, {"Retry-After": "2"})
        if unreadable(error):
            log.error("the index cannot be used", exc_info=error)
            desk.metrics.refuse("index")
            return JSONResponse({"error": sentence(error, desk.secret)}, 503, {"Retry-After": "30"})
        desk.metrics.refuse("media" if isinstance(error, MediaError) else "query")
        return JSONResponse({"error": sentence(error, desk.secret)}, 422)

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, fields)
    app.add_exception_handler(UserError, user)
