"""The API against its own OpenAPI document: whatever fits it or not, the answer is one that the document promises."""

from __future__ import annotations

import email
import email.message
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from pydantic import ValidationError
from serve_world import MadeUp, made_up, settings

from polymnia.serve.app import create_app
from polymnia.serve.shapes import AddRequest

schemathesis = pytest.importorskip("schemathesis")
HOST = {"host": "127.0.0.1:7860"}
BOUNDED = hypothesis_settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
BARE = ["GET /api/health", "GET /api/info", "GET /api/matrices", "GET /api/metrics"]
NAMED = [f"GET /api/{what}/{{id}}" for what in ("similar", "item", "media", "spectrogram", "thumbnail")]
ASKED = ["POST /api/search", "POST /api/add"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    return made_up(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def operations(world: MadeUp) -> dict[str, Any]:
    app = create_app(world, settings(allow_add=True), (world.root,))
    document = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=HOST)
    return {result.ok().label: result.ok() for result in document.get_all_operations()}


def test_every_route_of_the_document_is_tried(operations: dict[str, Any]):
    assert set(operations) == {*BARE, *NAMED, *ASKED}


def _fits_as_sent(answer: Any) -> bool:
    """Whether a form is a right one as it was sent. It carries text alone: a number, or a list of one thing, where
    words belong arrives as words, and no server could tell."""
    kind, body = str(answer.request.headers.get("content-type", "")), answer.request.body
    if not kind.startswith("multipart/form-data") or not answer.request.url.endswith("/api/add"):
        return False
    form = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    parts = [p for p in form.get_payload() if isinstance(p, email.message.Message)] if form.is_multipart() else []
    names = [str(p.get_param("name", header="content-disposition")) for p in parts]
    words = {n: p.get_payload() for n, p in zip(names, parts, strict=True) if p.get_filename() is None}
    try:
        AddRequest(**words)
    except ValidationError:
        return False
    return sorted(names) == sorted([*words, "file"])


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
@pytest.mark.parametrize("route", [*BARE, *NAMED, *ASKED])
def test_every_answer_is_one_of_those_that_are_documented(
    world: MadeUp, operations: dict[str, Any], route: str, mode: str
):
    """POSITIVE: requests that fit the document. NEGATIVE: requests that break it somewhere."""
    if route in BARE and mode == "NEGATIVE":
        return  # what takes nothing cannot be asked wrongly
    strategy = operations[route].as_strategy(generation_mode=schemathesis.GenerationMode[mode])
    # That something must be asked for, and by a file of a known type, is more than the document can say.
    left_out = [schemathesis.checks.positive_data_acceptance] if route in ASKED else []
    refused = schemathesis.checks.negative_data_rejection
    answered = 0

    @hypothesis_settings(BOUNDED, max_examples=25 if route in ASKED else 15)
    @given(case=strategy)
    def asked(case: Any) -> None:
        nonlocal answered
        answer = case.call(headers=HOST)
        case.validate_response(answer, excluded_checks=left_out + ([refused] if _fits_as_sent(answer) else []))
        assert answer.status_code < 500
        assert str(world.root) not in answer.text and "Traceback" not in answer.text
        answered += 1

    asked()
    assert answered
