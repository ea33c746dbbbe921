"""How a server is set up: where it listens, who may ask, how much."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from polymnia.types import UserError

SHORTEST_TOKEN = 16
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, one client and all of them together may take.

    ``upload`` bytes of one file; ``seconds`` of a recording, ``pixels`` of a picture; ``patience``: seconds that a
    request may wait and work; ``workers`` work at a time and ``queue`` wait; ``rate``: searches a second of a client
    (0: any number).
    """

    upload: int = 32 * MB
    seconds: float | int = 300
    pixels: int = 50_000_000
    patience: float | int = 30
    workers: int = 2
    queue: int = 32
    rate: float | int = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """``token``: what every client must know; needed wherever others than this machine can connect."""

    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = field(default=None, repr=False)
    allow_add: bool = False
    page: bool = True
    limits: Limits = field(default_factory=Limits)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False


def check(settings: Settings) -> None:
    """Raises UserError for a server that all could use, and for limits that let nothing through."""
    if settings.token is None and not settings.loopback:
        raise UserError(
            f"--host {settings.host} lets other machines in: set a token of {SHORTEST_TOKEN} characters or more in "
            "POLYMNIA_TOKEN (or --token), or stay on 127.0.0.1"
        )
    if settings.token is not None and (len(settings.token) < SHORTEST_TOKEN or not settings.token.isascii()):
        raise UserError(f"the token must be {SHORTEST_TOKEN} or more ASCII characters; python -m secrets makes one")
    if not 0 <= settings.port <= 65535:
        raise UserError(f"--port {settings.port} is no port: 0 (any that is free) to 65535")
    limits = settings.limits
    for name in ("upload", "seconds", "pixels", "patience", "workers"):
        if not getattr(limits, name) > 0:
            raise UserError(f"the limit '{name}' is {getattr(limits, name)}; it must be above 0")
    for name in ("queue", "rate"):
        if not getattr(limits, name) >= 0:
            raise UserError(f"the limit '{name}' is {getattr(limits, name)}; it must not be negative")
