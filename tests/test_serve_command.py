"""What `polymnia serve` refuses before it listens, and what its limits are."""

from __future__ import annotations

import builtins
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from command import command
from serve_world import TOKEN
from small_index import small_index
from small_run import small_run

from polymnia.serve import start
from polymnia.serve.settings import Settings


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would have been served, instead of serving it."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(start, "serve", lambda app, sock, ready: calls.append((app, sock.getsockname())))
    return calls


def test_what_is_no_index_is_told(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert "no index at" in command("serve", tmp_path / "gone", "--port", 0).error
    assert "is no index" in command("serve", tmp_path / "empty", "--port", 0).error
    assert "is a run, no index" in command("serve", small_run(), "--port", 0).error


def test_other_machines_are_let_in_only_with_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[Any]
):
    assert "POLYMNIA_TOKEN" in command("serve", tmp_path, "--host", "0.0.0.0").error
    assert "16 or more" in command("serve", tmp_path, "--token", "short").error
    monkeypatch.setenv("POLYMNIA_TOKEN", TOKEN)
    index = small_index(tmp_path / "index")
    assert command("serve", index, "--host", "0.0.0.0", "--port", 0, "--no-page").code == 0
    (app, (host, _)), *_ = begun
    assert host == "0.0.0.0" and app.state.desk.settings.token == TOKEN and TOKEN not in repr(app.state.desk.settings)


def test_its_words_become_its_limits(tmp_path: Path, begun: list[Any]):
    words = ("--max-upload", 3, "--max-seconds", 4.5, "--workers", 3, "--queue", 0, "--rate", 0, "--allow-add")
    said = command("serve", small_index(tmp_path / "index"), "--port", 0, "--no-page", *words)
    assert said.code == 0, said.err
    ((app, (host, _)),) = begun
    found = app.state.desk.settings
    limits = found.limits
    assert (limits.upload, limits.seconds, limits.workers, limits.queue, limits.rate) == (3_000_000, 4.5, 3, 0, 0)
    assert found.allow_add and host == "127.0.0.1" and app.state.desk.service.adding is not None


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = command("serve", tmp_path / "gone", "--port", taken.getsockname()[1])
    assert "cannot listen on 127.0.0.1" in said.error and "--port" in said.error
    assert "no.such.host" in command("serve", tmp_path, "--host", "no.such.host.invalid", "--token", TOKEN).error


@pytest.mark.parametrize(("missing", "told"), [("gradio", "--no-page"), ("fastapi", "polymnia[serve]")])
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[Any], missing: str, told: str
):
    index, whole = small_index(tmp_path / "index"), builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)
        return whole(name, *rest, **more)

    for module in [m for m in sys.modules if m.partition(".")[0] == missing or m == "polymnia.serve.start"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    said = command("serve", index, "--port", 0)
    assert told in said.error and "pip install 'polymnia[serve]'" in said.error
    assert Settings().page


def test_the_page_is_mounted_unless_it_is_left_out(tmp_path: Path, begun: list[Any]):
    pytest.importorskip("gradio")
    index = small_index(tmp_path / "index")
    for word, there in (("--page", True), ("--no-page", False)):
        assert command("serve", index, "--port", 0, word).code == 0
        app, _ = begun.pop()
        assert any(getattr(route, "name", "") == "page" for route in app.routes) == there
