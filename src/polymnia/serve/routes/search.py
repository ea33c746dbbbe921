"""POST /api/search, GET /api/similar/{id}, POST /api/add."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from polymnia.config import explain
from polymnia.serve import answers
from polymnia.serve.desk import Desk, desk
from polymnia.serve.service import Asked, Entry, Info, Match, Narrowed
from polymnia.serve.shapes import AddRequest, EncoderState, Item, Searched, SearchRequest, SimilarRequest
from polymnia.serve.uploads import Upload, kind_of, on_disk

router = APIRouter(prefix="/api")
LISTS = ("like", "unlike", "modalities", "tasks", "topics")
Shared = Annotated[Desk, Depends(desk)]


def body(*models: type[SearchRequest] | type[AddRequest], json: bool) -> dict[str, Any]:
    """What OpenAPI says of a body that is read by hand: a form with a file, and JSON where there may be none."""
    (model,) = models
    schema = model.model_json_schema()
    form = {**schema, "properties": {**schema["properties"], "file": {"type": "string", "format": "binary"}}}
    if not json:
        form["required"] = ["file"]
    content = {"application/json": {"schema": schema}} if json else {}
    return {"requestBody": {"required": True, "content": {**content, "multipart/form-data": {"schema": form}}}}


@router.post("/search", openapi_extra=body(SearchRequest, json=True))
async def search(request: Request, shared: Shared) -> Searched:
    """The items nearest to words, to an uploaded sound or picture, to other items, or to all of these together."""
    async with _read(request, shared, SearchRequest) as (wanted, upload):
        if wanted.text is None and upload is None and not wanted.like:
            raise HTTPException(422, "nothing was asked for: give text, a file, or an item to be like")
        return await _answer(shared, wanted, upload)


@router.get("/similar/{id:path}")
async def similar(
    shared: Shared,
    id: Annotated[str, Path(min_length=1, max_length=1024)],
    wanted: Annotated[SimilarRequest, Query()],
) -> Searched:
    """The items nearest to one that is there, without itself."""
    await shared.entry(id, "index" if wanted.after is None else "run")
    return await _answer(shared, SearchRequest(like=[id], **wanted.model_dump()), None)


@router.post("/add", status_code=201, openapi_extra=body(AddRequest, json=False))
async def add(request: Request, shared: Shared) -> Item:
    """Embed an uploaded file and put it into the index. Only where the server was started with --allow-add."""
    if not shared.settings.allow_add:
        shared.metrics.refuse("add")
        raise HTTPException(403, "this server adds nothing; it was started without --allow-add")
    async with _read(request, shared, AddRequest) as (said, upload):
        if upload is None:
            raise HTTPException(422, "there is no file in this request")
        return answers.item(await shared.work.run(partial(_add, shared, said, upload)))


def _add(shared: Desk, said: AddRequest, upload: Upload) -> Entry:
    with on_disk(upload, shared.settings.limits) as path:
        return shared.service.add(path, upload.suffix, upload.kind, said.caption, said.topic)


async def _answer(shared: Desk, wanted: SearchRequest, upload: Upload | None) -> Searched:
    began = time.perf_counter()

    def work() -> tuple[Info, list[Match]]:
        info = shared.service.info()
        if upload is None:
            return info, list(shared.service.search(_asked(wanted, None, None)))
        with on_disk(upload, shared.settings.limits) as path:
            return info, list(shared.service.search(_asked(wanted, path, upload)))

    info, found = await shared.work.run(work)
    name = next((s.name for s in info.states if s.task == wanted.after), info.name)
    state = EncoderState(task=info.after if wanted.after is None else wanted.after, name=name)
    gallery = "index" if wanted.after is None else "run"
    seconds = round(time.perf_counter() - began, 4)
    return Searched(gallery=gallery, encoder=state, seconds=seconds, hits=answers.hits(found, gallery))


def _asked(wanted: SearchRequest, path: Any, upload: Upload | None) -> Asked:
    narrowed = Narrowed(
        tuple(wanted.modalities),
        tuple(wanted.tasks),
        tuple(wanted.topics),
        wanted.shortest,
        wanted.longest,
        wanted.where,
    )
    kind = None if upload is None else upload.kind
    like, unlike = tuple(wanted.like), tuple(wanted.unlike)
    return Asked(wanted.text, path, kind, like, unlike, wanted.k, narrowed, wanted.after)


@asynccontextmanager
async def _read(request: Request, shared: Desk, model: type[Any]) -> AsyncIterator[tuple[Any, Upload | None]]:
    """The fields of a JSON body or of a form, and the form's file. HTTPException 415 or 422 for what is neither."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        with shared.forms.place():
            async with request.form(max_files=1, max_fields=100) as form:
                yield _validated(model, _fields(form)), _file(form, shared)
    elif kind == "application/json" and model is SearchRequest:
        yield _validated(model, await request.body()), None
    else:
        shared.metrics.refuse("type")
        also = " or application/json" if model is SearchRequest else ""
        raise HTTPException(415, f"send multipart/form-data{also}")


def _validated(model: type[Any], given: dict[str, Any] | bytes) -> Any:
    try:
        return model.model_validate_json(given) if isinstance(given, bytes) else model.model_validate(given)
    except ValidationError as error:
        raise HTTPException(422, explain(error)) from error


def _fields(form: FormData) -> dict[str, Any]:
    words = [(k, v) for k, v in form.multi_items() if isinstance(v, str)]
    fields: dict[str, Any] = {}
    for name, value in words:
        if name in LISTS:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise HTTPException(422, f"'{name[:50]}' was sent twice")
        else:
            fields[name] = value
    return fields


def _file(form: FormData, shared: Desk) -> Upload | None:
    files = [(k, v) for k, v in form.multi_items() if isinstance(v, UploadFile)]
    if not files:
        return None
    (name, file), *_ = files
    if name != "file":
        raise HTTPException(422, "the part of the form that holds the file must be called 'file'")
    suffix, kind = kind_of(file.filename, shared.metrics)
    return Upload(file.file, suffix, kind)
