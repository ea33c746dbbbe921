"""The page in a real browser: searching, playing, recording, at two widths, by keyboard, and what it must not do."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import soundfile
from live_server import chromium, live
from serve_world import MadeUp, made_up, settings, tone

from polymnia.serve.app import create_app
from polymnia.serve.page import mount
from polymnia.types import UserError

READABLE = (Path(__file__).parents[1] / "readable.js").read_text()
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MadeUp, str]]:
    pytest.importorskip("gradio")
    service = made_up(tmp_path_factory.mktemp("collection"))
    chosen = settings(port=0, limits={"seconds": 60.0, "upload": 4_000_000})
    app = create_app(service, chosen, (service.root,))
    mount(app, service.info())
    with live(app, chosen) as address:
        yield service, address


class View:
    """A tab of the browser that remembers whatever went wrong in it."""

    def __init__(self, browser: Any, address: str, width: str = "desktop", **more: Any):
        wide, tall = WIDTHS[width]
        context = browser.new_context(viewport={"width": wide, "height": tall}, **more)
        self.tab, self.address, self.troubles = context.new_page(), address, []
        self.tab.set_default_timeout(10_000)
        self.tab.on("console", lambda m: self.troubles.append(m.text))
        self.tab.on("pageerror", lambda e: self.troubles.append(str(e)))
        self.tab.on("request", self._local)
        self.tab.goto(address)
        self.tab.wait_for_selector("html[data-ready]")

    def _local(self, request: Any) -> None:
        own = urlsplit(self.address).netloc
        if not request.url.startswith(("data:", "blob:")) and urlsplit(request.url).netloc != own:
            self.troubles.append(f"asked {request.url}")

    def ask(self, words: str) -> None:
        self.tab.get_by_label("Search in words").fill(words)
        self.tab.keyboard.press("Enter")
        self.settle()

    def settle(self) -> None:
        self.tab.wait_for_selector("#pm-found[aria-busy=false]")

    def captions(self) -> list[str]:
        return self.tab.locator(".pm-caption").all_inner_texts()

    def close(self) -> None:
        assert self.troubles == []
        self.tab.context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_words_find_cards_that_play_and_lead_on(browser: Any, world: tuple[MadeUp, str], width: str):
    service, address = world
    view = View(browser, address, width)
    assert "Type some words" in view.tab.locator(".pm-empty").inner_text()
    view.ask("a low tone")
    assert view.captions()[0] == "a low tone" and "4 hits" in view.tab.locator(".pm-status").inner_text()
    assert service.asked[-1].text == "a low tone" and service.asked[-1].k == 12
    card = view.tab.locator(".pm-card").first
    assert card.locator("img").evaluate("e => e.decode().then(() => e.naturalWidth)") == 480
    heard = card.locator("audio").evaluate(
        "async e => { await e.play(); await new Promise(r => setTimeout(r, 600)); return [e.duration, e.currentTime] }"
    )
    assert heard[0] == pytest.approx(2.0, abs=0.05) and heard[1] > 0.2
    assert card.get_by_text("seas").is_visible()
    assert view.tab.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width][0]

    card.get_by_role("button", name="More like this").click()
    view.settle()
    assert service.asked[-1].like == ("sounds/low tone.wav",) and service.asked[-1].text is None
    assert view.tab.locator(".pm-chip").inner_text().startswith("like a low tone")
    assert "a low tone" not in view.captions()
    view.close()


def test_a_caption_is_words_whatever_it_says(browser: Any, world: tuple[MadeUp, str]):
    view = View(browser, world[1])
    view.ask("anything")
    assert any(c.startswith("<img src=x") for c in view.captions())
    view.tab.get_by_role("button", name="Filters").click()
    view.tab.locator("#pm-topic input").click()
    view.tab.get_by_role("option", name="<img src=x").click()
    view.tab.locator(".pm-card").nth(1).get_by_role("button", name="More like this").click()
    view.settle()
    assert view.tab.evaluate("window.hacked") is None and view.tab.locator("img[src=x]").count() == 0
    view.close()


def test_a_file_is_asked_with_by_choosing_and_by_dropping(browser: Any, world: tuple[MadeUp, str], tmp_path: Path):
    service, address = world
    view = View(browser, address, "phone")
    sound = tone(tmp_path / "query.wav", 440, 1.0)
    view.tab.set_input_files("#pm-file", sound)
    view.settle()
    assert service.asked[-1].kind == "audio" and service.contents[-1] == sound.read_bytes()
    assert view.tab.locator(".pm-chip audio").evaluate(
        "async e => { await e.play(); return e.duration }"
    ) == pytest.approx(1.0, abs=0.05)
    view.tab.get_by_role("button", name="Remove: query.wav").click()
    assert "Type some words" in view.tab.locator(".pm-empty").inner_text()

    view.tab.locator(".pm-drop").evaluate(DROP)
    view.settle()
    assert service.asked[-1].kind == "image"
    (tmp_path / "notes.txt").write_text("words")
    view.tab.set_input_files("#pm-file", tmp_path / "notes.txt")
    assert "no type of file" in view.tab.locator(".pm-media + .pm-note").inner_text()
    view.close()


DROP = """async zone => {
  const canvas = new OffscreenCanvas(40, 30);
  canvas.getContext("2d").fillRect(5, 5, 10, 10);
  const data = new DataTransfer();
  data.items.add(new File([await canvas.convertToBlob()], "drawn.png", { type: "image/png" }));
  zone.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def test_a_recording_of_the_microphone_is_asked_with(browser: Any, world: tuple[MadeUp, str]):
    service, address = world
    view = View(browser, address)
    view.tab.get_by_role("button", name="Record a sound").click()
    stop = view.tab.get_by_role("button", name="Stop recording")
    stop.wait_for()
    view.tab.wait_for_timeout(1500)
    stop.click()
    view.settle()
    samples, rate = soundfile.read(io.BytesIO(service.contents[-1]))
    assert service.asked[-1].kind == "audio" and samples.ndim == 1 and len(samples) > 0.8 * rate
    assert abs(samples).max() > 0.01  # the browser's made-up microphone beeps
    view.close()


def test_filters_and_the_moment_are_asked_for_and_the_gallery_is_said(browser: Any, world: tuple[MadeUp, str]):
    service, address = world
    view = View(browser, address)
    view.tab.get_by_role("button", name="Filters").click()
    view.tab.get_by_label("At most (seconds)").fill("7,5")
    view.tab.get_by_label("Sounds", exact=True).check()
    view.tab.locator("#pm-topic input").click()
    view.tab.get_by_role("option", name="rain").click()
    view.ask("drops")
    asked = service.asked[-1].narrowed
    assert (asked.modalities, asked.topics, asked.tasks, asked.longest, asked.shortest) == (
        ("audio",),
        ("rain",),
        (),
        7.5,
        None,
    )
    assert "Shown: the index" in view.tab.locator("#pm-note").inner_text() and service.asked[-1].after is None

    view.tab.get_by_label("after seas").check()
    view.tab.wait_for_selector(
        "#pm-note:has-text('test items of the run, not the index, with the encoder after seas')"
    )
    view.settle()
    assert service.asked[-1].after == 1
    view.tab.get_by_label("side by side").check()
    view.tab.wait_for_selector(".pm-column:nth-child(3)")
    assert [a.after for a in service.asked[-3:]] == [0, 1, 2]
    assert view.tab.locator(".pm-column h2").all_text_contents() == ["before learning", "after seas", "after tunes"]
    view.close()


def test_the_scores_of_the_run_are_a_heat_map(browser: Any, world: tuple[MadeUp, str]):
    view = View(browser, world[1], "phone")
    view.tab.get_by_role("tab", name="Scores").click()
    view.tab.wait_for_selector(".pm-heat")
    rows = [" ".join(row.split()) for row in view.tab.locator(".pm-heat tbody tr").all_inner_texts()]
    assert rows == ["before learning 10.0 \u2013", "after seas 50.0 20.0", "after tunes 40.0 60.0"]
    assert view.tab.locator(".pm-heat .pm-own").all_inner_texts() == ["50.0", "60.0"]
    view.close()


def test_the_page_works_by_keyboard_alone(browser: Any, world: tuple[MadeUp, str]):
    service, address = world
    view = View(browser, address)
    view.ask("keys")
    reached: list[str] = []
    for _ in range(40):
        view.tab.keyboard.press("Tab")
        reached.append(
            view.tab.evaluate(
                "document.activeElement.ariaLabel || document.activeElement.innerText || document.activeElement.id"
            )
        )
        outline = view.tab.evaluate(OUTLINED)
        assert outline, reached[-1]
        if reached[-1].startswith("More like this"):
            break
    assert {"Search", "pm-file", "Record a sound"} <= set(reached)
    view.tab.keyboard.press("Enter")
    view.settle()
    assert service.asked[-1].like == ("sounds/low tone.wav",)
    view.close()


OUTLINED = """() => {
  const at = document.activeElement;
  const shown = (e) => {
    const style = getComputedStyle(e);
    return (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1) || style.boxShadow !== "none";
  };
  return shown(at) || [...document.querySelectorAll(":focus-within")].some(shown) || at.tagName === "AUDIO";
}"""


def test_errors_and_nothing_found_are_said(browser: Any, world: tuple[MadeUp, str], monkeypatch: pytest.MonkeyPatch):
    service, address = world
    view = View(browser, address)
    monkeypatch.setattr(service, "fault", UserError("the encoder of this index is gone"))
    view.ask("a")
    assert view.tab.get_by_role("alert").inner_text() == "The encoder of this index is gone."
    monkeypatch.setattr(service, "fault", None)
    monkeypatch.setattr(MadeUp, "search", lambda *_: [])
    view.ask("b")
    assert "Nothing fits" in view.tab.locator(".pm-empty").inner_text()
    view.tab.route("**/api/search", lambda route: route.abort())
    view.ask("c")
    assert "does not answer" in view.tab.get_by_role("alert").inner_text()
    assert all("Failed to load resource" in t for t in view.troubles) and len(view.troubles) == 2
    view.troubles.clear()
    view.close()


def test_what_is_written_is_readable_on_its_ground(browser: Any, world: tuple[MadeUp, str]):
    view = View(browser, world[1])
    view.tab.get_by_role("button", name="Filters").click()
    view.ask("colours")
    for scheme, word in (("light", "false"), ("dark", "true")):
        view.tab.emulate_media(color_scheme=scheme)
        view.tab.get_by_role("tab", name="Search").click()
        view.tab.wait_for_function(f"document.body.classList.contains('dark') === {word}")
        assert view.tab.evaluate(READABLE) == [], scheme
        view.tab.get_by_role("tab", name="Scores").click()
        view.tab.wait_for_selector(".pm-heat")
        assert view.tab.evaluate(READABLE) == [], scheme
    view.close()


@pytest.mark.parametrize(
    "path",
    ["config", "gradio_api/info", "gradio_api/upload", "gradio_api/file=/etc/passwd", "file=/etc/passwd",
     "gradio_api/proxy=http://127.0.0.1/", "gradio_api/queue/data", "monitoring", "assets/../page.py",
     "static/%2e%2e/index.html", "page/../settings.py", "page/secret.js", "gradio_api/heartbeat/x", "docs"],
)  # fmt: skip
def test_nothing_of_gradio_answers_but_its_scripts_and_styles(world: tuple[MadeUp, str], path: str):
    for verb in ("GET", "POST"):
        got = httpx.request(verb, world[1] + path, files={"files": ("a.txt", b"x")} if verb == "POST" else None)
        assert got.status_code in (404, 405) and list(got.json()) == ["error"], (verb, got.status_code)
