"""The API before a made-up search: fields and uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from serve_world import EVIL, PNG, MadeUp, error, made_up, png_bomb, served, settings, wave
from starlette.testclient import TestClient

from polymnia.serve.app import create_app
from polymnia.serve.body import FORM
from polymnia.types import UserError


@pytest.fixture
def world(tmp_path: Path) -> tuple[MadeUp, TestClient]:
    return served(tmp_path)


# --- what is asked


def test_a_search_by_words_gives_ranked_hits_with_links_that_work(world):
    service, http = world
    answer = http.post("/api/search", json={"text": "rain", "k": 3, "topics": ["rain"], "longest": 9.5})
    found = answer.json()
    assert (
        answer.status_code == 200 and found["gallery"] == "index" and found["encoder"] == {"task": 2, "name": "tunes"}
    )
    assert [(h["rank"], h["item"]["id"]) for h in found["hits"]] == [
        (1, "sounds/low tone.wav"), (2, "sounds/high?#%.wav"), (3, "ramp.png")]  # fmt: skip
    (asked,) = service.asked
    assert (asked.text, asked.k, asked.narrowed.topics, asked.narrowed.longest) == ("rain", 3, ("rain",), 9.5)
    links = [link for hit in found["hits"] for link in hit["item"]["links"].values() if link]
    assert len(links) == 6
    for link in links:
        assert http.get(link).status_code == 200, link


def test_a_search_by_a_file_reaches_the_service_as_that_file_and_leaves_nothing(world, tmp_path, monkeypatch):
    service, http = world
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    sound = wave()
    answer = http.post(
        "/api/search", files={"file": ("../../a b.WAV", sound)}, data={"text": "loud", "like": ["words"]}
    )
    assert answer.status_code == 200
    (asked,) = service.asked
    assert (asked.kind, asked.text, asked.like) == ("audio", "loud", ("words",)) and service.contents == [sound]
    assert asked.file is not None and asked.file.suffix == ".wav" and not asked.file.exists()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_encoder_of_another_moment_searches_the_test_items_of_the_run(world):
    service, http = world
    found = http.post("/api/search", json={"text": "rain", "after": 1}).json()
    assert found["gallery"] == "run" and found["encoder"] == {"task": 1, "name": "seas"}
    assert service.asked[0].after == 1
    assert all("gallery=run" in h["item"]["links"]["sound"] for h in found["hits"] if h["modality"] == "audio")


def test_more_like_this_is_without_itself(world):
    service, http = world
    found = http.get(
        "/api/similar/" + quote("sounds/high?#%.wav", safe=""), params={"k": 2, "tasks": ["seas", "tunes"]}
    )
    assert [h["item"]["id"] for h in found.json()["hits"]] == ["sounds/low tone.wav", "ramp.png"]
    error(http.get("/api/similar/gone"), 404)
    assert service.asked[0].like == ("sounds/high?#%.wav",) and service.asked[0].narrowed.tasks == ("seas", "tunes")


@pytest.mark.parametrize(
    ("body", "said"),
    [({}, "nothing was asked"), ({"text": ""}, "nothing was asked"), ({"unlike": ["words"]}, "nothing was asked"),
     ({"text": "a", "k": 0}, "k: "), ({"text": "a", "k": 101}, "k: "), ({"text": "x" * 1001}, "text: "),
     ({"text": "a", "topc": ["rain"]}, "topc: "), ({"text": "a", "modalities": ["video"]}, "modalities"),
     ({"text": "a", "shortest": -1}, "shortest: "), ({"like": ["x"] * 11}, "like: "), ({"text": 3}, "text: "),
     ({"text": "a", "after": -1}, "after: "), ({"text": "a", "where": "x" * 1001}, "where: "), ([], "input")],
)  # fmt: skip
def test_a_field_out_of_its_limits_is_named(world, body, said):
    service, http = world
    assert said in error(http.post("/api/search", json=body), 422).lower()
    assert service.asked == []


def test_a_body_that_is_no_json_or_of_another_type_is_refused(world):
    _, http = world
    json = {"content-type": "application/json"}
    for content in (b"{", b"\xff\xfe", b'{"text": "a", "text": }', b'{"k": NaN, "text": "a"}'):
        error(http.post("/api/search", content=content, headers=json), 422)
    for kind in ("text/xml", "", "application/x-www-form-urlencoded"):
        error(http.post("/api/search", content=b"text=a", headers={"content-type": kind}), 415)
    error(http.post("/api/search", content=b"abc", headers={"content-type": "multipart/form-data"}), 400)
    twice = [("text", (None, "a")), ("text", (None, "b")), ("file", ("a.wav", wave()))]
    assert "twice" in error(http.post("/api/search", files=twice), 422)


def test_what_the_service_refuses_is_told_in_one_sentence_without_the_path(world, tmp_path):
    service, http = world
    said = error(http.post("/api/search", json={"like": ["gone"]}), 422)
    assert "no item 'gone'" in said and str(tmp_path) not in said
    service.fault = UserError(f"{tmp_path}/runs/demo: no encoder\nafter task 9")
    assert (
        error(http.post("/api/search", json={"text": "a"}), 422) == "(a file of the server): no encoder after task 9."
    )


def test_a_fault_of_ours_is_told_without_its_traceback(world, tmp_path, caplog):
    service, http = world
    service.fault = RuntimeError(f"cannot open {tmp_path}/secret.lance")
    assert (
        error(http.post("/api/search", json={"text": "a"}), 500)
        == "Something went wrong on the server; its log says more."
    )
    assert "secret.lance" in caplog.text


# --- uploads


@pytest.mark.parametrize(
    ("name", "content", "status", "said"),
    [("notes.txt", b"words", 415, "neither recording nor picture"), ("a", b"", 415, "neither recording"),
     ("a.wav.exe", b"MZ", 415, "neither recording"), ("a.wav", b"no sound at all", 422, "not a readable recording"),
     ("a.wav", b"", 422, "is empty"), ("a.png", b"no picture", 422, "no readable picture"),
     ("a.svg", b"<svg/>", 415, "neither recording"), ("a.eps", b"%!PS", 415, "neither recording"),
     ("a.wav", wave(6), 422, "lasts 6 s"), ("a.png", png_bomb(1000), 422, "1000 x 1000 pixels"),
     ("a.png", PNG + b"\x00" * 50, 422, "no readable picture")],
)  # fmt: skip
def test_an_upload_that_cannot_be_used_is_refused_before_it_is_decoded(world, name, content, status, said):
    service, http = world
    assert said in error(http.post("/api/search", files={"file": (name, content)}), status)
    assert service.asked == []


def test_a_bomb_of_a_picture_is_refused_by_its_header_alone(world, monkeypatch):
    _, http = world
    bomb = png_bomb(20_000)  # 50 MB of pixels, as bits
    assert len(bomb) < 60_000
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    assert "more pixels than the 100,000" in error(http.post("/api/search", files={"file": ("a.png", bomb)}), 422)


def test_an_upload_over_the_limit_is_refused_while_it_comes_in(tmp_path: Path):
    service = made_up(tmp_path)
    app = create_app(service, settings(limits={"upload": 100_000}))
    given = 0

    async def receive() -> dict[str, Any]:
        nonlocal given
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' if given == 0 else b""
        given += 50_000
        assert given < 2_000_000, "it reads on"
        return {"type": "http.request", "body": head + bytes(50_000), "more_body": True}  # it would never end

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
             "path": "/api/search", "raw_path": b"/api/search", "query_string": b"", "root_path": "",
             "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=x")],
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 7860)}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 413 and (b"connection", b"close") in sent[0]["headers"]
    assert given <= 100_000 + FORM + 50_000 and service.asked == []


def test_an_upload_that_promises_four_gigabytes_is_not_read_at_all(world):
    _, http = world

    def never() -> Iterator[bytes]:
        pytest.fail("read")
        yield b""

    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(4 << 30)}
    assert "longer than" in error(http.post("/api/search", content=never(), headers=headers), 413)
    headers = {"content-type": "application/json", "content-length": "70000"}
    error(http.post("/api/search", content=never(), headers=headers), 413)


def test_nothing_is_added_unless_the_server_was_started_for_it(world, tmp_path):
    service, http = world
    assert "--allow-add" in error(http.post("/api/add", files={"file": ("a.wav", wave())}), 403)
    assert len(service.entries) == 4
    service, http = served(tmp_path, allow_add=True)
    added = http.post("/api/add", files={"file": ("a.wav", wave())}, data={"caption": EVIL, "topic": "rain"})
    assert added.status_code == 201 and added.json()["caption"] == EVIL
    assert http.get(added.json()["links"]["sound"]).content == wave()
    assert "no file" in error(http.post("/api/add", files={"caption": (None, "a")}), 422)
    error(http.post("/api/add", json={"caption": "a"}), 415)
