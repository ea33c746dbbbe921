"""A rehearsal for reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polymnia.doctor.rehearsal import Rehearsal
from polymnia.doctor.show import findings_table, lines, verdict

STATES = {
    "new": "new",
    "begun": "begun: goes on from its last checkpoint",
    "finished": "finished: is not done again",
}


def show_rehearsal(found: Rehearsal, console: Console) -> None:
    """Print what a study would do, what it needs and lacks, and what it will take."""
    _heading(console, f"{found.name}: {found.title}" if found.title else found.name)
    for run in found.runs:
        console.print(Text(f"  {run['folder']}  ({STATES[run['state']]})"), soft_wrap=True)
    if found.datasets:
        console.print(_sets(found.datasets))
        console.print()
    console.print(findings_table(found.findings))
    for plan in found.plans:
        _heading(console, f"variant {plan['variant']}" if plan["variant"] else "the plan")
        for line in _plan(plan):
            console.print(Text(line), soft_wrap=True)
        console.print(_tasks(plan))
        for line in (line for part in (*plan["stages"], *plan["tasks"]) for line in _details(part)):
            console.print(Text(line), soft_wrap=True)
        if plan["watch"]:
            console.print(_watched(plan["watch"]))
    if found.estimate is not None:
        _heading(console, "what it takes on this machine")
        for line in lines(found.estimate):
            console.print(Text(line), soft_wrap=True)
    console.print(verdict(found.findings))
    console.print(Text("nothing was written"))


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, "bold"), soft_wrap=True)


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name)
    return table


def _sets(counts: list[dict[str, Any]]) -> Table:
    table = _table("data set", "split", "items", "")
    for c in counts:
        note = (
            "" if c["present"] == c["official"] else f"{'left out' if c['online'] else 'missing'}: {c['example']} ..."
        )
        table.add_row(*map(Text, (c["name"], c["split"], _of(c["present"], c["official"]), note)))
    return table


def _of(present: int, official: int) -> str:
    return f"{present:,}" if present == official else f"{present:,} of {official:,}"


def _plan(plan: dict[str, Any]) -> Iterator[str]:
    if plan["order"]:
        yield f"order: {' -> '.join(plan['order'])}"
    yield f"method: {' | '.join(plan['method_said'])}"
    for m, t in plan["towers"].items():
        count = "" if t["parameters"] is None else f"; {t['parameters']:,} parameters, {t['features']} features"
        state = "frozen, its features are cached" if t["frozen"] else "learns"
        frames = f"; of videos the {t['frames']}" if "frames" in t else ""
        yield f"{m}: {t['tower']}; {state}{count}{frames}"


def _tasks(plan: dict[str, Any]) -> Table:
    table = _table("", "pairs", "train", "valid", "test", "epochs", "steps", "batch", "trains", "frozen", "teacher")
    for kind, parts in (("stage ", plan["stages"]), ("", plan["tasks"])):
        for p in parts:
            items = p["items"] or {}
            splits = [_of(**items[s]) if s in items else "" for s in ("train", "valid", "test")]
            length = [_number(p[key]) for key in ("epochs", "steps", "batch")]
            sizes = [_number(p.get(key)) for key in ("trainable", "frozen", "teacher")]
            table.add_row(*map(Text, (f"{kind}{p['name']}", ", ".join(p["pairs"]), *splits, *length, *sizes)))
    return table


def _number(value: float | int | None) -> str:
    return "" if value is None else f"{value:,g}" if isinstance(value, float) else f"{value:,}"


def _details(p: dict[str, Any]) -> Iterator[str]:
    clip = "no clipping" if p["clip"] is None else f"gradients clipped at {p['clip']:g}"
    yield f"{p['name']}: {p['optimizer']}, learning rate {p['lr']:g}, {p['schedule']}; {p['stop']}; {clip}"
    goal = p["objective"]
    words = goal["kind"] if goal["kind"] == "tags" else f"contrast ({goal['loss']})"
    if weights := ", ".join(f"{pair} {w:g}" for pair, w in goal["weights"].items()):
        words += f", weights {weights}"
    towers = ", ".join(f"{m} {state}" for m, state in p.get("towers", {}).items())
    rows = f"; {p['rows_an_epoch']:,} rows an epoch" if "rows_an_epoch" in p else ""
    pairs = " (each caption of each item)" if p["captions"] == "pairs" and "text" in "-".join(p["pairs"]) else ""
    yield f"    {words}{rows}{pairs}" + (f"; {towers}" if towers else "")
    if p.get("scored_on"):
        on = p["scored_on"]
        what = f"{_of(on['present'], on['official'])} items ({', '.join(on['splits'])})"
        yield f"    scored by {'; '.join(p['evaluators'])} on {what}; r is the mean of {', '.join(p['score'])}"


def _watched(watch: list[dict[str, Any]]) -> Table:
    table = _table("watched", "tests", "when", "items", "scored by")
    for w in watch:
        when = "after the last task" if w["rows"] == "last" else "after every task"
        on = w["scored_on"]
        items = _of(on["present"], on["official"]) if on else "?" if w["there"] else "left out: not there"
        table.add_row(*map(Text, (w["name"], ", ".join(w["of"]), when, items, "; ".join(w["evaluators"]))))
    return table
