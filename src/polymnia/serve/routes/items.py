"""GET /api/item/{id} and what can be heard and seen of an item: by its id, never by a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi import Path as InPath
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from polymnia.serve import answers, small
from polymnia.serve.desk import Desk, desk
from polymnia.serve.service import Entry, Medium
from polymnia.serve.shapes import Item, Problem

router = APIRouter(prefix="/api")
Shared = Annotated[Desk, Depends(desk)]
Name = Annotated[str, InPath(min_length=1, max_length=1024)]
Gallery = Literal["index", "run"]
Start = Annotated[float, Query(ge=0, le=1e7, allow_inf_nan=False)]
Seconds = Annotated[float, Query(gt=0, le=small.LONGEST, allow_inf_nan=False)]
HOUR = "private, max-age=3600"
RANGES: dict[int | str, dict[str, Any]] = {
    206: {"description": "the range that was asked for"},
    416: {"model": Problem, "description": "the range is not in the file"},
}


class Sent(FileResponse):
    """A file, whole or in ranges; a range that it does not have is told as every error is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused: dict[str, str] | None = None

        async def told(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                whole = Headers(raw=message["headers"]).get("content-range")
                refused = {} if whole is None else {"Content-Range": whole}
                answer = JSONResponse({"error": "The range is not in this file."}, message["status"], refused)
                await answer(scope, receive, send)
            elif refused is None:
                await send(message)

        await super().__call__(scope, receive, told)


@router.get("/item/{id:path}")
async def item(shared: Shared, id: Name, gallery: Gallery = "index") -> Item:
    """What is known of an item."""
    return answers.item(await shared.entry(id, gallery), gallery)


@router.get("/media/{id:path}", response_class=FileResponse, responses=RANGES)
async def media(
    shared: Shared, id: Name, modality: Literal["audio", "image"] | None = None, gallery: Gallery = "index"
) -> Response:
    """The file of an item as it is; a player may ask for ranges of it."""
    entry = await shared.entry(id, gallery)
    medium = _medium(entry, modality)
    kind = answers.TYPES.get(medium.path.suffix.lower())
    if kind is None:
        raise HTTPException(415, "browsers do not play or show files of this type, so it is not sent")
    return Sent(inside(medium), media_type=kind, headers={"Cache-Control": HOUR})


@router.get("/spectrogram/{id:path}", response_class=Response)
async def spectrogram(
    shared: Shared, id: Name, gallery: Gallery = "index", start: Start = 0.0, seconds: Seconds = small.LONGEST
) -> Response:
    """A small PNG of the sound, or of a stretch of it."""
    medium = _medium(await shared.entry(id, gallery), "audio")
    return await _small(shared, medium, "image/png", lambda: small.spectrogram(medium, start, seconds), start, seconds)


@router.get("/thumbnail/{id:path}", response_class=Response)
async def thumbnail(
    shared: Shared, id: Name, gallery: Gallery = "index", start: Start = 0.0, seconds: Seconds | None = None
) -> Response:
    """The picture, small and square, as JPEG; of a video the frame in the middle of it, or of a stretch."""
    medium = _medium(await shared.entry(id, gallery), "image")
    return await _small(shared, medium, "image/jpeg", lambda: small.thumbnail(medium, start, seconds), start, seconds)


async def _small(shared: Desk, medium: Medium, kind: str, draw: Callable[[], bytes], *more: float | None) -> Response:
    key = (kind, inside(medium), medium.entry, medium.start, medium.seconds, *more)
    content = shared.kept.get(key)
    if content is None:
        content = await shared.look.run(draw)
        shared.kept.put(key, content)
    return Response(content, media_type=kind, headers={"Cache-Control": HOUR})


def _medium(entry: Entry, modality: str | None) -> Medium:
    found = [medium for m, medium in sorted(entry.media.items()) if modality in (None, m)]
    if not found:
        raise HTTPException(404, f"this item has no {modality or 'media'}")
    return found[0]


def inside(medium: Medium) -> Path:
    """The real path of a medium. HTTPException 404 where it is gone, no file, or leads out of its root."""
    path = medium.path.resolve()
    if not path.is_relative_to(medium.root.resolve()) or not path.is_file():
        raise HTTPException(404, "the file of this item is no longer where it was")
    return path
