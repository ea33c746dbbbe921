"""How many searches a server answers, and how fast: python benchmarks/serve_load.py INDEX [SECONDS]

Starts `polymnia serve INDEX` as a process of its own on loopback, without rate limit and page, and asks it by words
with 1, 8 and 32 clients (each in a thread, one request after another on a connection that is kept), so many seconds
each. Every text is asked once: nothing can be remembered. Server and clients share the machine, so the figures are
what it gives beside its own load, not what it can.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from urllib.parse import urlsplit

CLIENTS = (1, 8, 32)
WORDS = [
    "rain", "wind", "dog", "train", "piano", "bell", "door", "water", "bird", "car", "crowd", "slow", "loud", "far",
    "soft", "high", "low", "metal", "wooden", "sudden",
]  # fmt: skip


@contextmanager
def server(index: str) -> Iterator[str]:
    """The address of a server that is stopped at the end."""
    command = [sys.executable, "-m", "polymnia.cli", "serve", index, "--port", "0", "--no-page", "--rate", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--queue", "64"], stderr=subprocess.PIPE, env=env, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.match(r"(http://\S+) answers", line):
                yield found[1]
                break
        else:
            raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.communicate()


class Client(threading.Thread):
    """Asks until the time is over; ``times`` in seconds, ``statuses`` of all answers."""

    def __init__(self, address: str, until: float, numbers: Iterator[int]):
        super().__init__()
        self.place, self.until, self.numbers = urlsplit(address), until, numbers
        self.times: list[float] = []
        self.statuses: list[int] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.place.hostname or "", self.place.port or 80, timeout=60)
        while time.perf_counter() < self.until:
            number = next(self.numbers)
            words = " ".join(random.Random(number).sample(WORDS, 5))
            body = json.dumps({"text": f"{words} {number}", "k": 10})
            began = time.perf_counter()
            connection.request("POST", "/api/search", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            self.times.append(time.perf_counter() - began)
            self.statuses.append(answer.status)
        connection.close()


def measure(address: str, clients: int, seconds: float, numbers: Iterator[int]) -> dict[str, float]:
    """Answers a second, p50 and p95 in milliseconds, and how many were not 200."""
    began = time.perf_counter()
    running = [Client(address, began + seconds, numbers) for _ in range(clients)]
    for client in running:
        client.start()
    for client in running:
        client.join()
    took = time.perf_counter() - began
    times = sorted(t for c in running for t in c.times)
    return {
        "clients": clients,
        "answers": len(times),
        "per_second": len(times) / took,
        "p50_ms": 1000 * times[len(times) // 2],
        "p95_ms": 1000 * times[int(0.95 * len(times))],
        "refused": sum(s != 200 for c in running for s in c.statuses),
    }


def main() -> None:
    index, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    numbers = count()
    with server(index) as address:
        measure(address, 1, 2.0, numbers)  # warm
        for clients in CLIENTS:
            found = measure(address, clients, seconds, numbers)
            print("  ".join(f"{name} {value:.5g}" for name, value in found.items()))  # noqa: T201


if __name__ == "__main__":
    main()
