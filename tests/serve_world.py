"""A tiny collection behind the server, with a search that is made up: what is tested is the server around it."""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from polymnia.serve.app import create_app
from polymnia.serve.service import GALLERY, Asked, Entry, Info, Match, Medium, Scores, State
from polymnia.serve.settings import Limits, Settings
from polymnia.types import Modality, UserError

PNG = b"\x89PNG\r\n\x1a\n"
TOKEN = "a-token-for-tests-only"
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


def tone(path: Path, hertz: float, seconds: float = 2.0, rate: int = 16_000) -> Path:
    """A recording of one tone."""
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * hertz * time), rate)
    return path


@dataclass
class MadeUp:
    """A service whose hits are its entries in order. ``hold``: searches wait for it. ``fault``: what they raise."""

    root: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    hold: threading.Event | None = None
    fault: Exception | None = None
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def info(self) -> Info:
        states = (State(0, "before learning"), State(1, "seas"), State(2, "tunes"))
        kinds, tasks, topics = ("audio", "image", "text"), ("seas", "tunes"), ("rain", "drum", EVIL)
        return Info(5, kinds, kinds, tasks, topics, "0123abcd", 2, "tunes", states[2:], states)

    def search(self, asked: Asked) -> Sequence[Match]:
        self.asked.append(asked)
        self.started.release()
        if asked.file is not None:
            self.contents.append(asked.file.read_bytes())
        if self.hold is not None:
            assert self.hold.wait(10)
        if self.fault is not None:
            raise self.fault
        for name in (*asked.like, *asked.unlike):
            if name not in self.entries:
                raise UserError(f"there is no item '{name}' in {self.root}")
        found = [e for e in self.entries.values() if e.id not in asked.like]
        return [Match(e, e.modalities[0], 0.9 - 0.1 * n, 0.9 - 0.1 * n) for n, e in enumerate(found)][: asked.k]

    def item(self, name: str, gallery: str = GALLERY) -> Entry | None:
        return self.entries.get(name)

    def add(self, file: Path, suffix: str, kind: Modality, caption: str | None, topic: str | None) -> Entry:
        kept = self.root / f"added-{len(self.entries)}{suffix}"
        kept.write_bytes(file.read_bytes())
        entry = Entry(kept.name, (kind,), {kind: Medium(self.root, kept)}, caption, topic)
        self.entries[entry.id] = entry
        return entry

    def scores(self) -> Scores | None:
        rows = [[10.0, None], [50.0, 20.0], [40.0, 60.0]]
        return Scores("small lwf", ("seas", "tunes"), (0, 1, 2), {"latest": (rows, {"average": 50.0})})


def made_up(root: Path) -> MadeUp:
    """Two sounds, a picture and a text; one caption is hostile, one id needs quoting."""
    service = MadeUp(root)
    sound, other = tone(root / "low tone.wav", 220), tone(root / "high.wav", 1760)
    Image.fromarray(np.tile(np.arange(90, dtype=np.uint8), (60, 1))).save(root / "ramp.png")
    for entry in (
        Entry("sounds/low tone.wav", ("audio",), {"audio": Medium(root, sound)}, "a low tone", "rain", "seas", 2.0),
        Entry("sounds/high?#%.wav", ("audio", "text"), {"audio": Medium(root, other)}, EVIL, "drum", "tunes", 2.0),
        Entry("ramp.png", ("image",), {"image": Medium(root, root / "ramp.png")}, "a ramp", "rain", "seas"),
        Entry("words", ("text",), {}, "only words", "drum", "tunes"),
    ):
        service.entries[entry.id] = entry
    return service


def settings(**changes: object) -> Settings:
    """Settings of a small server; ``limits``: as a dict of what differs."""
    limits = Limits(upload=300_000, seconds=5.0, pixels=100_000, patience=10.0, rate=0)
    given = changes.pop("limits", {})
    assert isinstance(given, dict)
    return replace(Settings(limits=replace(limits, **given), page=False), **changes)  # type: ignore[arg-type]


def client(app: FastAPI, **more: object) -> TestClient:
    """A client on loopback that gets 500 as an answer instead of the exception."""
    return TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False, **more)  # type: ignore[arg-type]


def served(root: Path, **changes: object) -> tuple[MadeUp, TestClient]:
    """A service and a client of a server before it."""
    service = made_up(root)
    return service, client(create_app(service, settings(**changes), (root,)))


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
