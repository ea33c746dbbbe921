"""The API before a made-up search: fields, uploads, ranges, tokens, rates, queues, and what no answer may say."""

from __future__ import annotations

import asyncio
import io
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from PIL import Image
from serve_world import EVIL, TOKEN, MadeUp, client, made_up, served, settings, tone
from starlette.testclient import TestClient

from polymnia.data.media import MediaError
from polymnia.serve import guard
from polymnia.serve.app import create_app
from polymnia.serve.body import FORM
from polymnia.serve.faults import hide
from polymnia.serve.metrics import Metrics
from polymnia.serve.rate import Buckets
from polymnia.serve.service import Entry, Match, Medium
from polymnia.types import UserError

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def world(tmp_path: Path) -> tuple[MadeUp, TestClient]:
    return served(tmp_path)


def error(answer: Any, status: int) -> str:
    """The sentence of an answer that has this status and nothing else in it."""
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert list(said) == ["error"] and said["error"].endswith((".", "!", "?")) and "\n" not in said["error"]
    return said["error"]


def wave(seconds: float = 1.0, rate: int = 8000, hertz: float = 300) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate), rate, format="WAV")
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def png_bomb(side: int) -> bytes:
    """A PNG of side x side black pixels: a thousandth of its size once it is unpacked."""
    head = side.to_bytes(4) + side.to_bytes(4) + bytes([1, 0, 0, 0, 0])
    return (
        PNG + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes((side // 8 + 1) * side))) + chunk(b"IEND", b"")
    )


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


# --- media


def test_a_player_gets_ranges_of_a_sound_and_of_nothing_else(world, tmp_path):
    _, http = world
    whole = (tmp_path / "low tone.wav").read_bytes()
    link = "/api/media/" + quote("sounds/low tone.wav", safe="")
    got = http.get(link)
    assert (
        got.content == whole and got.headers["content-type"] == "audio/wav" and got.headers["accept-ranges"] == "bytes"
    )
    assert (
        got.headers["x-content-type-options"] == "nosniff"
        and "default-src 'none'" in got.headers["content-security-policy"]
    )
    part = http.get(link, headers={"range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == whole[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole)}"
    beyond = http.get(link, headers={"range": f"bytes={len(whole)}-"})
    assert "range" in error(beyond, 416) and beyond.headers["content-range"] == f"bytes */{len(whole)}"
    assert "range" in error(http.get(link, headers={"range": "bytes=a-b"}), 400)
    assert http.get(link, headers={"range": "bytes=-44"}).content == whole[-44:]


@pytest.mark.parametrize(
    "name", ["low tone.wav", "../low tone.wav", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "nope\x00"]
)
def test_a_path_is_no_id(world, name):
    _, http = world
    error(http.get("/api/media/" + quote(name, safe="")), 404)


def test_a_file_that_leads_out_of_its_root_or_is_gone_is_not_sent(world, tmp_path):
    service, http = world
    (tmp_path / "out").mkdir()
    secret = tone(tmp_path / "out" / "secret.wav", 100)
    entry = service.entries["sounds/low tone.wav"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.wav").symlink_to(secret)
    for path in (
        tmp_path / "in" / "link.wav",
        tmp_path / "in" / ".." / "out" / "secret.wav",
        tmp_path / "in" / "gone.wav",
    ):
        medium = type(entry.media["audio"])(tmp_path / "in", path)
        service.entries["x"] = type(entry)("x", ("audio",), {"audio": medium})
        for what in ("media", "spectrogram"):
            assert "no longer" in error(http.get(f"/api/{what}/x"), 404)


def test_what_browsers_do_not_show_is_not_sent(world, tmp_path):
    service, http = world
    (tmp_path / "page.html").write_text("<script>alert(1)</script>")
    entry = service.entries["ramp.png"]
    service.entries["x"] = type(entry)(
        "x", ("image",), {"image": type(entry.media["image"])(tmp_path, tmp_path / "page.html")}
    )
    error(http.get("/api/media/x"), 415)
    assert "no audio" in error(http.get("/api/spectrogram/ramp.png"), 404)
    assert "no media" in error(http.get("/api/media/words"), 404)


def test_a_spectrogram_shows_a_low_tone_below_a_high_one(world):
    _, http = world
    heights = []
    for name in ("sounds/low tone.wav", "sounds/high?#%.wav"):
        got = http.get("/api/spectrogram/" + quote(name, safe=""), params={"start": 0.5, "seconds": 1})
        pixels = np.asarray(Image.open(io.BytesIO(got.content)).convert("L"), dtype=float)
        assert got.headers["content-type"] == "image/png" and pixels.shape == (96, 480)
        heights.append(int(pixels.mean(axis=1).argmax()))
    # Slaney's scale from 30 Hz to 8 kHz: 220 Hz is at 2.85 of 42.5 mel, 1760 Hz at 22.9 of them
    assert heights[0] == pytest.approx(96 * (1 - 2.85 / 42.5), abs=2) and heights[1] == pytest.approx(
        96 * (1 - 22.4 / 42.5), abs=2
    )


def test_a_window_that_was_found_is_heard_and_seen_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    film = pytest.importorskip("videos").film
    service, http = served(tmp_path)
    levels = [n // 10 * 60 for n in range(40)]  # a second each of four grey levels
    medium = Medium(tmp_path, film(tmp_path / "steps.mp4", levels, sounds=[np.zeros(64_000)]), None, 1.0, 3.0)
    entry = Entry("steps", ("audio", "image"), {"audio": medium, "image": medium}, duration=3.0)
    service.entries = {"steps": entry}
    found = [Match(entry, "image", 0.5, 0.5, start=3.0, end=4.0)]
    monkeypatch.setattr(MadeUp, "search", lambda *_: found)
    (hit,) = http.post("/api/search", json={"text": "a"}).json()["hits"]
    links = hit["item"]["links"]
    assert hit["window"] == {"start": 3.0, "end": 4.0} and links["sound"].endswith("#t=3,4")
    assert links["spectrogram"].endswith("?start=2&seconds=1") and http.get(links["spectrogram"]).status_code == 200
    for address, level in (
        (links["thumbnail"], 180),
        ("/api/thumbnail/steps", 120),
    ):  # the window; the middle of 1 to 4 s
        drawn = np.asarray(Image.open(io.BytesIO(http.get(address).content)).convert("L"), dtype=float)
        assert drawn.mean() == pytest.approx(level, abs=8)


def test_a_small_picture_is_drawn_once(world, monkeypatch):
    _, http = world
    first = http.get("/api/thumbnail/ramp.png").content
    monkeypatch.setattr("polymnia.serve.small.thumbnail", lambda *_: pytest.fail("drawn again"))
    assert http.get("/api/thumbnail/ramp.png").content == first
    assert Image.open(io.BytesIO(first)).size == (320, 320)


def test_a_medium_that_is_torn_is_told_without_its_path(world, tmp_path):
    _, http = world
    (tmp_path / "ramp.png").write_bytes(PNG)
    said = error(http.get("/api/thumbnail/ramp.png"), 422)
    assert "picture" in said and "ramp.png" not in said and str(tmp_path) not in said


# --- who may ask


def test_another_address_than_loopback_needs_a_token(tmp_path: Path):
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        with pytest.raises(UserError, match=f"--host {host} lets other machines in: set a token"):
            served(tmp_path, host=host)
        assert served(tmp_path, host=host, token=TOKEN)[1].get("/api/health").status_code == 200
    for host in ("127.0.0.1", "::1", "localhost", "127.8.9.1"):
        served(tmp_path, host=host)
    with pytest.raises(UserError, match="16 or more ASCII"):
        served(tmp_path, token="short")


def test_every_route_but_health_and_login_needs_the_token(tmp_path: Path):
    _, http = served(tmp_path, host="0.0.0.0", token=TOKEN, allow_add=True)
    document = client(create_app(made_up(tmp_path), settings())).get("/api/openapi.json").json()
    asked = [(verb, path.replace("{id}", "words")) for path, verbs in document["paths"].items() for verb in verbs]
    assert len(asked) == 11
    for verb, path in [
        *asked,
        ("get", "/"),
        ("get", "/api/openapi.json"),
        ("get", "/page/page.js"),
        ("post", "/nowhere"),
    ]:
        bare = http.request(verb, path)
        assert (bare.status_code == 200) == (path == "/api/health"), path
        if path != "/api/health":
            assert "token" in error(bare, 401) and bare.headers["www-authenticate"] == "Bearer"
        right = http.request(verb, path, headers={"authorization": f"Bearer {TOKEN}"})
        assert right.status_code not in (401, 429), path
    for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", b"Bearer \xe9", TOKEN):
        error(http.get("/api/info", headers={"authorization": wrong}), 401)


def test_a_browser_gives_the_token_once_and_gets_a_cookie_that_is_not_it(tmp_path: Path):
    _, http = served(tmp_path, host="0.0.0.0", token=TOKEN)
    away = http.get("/", headers={"accept": "text/html"}, follow_redirects=False)
    assert away.status_code == 303 and away.headers["location"] == "/login"
    assert 'type="password"' in http.get("/login").text and http.get("/page/login.css").status_code == 200
    assert http.post("/login", data={"token": "wrong"}).status_code == 401
    enter = http.post("/login", data={"token": TOKEN}, follow_redirects=False)
    cookie = enter.headers["set-cookie"]
    assert enter.status_code == 303 and "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert http.get("/api/info").status_code == 200
    http.cookies.clear()
    error(http.get("/api/info", headers={"cookie": "polymnia=" + "0" * 64}), 401)


def test_guesses_of_the_token_are_few(tmp_path: Path):
    _, http = served(tmp_path, host="0.0.0.0", token=TOKEN)
    codes = [http.get("/api/info", headers={"authorization": f"Bearer guess{n}"}).status_code for n in range(14)]
    assert codes[:10] == [401] * 10 and codes[-1] == 429
    assert http.get("/api/info", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "evil.example:7860", "[::1", "0.0.0.0"]
)
def test_on_loopback_a_page_of_another_name_is_refused(world, host):
    service, http = world
    assert "localhost only" in error(http.get("/api/info", headers={"host": host}), 421)
    for known in ("localhost", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST:1"):
        assert http.get("/api/info", headers={"host": known}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
     {"origin": "null"}, {"origin": "http://127.0.0.1:9999"}],
)  # fmt: skip
def test_another_sites_page_cannot_post(tmp_path, headers):
    service, http = served(tmp_path, allow_add=True)
    assert "another site" in error(http.post("/api/add", files={"file": ("a.wav", wave())}, headers=headers), 403)
    own = {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}
    assert http.post("/api/add", files={"file": ("a.wav", wave())}, headers=own).status_code == 201


def test_no_other_origin_is_allowed_anything(world):
    _, http = world
    ask = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    for answer in (http.get("/api/info", headers=ask), http.options("/api/search", headers=ask)):
        assert not [h for h in answer.headers if h.startswith("access-control")]
        assert (
            answer.headers["x-frame-options"] == "DENY"
            and "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        )


# --- how much


def test_a_bucket_fills_at_its_rate_and_each_client_has_one():
    now = 0.0
    buckets = Buckets(2.0, 3.0, clock=lambda: now)
    assert [buckets.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.wait("b") == 0
    now = 0.75  # one and a half tokens later
    assert buckets.wait("a") == 0 and buckets.wait("a") == pytest.approx(0.25)
    now = 1000.0
    assert [buckets.wait("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_clients_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr("polymnia.serve.rate.CLIENTS", 10)
    buckets = Buckets(1.0, 1.0)
    for n in range(50):
        buckets.wait(str(n))
    assert len(buckets.held) == 10


def test_who_asks_too_often_is_told_when_to_come_back(tmp_path: Path):
    _, http = served(tmp_path, limits={"rate": 0.5})
    codes = [http.post("/api/search", json={"text": "a"}) for _ in range(3)]
    assert [c.status_code for c in codes] == [200, 429, 429]  # a burst of three seconds' worth
    assert "too many" in error(codes[-1], 429).lower() and int(codes[-1].headers["retry-after"]) == 1
    assert http.get("/api/info").status_code == 200  # what costs little is counted apart


def test_beyond_its_queue_the_server_says_busy_and_serves_who_waited(tmp_path: Path):
    service, http = served(tmp_path, limits={"workers": 1, "queue": 2})
    service.hold = threading.Event()
    with http, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(http.post, "/api/search", json={"text": "a"}) for _ in range(6)]
        assert service.started.acquire(timeout=10)
        refused = [f.result(timeout=10) for f in waiting if _ended(f)]
        assert len(refused) == 3
        assert all("busy" in error(r, 503) and r.headers["retry-after"] == "1" for r in refused)
        metrics = http.get("/api/metrics").text
        assert (
            'polymnia_queue_length{gate="work"} 2' in metrics and 'polymnia_refusals_total{reason="busy"} 3' in metrics
        )
        service.hold.set()
        assert sorted(f.result(timeout=10).status_code for f in waiting) == [200] * 3 + [503] * 3
        assert 'polymnia_queue_length{gate="work"} 0' in http.get("/api/metrics").text


def _ended(future: Any) -> bool:
    """Whether it ends while the search is held: those that wait do not."""
    try:
        future.result(timeout=0.7)
    except TimeoutError:
        return False
    return True


def test_work_that_takes_too_long_is_given_up_and_its_place_comes_back_when_it_ends(tmp_path: Path):
    service, http = served(tmp_path, limits={"workers": 1, "queue": 0, "patience": 0.2})
    service.hold = threading.Event()
    with http:
        assert "too long" in error(http.post("/api/search", json={"text": "a"}), 503)
        assert "busy" in error(http.post("/api/search", json={"text": "a"}), 503)  # the thread still works
        service.hold.set()
        for _ in range(100):
            if http.post("/api/search", json={"text": "a"}).status_code == 200:
                break
        else:
            pytest.fail("its place was lost")


# --- what is counted, and what is never said


def test_metrics_count_by_route_and_not_by_path(world):
    _, http = world
    for name in ("words", "ramp.png", "gone"):
        http.get(f"/api/item/{name}")
    http.get("/wp-login.php"), http.get("/.env")
    text = http.get("/api/metrics").text
    assert 'polymnia_requests_total{route="/api/item/{id:path}",method="GET",status="200"} 2' in text
    assert 'polymnia_requests_total{route="/api/item/{id:path}",method="GET",status="404"} 1' in text
    assert 'polymnia_requests_total{route="other",method="GET",status="404"} 2' in text and "wp-login" not in text
    assert 'polymnia_request_seconds_bucket{route="/api/item/{id:path}",le="+Inf"} 3' in text


def test_a_histogram_counts_what_is_at_or_below_each_bound():
    metrics = Metrics()
    for seconds in (0.005, 0.006, 40.0):
        metrics.answered("/x", "GET", 200, seconds)
    lines = dict(line.rsplit(" ", 1) for line in metrics.text().splitlines() if not line.startswith("#"))
    name = 'polymnia_request_seconds_bucket{route="/x",le="%s"}'
    assert [lines[name % b] for b in ("0.005", "0.01", "30.0", "+Inf")] == ["1", "2", "2", "3"]
    assert float(lines['polymnia_request_seconds_sum{route="/x"}']) == pytest.approx(40.011)


def test_no_answer_names_a_folder_of_the_server(tmp_path: Path):
    service, http = served(tmp_path, allow_add=True)
    service.fault = MediaError(tmp_path / "a.wav", f"cannot open '{tmp_path}/a.wav': broken")
    answers = [http.post("/api/search", json={"text": "a"})]
    service.fault = None
    answers += [
        http.get(f"/api/{p}") for p in ("info", "matrices", "metrics", "health", "openapi.json", "item/ramp.png")
    ]
    answers += [
        http.get(f"/api/{what}/{quote(n, safe='')}") for n in service.entries for what in ("item", "media", "similar")
    ]
    answers += [
        http.post("/api/search", files={"file": (n, b"broken")})
        for n in ("a.wav", "a.png", "a.mp3", "a.flac", "a.tif")
    ]
    answers += [http.post("/api/add", files={"file": ("a.png", png_bomb(100))}), http.get("/api/media/" + "x" * 2000)]
    for answer in answers:
        said = answer.content + repr(dict(answer.headers)).encode()
        assert (
            str(tmp_path).encode() not in said
            and b"/tmp/" not in said
            and b"Traceback" not in said
            and b".py" not in said
        )


@pytest.mark.parametrize(
    ("said", "kept"),
    [("no item 'a/b.wav' here", "no item 'a/b.wav' here"), ("/var/x/y.db: gone", "(a file of the server): gone"),
     ("C:\\Users\\me\\x.wav is", "(a file of the server) is"), ("1/2 or 3/4/5", "1/2 or 3/4/5"),
     ("'~/secret/x' and", "'(a file of the server)' and"), ("duration < 10 / 2", "duration < 10 / 2")],
)  # fmt: skip
def test_paths_are_taken_out_of_a_message(said, kept):
    assert hide(said) == kept


def test_a_long_message_is_cut():
    assert len(hide("x " * 1000)) == 400


def test_the_guard_names_an_inline_script_as_browsers_do():
    # the example of the specification (Content Security Policy Level 2, 7.17.1)
    assert guard.content_hash("alert('Hello, world.');") == "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"


def test_every_route_has_documented_answers_and_limits(world):
    _, http = world
    document = http.get("/api/openapi.json").json()
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            assert {"401", "429", "503"} <= set(operation["responses"]), (verb, path)
            assert operation["description"]
    text = document["paths"]["/api/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert text["properties"]["k"]["maximum"] == 100 and text["additionalProperties"] is False
