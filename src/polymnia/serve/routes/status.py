"""GET /api/health, /api/info, /api/matrices and /api/metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from polymnia.serve.desk import Desk, desk
from polymnia.serve.shapes import EncoderState, Heads, Health, Matrices, Overview
from polymnia.serve.uploads import PICTURES, SOUNDS
from polymnia.version import __version__

router = APIRouter(prefix="/api")
Shared = Annotated[Desk, Depends(desk)]


@router.get("/health")
async def health() -> Health:
    """The server answers. Needs no token."""
    return Health(version=__version__)


@router.get("/info")
async def info(shared: Shared) -> Overview:
    """What there is to search, with what, and what this server takes."""
    found = await shared.work.run(shared.service.info)
    limits = shared.settings.limits
    return Overview(
        rows=found.rows,
        modalities=list(found.modalities),
        queries=list(found.queries),
        tasks=list(found.tasks),
        topics=list(found.topics),
        encoder=EncoderState(task=found.after, name=found.name),
        spaces=[EncoderState(task=s.task, name=s.name) for s in found.spaces],
        states=[EncoderState(task=s.task, name=s.name) for s in found.states],
        allow_add=shared.settings.allow_add,
        upload_bytes=limits.upload,
        upload_seconds=limits.seconds,
        upload_types=[*(SOUNDS if "audio" in found.queries else ()), *(PICTURES if "image" in found.queries else ())],
    )


@router.get("/matrices")
async def matrices(shared: Shared) -> Matrices:
    """The scores of the run on each task after each task."""
    found = await shared.work.run(shared.service.scores)
    if found is None:
        raise HTTPException(404, "the run that this index was made with is not here, or has no scores")
    heads = [Heads(head=name, score=rows, summary=said) for name, (rows, said) in found.heads.items()]
    return Matrices(name=found.name, tasks=list(found.tasks), after=list(found.after), heads=heads)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(shared: Shared) -> PlainTextResponse:
    """Counts and times, as Prometheus reads them."""
    return PlainTextResponse(shared.metrics.text(), media_type="text/plain; version=0.0.4")
