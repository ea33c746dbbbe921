"""From a command to a server that answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI

from polymnia.data.names import unescape
from polymnia.index.store import Index
from polymnia.serve.adding import Adding
from polymnia.serve.app import create_app
from polymnia.serve.indexed import IndexService
from polymnia.serve.server import bound, serve
from polymnia.serve.settings import Settings


def start(index: str, settings: Settings, run: Path | None, data: Path | None, say: Callable[[str], None]) -> None:
    """Serve an index until a signal says stop. ``say`` is told the address, and what is missing.

    Raises UserError for an index, a run or an address that cannot be had, and where gradio is missing.
    """
    with bound(settings) as sock:  # before the encoders are loaded: a port that is taken is told at once
        service = IndexService(Index.open(index), run, data, Adding(index) if settings.allow_add else None)
        if service.problem:
            say(f"only the index is searched, not other moments of the run: {service.problem}")
        app = make_app(service, settings)
        serve(app, sock, lambda address, _: say(f"{address} answers; Ctrl-C stops it"))


def make_app(service: IndexService, settings: Settings) -> FastAPI:
    """The application of a service, with its page if the settings say so."""
    app = create_app(service, settings, _secret(service))
    if settings.page:
        from polymnia.serve.page import mount

        mount(app, service.info())
    return app


def _secret(service: IndexService) -> list[Path]:
    """Folders that no answer may name."""
    runs = [Path(os.fsdecode(unescape(card.run))) for card in service.seen.index.cards.values()]
    found = [Path(service.seen.index.uri), service.run, *runs, *([service.moments.base] if service.moments else [])]
    return list(dict.fromkeys(p for p in found if len(p.parts) > 1))
