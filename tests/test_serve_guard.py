"""Who may ask a server, how much, what it counts, and what no answer says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from live_server import live
from serve_world import TOKEN, MadeUp, client, error, made_up, png_bomb, served, settings, wave
from starlette.testclient import TestClient

from polymnia.data.media import MediaError
from polymnia.index.database import explained
from polymnia.index.where import to_sql
from polymnia.serve import connection, guard
from polymnia.serve.app import create_app
from polymnia.serve.faults import hide, sentence
from polymnia.serve.metrics import Metrics
from polymnia.serve.rate import Buckets
from polymnia.types import UserError


@pytest.fixture
def world(tmp_path: Path) -> tuple[MadeUp, TestClient]:
    return served(tmp_path)


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


def test_no_more_forms_are_read_at_once_than_work_has_places(tmp_path: Path):
    service, few = made_up(tmp_path), settings(port=0, limits={"workers": 1, "queue": 1})
    reading, go_on = threading.Semaphore(0), threading.Event()

    def slowly() -> Iterator[bytes]:
        reading.release()
        yield b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\na'
        assert go_on.wait(10)
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    with live(create_app(service, few), few) as address:
        ask = partial(httpx.post, f"{address}api/search", timeout=10)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(lambda: ask(content=slowly(), headers=headers)) for _ in range(2)]
            assert all(reading.acquire(timeout=10) for _ in waiting)
            refused = _until_refused(lambda: ask(files={"file": ("a.wav", wave())}))
            assert "busy" in error(refused, 503) and refused.headers["retry-after"] == "1"
            assert ask(json={"text": "a"}).status_code == 200  # what takes no place is answered
            go_on.set()
            assert [f.result(timeout=10).status_code for f in waiting] == [200, 200]
        assert ask(files={"file": ("a.wav", wave())}).status_code == 200


def _until_refused(ask: Any) -> Any:
    """The first answer that is not 200: what was sent before it may not have come in yet."""
    return next(answer for _ in range(100) if (answer := ask()).status_code != 200)


def test_only_the_routes_that_take_a_file_read_a_long_form(tmp_path: Path):
    _, http = served(tmp_path, host="0.0.0.0", token=TOKEN)
    for path in ("/login", "/api/info", "/"):
        answer = http.post(
            path, files={"file": ("a.wav", bytes(100_000))}, headers={"authorization": f"Bearer {TOKEN}"}
        )
        assert "longer than the 0.064 MB" in error(answer, 413)


# --- connections


@pytest.mark.parametrize("begun", [b"", b"GET /api/health HT", b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n"])
def test_who_connects_and_does_not_ask_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes):
    monkeypatch.setattr(connection, "HEAD", 0.5)
    with live(create_app(made_up(tmp_path), settings(port=0)), settings(port=0)) as address:
        with _connected(address) as silent:
            silent.sendall(begun)
            assert silent.recv(1000) == b""
        with _connected(address) as late:
            time.sleep(0.2)
            assert _healthy(late)


def test_a_kept_connection_may_rest_but_not_begin_a_request_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connection, "HEAD", 0.5)
    with (
        live(create_app(made_up(tmp_path), settings(port=0)), settings(port=0)) as address,
        _connected(address) as kept,
    ):
        assert _healthy(kept)
        time.sleep(0.8)
        assert _healthy(kept)
        kept.sendall(b"GET /api/he")
        time.sleep(0.3)
        kept.sendall(b"alth HTTP/1.1")  # each byte buys no more time
        began = time.monotonic()
        assert kept.recv(1000) == b"" and time.monotonic() - began < 0.4


def test_a_search_may_take_longer_than_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "HEAD", 0.2)
    service = made_up(tmp_path)
    service.hold = threading.Event()
    with live(create_app(service, settings(port=0)), settings(port=0)) as address, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, f"{address}api/search", json={"text": "a"})
        time.sleep(0.6)
        service.hold.set()
        assert waiting.result(timeout=10).status_code == 200


def _connected(address: str) -> socket.socket:
    found = urlsplit(address)
    return socket.create_connection((found.hostname, found.port), timeout=5)


def _healthy(connected: socket.socket) -> bool:
    connected.sendall(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    said = b""
    while not said.endswith(b"}"):
        said += connected.recv(1000) or pytest.fail(f"hung up after {said!r}")
    return said.startswith(b"HTTP/1.1 200")


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
     ("'~/secret/x' and", "'(a file of the server)' and"), ("tmp/x/y.lance: gone", "(a file of the server): gone"),
     ("a tmp or tmpfile", "a tmp or tmpfile"), ("duration < 10 / 2", "duration < 10 / 2")],
)  # fmt: skip
def test_paths_are_taken_out_of_a_message(said, kept):
    assert hide(said) == kept


def test_a_secret_folder_is_hidden_without_its_first_slash_too():
    secret = [Path("/srv/our sounds/idx")]
    assert (
        hide("Not found: srv/our sounds/idx/data/1.lance, see x", secret) == "Not found: (a file of the server), see x"
    )
    assert hide("srv/our sounds/idx", secret) == "(a file of the server)"
    assert (
        hide("srv/our sounds/idx2 and mysrv/our sounds/idx", secret) == "srv/our sounds/idx2 and mysrv/our sounds/idx"
    )


def test_what_the_database_says_is_for_the_log_alone():
    for trouble in ("lance error: a/b", "commit conflict in a/b", "no space left on a/b"):
        for fault in (RuntimeError(trouble), ValueError(trouble), PermissionError(13, trouble, "/a/b")):
            with pytest.raises(UserError) as found, explained("s3://bucket/idx"):
                raise fault
            assert sentence(found.value).startswith("The index cannot be read")
    with pytest.raises(UserError) as found:
        to_sql("duration < 1.2.3")
    assert sentence(found.value).startswith("The filter")


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
