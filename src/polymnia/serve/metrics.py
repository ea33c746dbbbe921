"""Counts and times, as Prometheus reads them (text format 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
REASONS = ("busy", "slow", "rate", "size", "type", "media", "token", "host", "site", "add", "query", "index")


class Metrics:
    """Requests by route, method and status; a histogram of seconds by route; refusals by reason; gauges."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.seconds: dict[str, list[int]] = {}
        self.total: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.gauges: dict[tuple[str, str], Callable[[], float | int]] = {}
        self.lock = threading.Lock()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request: ``route`` is the template, never the path, so that there are few of them."""
        with self.lock:
            self.requests[route, method, status] += 1
            buckets = self.seconds.setdefault(route, [0] * (len(BOUNDS) + 1))
            buckets[bisect_left(BOUNDS, seconds)] += 1
            self.total[route] += seconds  # type: ignore[assignment]

    def refuse(self, reason: str) -> None:
        """One request that was refused, for one of ``REASONS``."""
        with self.lock:
            self.refusals[reason] += 1

    def watch(self, gauge: str, name: str, value: Callable[[], float | int]) -> None:
        """A number that is asked for when the metrics are."""
        self.gauges[gauge, name] = value

    def text(self) -> str:
        """All of it."""
        with self.lock:
            return "\n".join([*self._counters(), *self._histogram(), *self._gauges()]) + "\n"

    def _counters(self) -> list[str]:
        lines = ["# HELP polymnia_requests_total Requests answered.", "# TYPE polymnia_requests_total counter"]
        for (route, method, status), count in sorted(self.requests.items()):
            labels = f'route="{escaped(route)}",method="{escaped(method)}",status="{status}"'
            lines.append(f"polymnia_requests_total{{{labels}}} {count}")
        lines += ["# HELP polymnia_refusals_total Requests refused.", "# TYPE polymnia_refusals_total counter"]
        return lines + [f'polymnia_refusals_total{{reason="{r}"}} {n}' for r, n in sorted(self.refusals.items())]

    def _histogram(self) -> list[str]:
        name = "polymnia_request_seconds"
        lines = [f"# HELP {name} Time to the end of the answer.", f"# TYPE {name} histogram"]
        for route, buckets in sorted(self.seconds.items()):
            below = 0
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), buckets, strict=True):
                below += count
                lines.append(f'{name}_bucket{{route="{escaped(route)}",le="{bound}"}} {below}')
            lines.append(f'{name}_sum{{route="{escaped(route)}"}} {self.total[route]:.6f}')
            lines.append(f'{name}_count{{route="{escaped(route)}"}} {below}')
        return lines

    def _gauges(self) -> list[str]:
        lines = []
        for gauge in sorted({g for g, _ in self.gauges}):
            lines.append(f"# TYPE polymnia_{gauge} gauge")
            lines += [
                f'polymnia_{gauge}{{gate="{escaped(n)}"}} {value():g}'
                for (g, n), value in sorted(self.gauges.items())
                if g == gauge
            ]
        return lines


def escaped(label: str) -> str:
    """A label's value, as it stands between quotes."""
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
