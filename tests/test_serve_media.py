"""What is heard and seen of an item: by its id, in ranges, small, and never from elsewhere."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from serve_world import PNG, MadeUp, error, served, tone
from starlette.testclient import TestClient

from polymnia.serve.service import Entry, Match, Medium


@pytest.fixture
def world(tmp_path: Path) -> tuple[MadeUp, TestClient]:
    return served(tmp_path)


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
