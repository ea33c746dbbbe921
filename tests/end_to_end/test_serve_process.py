"""The command as a process: a page in a browser on a real index, and an end that loses nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from live_server import chromium
from serve_world import TOKEN
from small_index import small_index
from small_run import small_root, small_run

QUERY = "a slow low drum that fades away"
SRC = Path(__file__).parents[2] / "src"


@contextmanager
def process(index: Path, *words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`polymnia serve INDEX --port 0 WORDS`, and its address."""
    command = [sys.executable, "-m", "polymnia.cli", "serve", str(index), "--port", "0", *words]
    env = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", **environment}
    started = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env, text=True)
    try:
        assert started.stderr is not None
        for line in started.stderr:
            if found := re.match(r"(http://\S+) answers", line):
                break
        else:
            pytest.fail("it did not start")
        yield started, found[1]
    finally:
        started.kill()
        started.communicate(timeout=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that may be written into."""
    return shutil.copytree(small_run(), tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_index(tmp_path_factory.mktemp("served") / "index")


def half_sent(address: str, sound: bytes) -> tuple[socket.socket, bytes]:
    """A connection on which half of a search by a file is on its way, and the other half."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = head + sound + b"\r\n--x--\r\n"
    place = urlsplit(address)
    lines = ("POST /api/search HTTP/1.1", f"Host: {place.netloc}", f"Content-Length: {len(body)}",
             "Content-Type: multipart/form-data; boundary=x", "Connection: close", "", "")  # fmt: skip
    connection = socket.create_connection((place.hostname, place.port), timeout=20)
    connection.sendall("\r\n".join(lines).encode() + body[: len(body) // 2])
    return connection, body[len(body) // 2 :]


def test_a_long_upload_ends_early_and_a_signal_lets_requests_in_flight_end(index: Path):
    sound = next((small_root() / "data").rglob("*.wav")).read_bytes()
    with ExitStack() as held, process(index, "--no-page", "--max-upload", "1") as (started, address):
        assert httpx.get(f"{address}api/health").json()["status"] == "ok"
        for length in (f"Content-Length: {4 << 30}", "Transfer-Encoding: chunked"):
            assert sent_before_hung_up_on(address, length) < 32 << 20
        assert 'refusals_total{reason="size"} 2' in httpx.get(f"{address}api/metrics").text

        connection, rest = half_sent(address, sound)
        held.callback(connection.close)
        httpx.get(f"{address}api/health")  # it has been seen: the server takes them in turn
        started.send_signal(signal.SIGTERM)
        for _ in range(200):  # until nobody else is let in
            try:
                socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=5).close()
            except OSError:
                break
            time.sleep(0.05)
        else:
            pytest.fail("it still lets others in")
        connection.sendall(rest)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200") and b'"hits":[{"rank":1' in answer
        assert started.wait(20) == 0


def sent_before_hung_up_on(address: str, length: str) -> int:
    """How many bytes of an endless upload a server lets in, 64 MB at most."""
    place, size = urlsplit(address), 1 << 16
    kind = "Content-Type: multipart/form-data; boundary=x"
    head = ("POST /api/search HTTP/1.1", f"Host: {place.netloc}", length, kind, "", "")
    begin = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    block, sent = bytes(size), 0
    if "chunked" in length:
        begin, block = b"%x\r\n%s\r\n" % (len(begin), begin), b"%x\r\n%s\r\n" % (size, block)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall("\r\n".join(head).encode())
        try:
            connection.sendall(begin)
            while sent < 64 << 20:
                sent += connection.send(block)
        except OSError:  # it has hung up
            pass
    return sent


def test_in_a_browser_a_real_index_is_searched_played_and_gone_back_in(index: Path, run: Path):
    pytest.importorskip("gradio")
    with chromium() as browser, process(index, "--run", str(run), POLYMNIA_TOKEN=TOKEN) as (started, address):
        view = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
        view.set_default_timeout(20_000)
        view.goto(address)
        view.get_by_label("The token of this server").fill("not this one, surely")
        view.keyboard.press("Enter")
        assert "not the token" in view.get_by_role("alert").inner_text()
        view.get_by_label("The token of this server").fill(TOKEN)
        view.keyboard.press("Enter")
        view.wait_for_selector("html[data-ready]")
        view.get_by_label("Search in words").fill(QUERY)
        view.get_by_role("button", name="Search", exact=True).click()
        view.wait_for_selector(".pm-card")
        found = api(address, {"text": QUERY, "modalities": ["audio", "image"], "k": 12})
        assert shown(view) == [h["item"]["id"] for h in found] and len(found) == 8
        card = view.locator(".pm-card").first
        assert card.locator(".pm-tag").first.inner_text() == found[0]["item"]["task"]
        heard = card.locator("audio").evaluate(HEARD)
        assert heard[0] == pytest.approx(0.5, abs=0.05) and heard[1] > 0

        first = found[0]["item"]["id"]
        card.get_by_role("button", name="More like this").click()
        view.wait_for_selector(f".pm-card:first-child:not([data-id='{first}'])")
        wanted = api(address, {"like": [first], "modalities": ["audio", "image"], "k": 12})
        assert shown(view) == [h["item"]["id"] for h in wanted]

        view.get_by_role("button", name="Remove: like").click()
        sound = httpx.get(f"{address}api/media/{quote(first, safe='')}", headers=KNOWN).content
        view.set_input_files("#pm-file", {"name": "q.wav", "mimeType": "audio/wav", "buffer": sound})
        view.wait_for_selector(f".pm-card:first-child[data-id='{first}']")
        assert float(card.locator(".pm-score").inner_text()) == pytest.approx(1.0, abs=1e-3)
        view.get_by_label("side by side").check()
        view.wait_for_selector(".pm-column:nth-child(3) .pm-card:nth-child(5)")
        assert view.locator(".pm-column h2").all_text_contents() == ["before learning", "after seas", "after tunes"]
        view.get_by_role("tab", name="Scores").click()
        view.wait_for_selector(".pm-heat")
        started.send_signal(signal.SIGINT)
        assert started.wait(20) == 0  # the page keeps no connection that would hold it
        view.context.close()


HEARD = """async player => {
  await player.play();
  await new Promise((done) => setTimeout(done, 400));
  return [player.duration, player.currentTime];
}"""
KNOWN = {"authorization": f"Bearer {TOKEN}"}


def api(address: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{address}api/search", json=asked, headers=KNOWN)
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


def shown(view: Any) -> list[str]:
    return view.locator(".pm-card").evaluate_all("cards => cards.map(c => c.dataset.id)")
