"""The page of the report: charts, gallery, and the whole in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from report_fixture import dump, write_run, write_suite

from polymnia.report import charts, gallery, tables
from polymnia.report.folders import read_methods, read_run
from polymnia.report.logs import steps
from polymnia.report.page import write_report

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def report(suite: list[Path]) -> tables.Report:
    return write_report(suite, suite[0].parent / "report")


def test_steps_go_on_counting_when_the_log_starts_anew_with_a_task(suite: list[Path]):
    counted = [at for at, _ in steps(read_run(suite[0]))]
    assert counted == sorted(set(counted)) and len(counted) == 160


def test_labels_that_meet_are_moved_apart_and_others_are_not():
    assert charts.spread([(0.0, 50.0), (0.0, 52.0), (0.0, 54.0)], 0, 100) == [50.0, 66.0, 82.0]
    assert charts.spread([(0.0, 50.0), (300.0, 50.0)], 0, 100) == [50.0, 50.0]
    assert max(charts.spread([(0.0, 99.0), (0.0, 99.5)], 0, 100)) <= 100


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 0), (5, 5), (47.1, 60.9), (0, 1e-7)])
def test_ticks_are_even_and_cover_the_range(low: float, high: float):
    found = charts.ticks(low, high)
    gaps = {round((b - a) / (found[1] - found[0]), 6) for a, b in zip(found, found[1:], strict=False)}
    assert found[0] <= low + 1e-9 and found[-1] >= high - 1e-9 and gaps == {1.0}


def test_a_gallery_over_the_budget_shows_fewer_queries_and_says_so(
    suite: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gallery, "MEDIA_BYTES", 20_000)
    found = gallery.gallery(read_methods(suite[:1]))
    assert 0 < found.shown < found.total == 12 and sum(map(len, found.media.values())) <= 20_000
    text = write_report(suite[:1], tmp_path / "out").html.read_text()
    assert f"Shown: {found.shown} of 12 queries" in text


def test_a_sound_is_compressed_and_what_cannot_be_stays_as_it_is(tmp_path: Path):
    time = np.arange(32_000, dtype=np.float32) / 16_000
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(2 * np.pi * 440 * time), 16_000, subtype="PCM_16")
    kind, _, content = gallery.data_uri(tmp_path, "tone.wav").partition(";base64,")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:audio/mpeg" and rate == 16_000 and len(samples) >= 32_000
    assert len(content) < (tmp_path / "tone.wav").stat().st_size / 3
    (tmp_path / "noise.wav").write_bytes(b"not a sound" * 1000)
    assert gallery.data_uri(tmp_path, "noise.wav").startswith("data:audio/wav")


def test_hits_of_the_right_class_are_right_where_classes_are_scored(tmp_path: Path):
    folder = write_run(tmp_path / "a", "er")
    meta, examples = (json.loads((folder / f"{name}.json").read_text()) for name in ("meta", "examples"))
    query = next(q for q in examples["queries"] if q["task"] == "nature" and q["direction"] == "audio>image")
    query["results"]["4"] = [{"id": f"{t}-7", "score": 0.5, "hit": False} for t in ("nature", "music", "nature")]
    dump(folder / "examples.json", examples)
    key = ("nature", "audio", "image")

    def end() -> dict[str, Any]:
        found = gallery.gallery(read_methods([folder])).queries["er"]
        return next(q for q in found if (q["task"], q["source"], q["target"]) == key)["stages"][-1]

    assert end()["said"] == "none right" and [v["kin"] for v in end()["results"]] == [True, False, True]
    meta["tasks"][0]["score"] = "mean of audio>image/class_mAP, image>audio/class_mAP"
    dump(folder / "meta.json", meta)
    assert end()["said"] == "2 of 3 right" and [v["right"] for v in end()["results"]] == [True, False, True]


def test_what_is_right_among_the_hits_is_said_in_words():
    assert gallery.said([False, False]) == "none right"
    assert gallery.said([False, True, False]) == "the second is right"
    assert gallery.said([True, True, False]) == "2 of 3 right"


def test_a_term_that_ends_early_is_named_at_the_margin_in_full():
    early = charts.Series("contrast/audio-image", [(0.0, 1.0), (5.0, 1.0)], 0)
    late = charts.Series("contrast/audio-text", [(5.0, 1.0), (9.0, 1.0)], 1)
    drawn = charts.chart("t", ("x", "y"), [early, late], stretches=True)
    assert [m.word for m in drawn.marks] == ["contrast/audio-image", "contrast/audio-text"]
    assert (
        drawn.marks[0].label_x == drawn.marks[1].label_x and abs(drawn.marks[0].label_y - drawn.marks[1].label_y) > 9
    )


def test_files_outside_the_run_folder_are_not_embedded(tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("words")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "notes.txt", "absent.wav"):
        assert gallery.data_uri(tmp_path / "run", name) == ""


def test_the_page_is_under_eight_megabytes_with_headings_in_order(report: tables.Report):
    text = report.html.read_text()
    assert len(text) < 8_000_000
    levels = [int(n) for n in re.findall(r"<h([1-6])", text)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert text.count("<table") == text.count("<caption") and not re.search(r"<img (?![^>]*alt=)", text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    with api.sync_playwright() as p:
        found = p.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_the_page_works_alone_and_fits_a_phone(browser: Any, report: tables.Report, scheme: str):
    view = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844}).new_page()
    troubles: list[str] = []
    view.on("console", lambda m: troubles.append(m.text))
    view.on("pageerror", lambda e: troubles.append(str(e)))
    view.on("request", lambda r: troubles.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    view.goto(report.html.as_uri())

    def shown(selector: str) -> int:
        return view.locator(f"{selector}:visible").count()

    def summary() -> str:
        assert shown("table.summary") == 1
        return view.locator("table.summary:visible").inner_text()

    assert "at that moment" in summary() and shown("td .gain") and not shown("td .loss")
    view.locator("input[name=head][value=latest]").focus()
    view.keyboard.press("ArrowRight")
    assert "saved right after it was learned" in summary() and not shown("td .gain")

    assert shown("[data-method]") == 1
    view.select_option("#method", label="er + lwf")
    panel = view.locator("[data-method]:visible")
    assert panel.count() == 1 and "Training of er + lwf" in panel.inner_text()
    picture = panel.locator("img:visible").first
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("e => e.decode().then(() => e.naturalWidth)") == 64
    assert panel.locator("audio").first.evaluate(PLAYABLE)

    view.locator("td.v:visible").nth(4).click()
    assert "after nature" in view.locator("#tip").inner_text()
    view.select_option("#method", label="prompts")
    maps = view.locator(".map:visible")
    assert maps.count() == 3 and "Names" in maps.nth(0).inner_text()
    maps.nth(1).locator("td.v").nth(0).click()
    tip = view.locator("#tip").inner_text()
    assert tip.startswith("nature and animals, prompts (audio): 0.5")
    assert maps.nth(1).locator("tbody tr").evaluate_all(OVERFLOWING) == 0
    view.select_option("#method", label="er + lwf")
    view.locator("[data-legend=lwf]").click()
    view.mouse.move(0, 0)
    assert shown(".dim") and not view.locator(".dim[data-series=lwf]").count()

    view.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    assert troubles == []
    view.context.close()


OVERFLOWING = "rows => rows.flatMap(r => [...r.cells].slice(1)).filter(c => c.scrollWidth > c.clientWidth + 1).length"
PLAYABLE = """e => new Promise(done => {
  e.onloadedmetadata = () => done(e.duration > 0.2); e.onerror = () => done(false); e.load(); e.preload = "auto";
})"""
