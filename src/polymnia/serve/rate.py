"""How often a client may ask: a bucket of tokens each, refilled at a steady rate."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

CLIENTS = 4096  # remembered; the one that was silent longest is forgotten, and starts with a full bucket again


class Buckets:
    """``rate`` tokens a second and at most ``burst`` at once, for each client. A rate of 0 refuses nobody."""

    def __init__(self, rate: float | int, burst: float | int, clock: Callable[[], float | int] = time.monotonic):
        self.rate, self.burst, self.clock = rate, burst, clock
        self.held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when that was so

    def wait(self, client: str, cost: float | int = 1) -> float | int:
        """Take ``cost`` tokens and give 0; or take none, and give the seconds until there are enough."""
        if self.rate == 0:
            return 0.0
        now = self.clock()
        tokens, then = self.held.pop(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        enough = tokens >= cost
        self.held[client] = (tokens - cost if enough else tokens, now)
        if len(self.held) > CLIENTS:
            self.held.popitem(last=False)
        return 0.0 if enough else (cost - tokens) / self.rate


def whole_seconds(wait: float | int) -> str:
    """For Retry-After."""
    return str(max(1, math.ceil(wait)))


def name_of(address: str) -> str:
    """Who an address counts as: of IPv6 its /64, as one household has as many addresses as it likes."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return address
