"""A diagnosis for reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polymnia.doctor.collection import SetCheck
from polymnia.doctor.finding import Diagnosis, Finding, size

MINUTE, HOUR = 60, 3600
COUNTED = ("rows", "present", "missing", "unreadable", "short", "captions", "classes")


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print what was found, what of it is missing, and what the recipe will take."""
    console.print(findings_table(diagnosis.findings))
    if diagnosis.counts:
        console.print(_counts(diagnosis.counts))
    if diagnosis.estimate is not None:
        for line in lines(diagnosis.estimate):
            console.print(Text(line))
    console.print(verdict(diagnosis.findings))


def findings_table(findings: Sequence[Finding]) -> Table:
    """A line a finding."""
    table = Table(box=None, show_header=False, pad_edge=False)
    area = ""
    for f in findings:
        table.add_row(Text(f.area if f.area != area else "", "bold"), _mark(f), Text(f.name), Text(f.value))
        area = f.area
    return table


def verdict(findings: Sequence[Finding]) -> Text:
    """What of all is missing or wrong."""
    missing = [f"{f.area}: {f.name}" for f in findings if f.needed and f.ok is False]
    said = f"missing or wrong: {'; '.join(missing)}" if missing else "everything that is needed is there"
    return Text(said, "bold red" if missing else "bold green")


def show_sets(checked: Sequence[SetCheck], console: Console) -> None:
    """Print the counts of data sets, the first files of each kind of fault, and whether they are fit for use."""
    for found in checked:
        table = Table(box=None, header_style="bold", pad_edge=False, title=str(found.root), title_justify="left")
        table.add_column(found.name)
        for name in COUNTED:
            table.add_column(name, justify="right")
        for name, split in found.splits.items():
            plain = split.plain()
            table.add_row(name, *(f"{plain[key]:,}" for key in COUNTED))
        console.print(table)
        for name, split in found.splits.items():
            for kind, shown in split.examples.items():
                for said in shown:
                    console.print(Text(f"{name}, {kind}: {said}"), soft_wrap=True)
        console.print(f"manifest: {found.manifest}", soft_wrap=True, markup=False)
        said = f"not fit: {'; '.join(found.faults)}" if found.faults else "fit for use"
        console.print(Text(f"{found.name}: {said}", "bold red" if found.faults else "bold green"), soft_wrap=True)


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
    parts = ", ".join(f"{name} {size(count)}" for name, count in e["memory"].items() if count)
    variants = ", ".join(f"{name} {duration(t)}" for name, t in s["variants"].items())
    left = f"; {duration(e['left'])} of it for what is not finished" if "left" in e else ""
    return [
        f"parameters: {e['parameters']['trainable']:,} train, of {e['parameters']['total']:,}",
        f"memory: about {size(e['memory_of_one_run'])} a run ({parts}), {size(e['memory_of_all_jobs'])} with {jobs}",
        f"disk: about {size(e['disk_for_media'])} of decoded media in the cache (memory that is free holds them too), "
        f"{size(e['disk_for_features'])} of features",
        f"time: about {duration(s['all_on_this_many_jobs'])} for {e['runs']} run(s), {e['steps']:,} steps, on {jobs}"
        f"{left}; decoding, probes and the report come on top",
        f"      first stages {duration(s['stages'])} a seed; a run: {variants}",
        *(
            f"      {name}: " + ", ".join(f"{part} {duration(t)}" for part, t in parts.items())
            for name, parts in s["parts"].items()
        ),
        *(
            f"      frozen {m} tower, once: {c['rows']:,} rows of {c['items']:,} items, {duration(c['seconds'])}"
            for m, c in e["caching"].items()
        ),
        *map(_measured, filter(lambda note: note["extrapolated"], e["measured"])),
    ]


def _measured(note: dict[str, Any]) -> str:
    """Of a number that was not measured as it is."""
    rows = " and ".join(map(str, note["measured"]))
    return f"extrapolated: {note['what']} of {note['rows']} rows, {note['seconds']:.2g} s, from {rows} rows"


def duration(seconds: float | int) -> str:
    """Seconds for reading: ``2 h 05 min``."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    return f"{int(seconds // HOUR)} h {int(seconds % HOUR // MINUTE):02d} min"
