"""A diagnosis for reading."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polymnia.doctor.finding import Diagnosis, Finding, size

MINUTE, HOUR = 60, 3600


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print what was found, what of it is missing, and what the recipe will take."""
    table = Table(box=None, show_header=False, pad_edge=False)
    area = ""
    for f in diagnosis.findings:
        table.add_row(Text(f.area if f.area != area else "", "bold"), _mark(f), Text(f.name), Text(f.value))
        area = f.area
    console.print(table)
    if diagnosis.counts:
        console.print(_counts(diagnosis.counts))
    if diagnosis.estimate is not None:
        for line in lines(diagnosis.estimate):
            console.print(Text(line))
    missing = [f"{f.area}: {f.name}" for f in diagnosis.findings if f.needed and f.ok is False]
    verdict = f"missing or wrong: {'; '.join(missing)}" if missing else "everything that is needed is there"
    console.print(Text(verdict, "bold red" if missing else "bold green"))


def _mark(f: Finding) -> Text:
    if f.ok:
        return Text("ok", "green")
    return Text("--", "dim") if f.ok is None else Text("NO" if f.needed else "no", "red" if f.needed else "yellow")


def _counts(counts: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("task", "train", "valid", "test", "broken"):
        table.add_column(name, justify="left" if name == "task" else "right")
    tasks: dict[str, dict[str, int]] = {}
    for c in counts:
        row = tasks.setdefault(c["task"], {"broken": 0})
        row[c["split"]] = c["items"]
        row["broken"] += c["broken"]
    for name, row in tasks.items():
        table.add_row(Text(name), *(str(row[k]) for k in ("train", "valid", "test", "broken")))
    return table


def lines(estimate: dict[str, Any]) -> list[str]:
    """The estimate in words."""
    e, s, jobs = estimate, estimate["seconds"], f"{estimate['jobs']} job(s)"
    parts = ", ".join(f"{name} {size(count)}" for name, count in e["memory"].items())
    variants = ", ".join(f"{name} {duration(t)}" for name, t in s["variants"].items())
    return [
        f"parameters: {e['parameters']['trainable']:,} train, of {e['parameters']['total']:,}",
        f"memory: about {size(e['memory_of_one_run'])} a run ({parts}), {size(e['memory_of_all_jobs'])} with {jobs}",
        f"disk: about {size(e['disk_for_media'])} of decoded media in the cache (memory that is free holds them too)",
        f"time: about {duration(s['all_on_this_many_jobs'])} for {e['runs']} run(s), {e['steps']:,} steps, on {jobs}; "
        "decoding, probes and the report come on top",
        f"      first stages {duration(s['stages'])} a seed; a run: {variants}",
    ]


def duration(seconds: float | int) -> str:
    """Seconds for reading: ``2 h 05 min``."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    return f"{int(seconds // HOUR)} h {int(seconds % HOUR // MINUTE):02d} min"
