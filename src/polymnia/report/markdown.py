"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymnia.report import counts, words
from polymnia.report.collect import Method
from polymnia.report.columns import INDEXED, NAMED, Row, columns, with_index, with_named
from polymnia.report.metrics import Watched
from polymnia.report.taskmap import TaskMap


def cell(word: object) -> str:
    """A value that cannot break out of a Markdown table or be taken for HTML."""
    flat = " ".join(str(word).split())
    return flat.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "\\`")


def grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of finished cells."""
    return "\n".join("| " + " | ".join(words) + " |" for words in (header, ["---"] * len(header), *lines))


def markdown(methods: Sequence[Method], found: Mapping[str, Any]) -> str:
    """The report as text, from what ``page.content`` found: summary tables, then R[i][j] of every method, then what to
    know."""
    parts = [f"# {cell(found['title'])}", *map(cell, found["intro"])]
    for head, rows in found["summary"].items():
        parts += [f"## Summary, {head} head", summary_table(methods, rows)]
    parts += [cell(said) for said in found["claims"]]
    lack = counts.lacking(methods)
    for head in found["summary"]:
        parts.append(f"## Score on each task after each task, {head} head")
        for method in methods:
            titles = [counts.beside(t, lack) for t in method.tasks]
            lines = [
                [cell(method.tasks[i - 1] if i else "(before)"), *map(words.text, values)]
                for i, values in method.cells(head).items()
            ]
            parts += [f"### {cell(method.label)}", grid([cell(w) for w in ("after", *titles)], lines)]
    parts += [*watched_tables(found["watched"]), *named_tables(found["summary"])]
    parts += [*index_table(found["summary"]), *map_tables(found["maps"])]
    if found["notes"]:
        parts += ["## Good to know", "\n".join(f"- {cell(n)}" for n in found["notes"])]
    return "\n\n".join(parts) + "\n"


def watched_tables(watched: Sequence[Watched]) -> list[str]:
    parts = ["## Watched, never trained"] if watched else []
    for found in watched:
        lines = [[cell(label), *map(words.text, v), words.digits(c, signed=True)] for label, v, c in found.lines]
        header = [cell(w) for w in ("method", *found.stages, "change")]
        of = f" ({found.of} items)" if found.of else ""
        parts += [f"### {cell(found.name)}: {cell(found.metric)}{of}", grid(header, lines)]
    return parts


def named_tables(summary: Mapping[str, Sequence[Row]]) -> list[str]:
    """What others call their numbers."""
    parts = []
    for head, rows in summary.items():
        lines = [[cell(r.label), *[c.text(r.cells.get(c.key)) for c in NAMED]] for r in with_named(rows)]
        if lines:
            parts += [f"## In LPI's numbers, {head} head", grid(["method", *[c.title for c in NAMED]], lines)]
    return parts


def index_table(summary: Mapping[str, Sequence[Row]]) -> list[str]:
    """What becomes of an index when its encoder learns."""
    rows = with_index(next(iter(summary.values()), ()))
    lines = [[cell(r.label), *[_of_some(c.text(r.cells.get(c.key)), r.partly(c.key)) for c in INDEXED]] for r in rows]
    return (
        ["## An index when its encoder learns", grid(["method", *[c.title for c in INDEXED]], lines)] if lines else []
    )


def map_tables(maps: Mapping[str, TaskMap]) -> list[str]:
    """How the maps of the tasks go together."""
    lines = [
        [cell(label), x.one, x.other, words.correlation(x.rho), str(x.pairs)]
        for label, m in maps.items()
        for x in m.links
    ]
    header = ["method", "distance of", "against that of", "Spearman", "pairs of tasks"]
    return ["## Map of the tasks", grid(header, lines)] if lines else []


def summary_table(methods: Sequence[Method], rows: Sequence[Row]) -> str:
    shown, lines = columns(methods, rows), []
    for row in rows:
        said = [(c.key, _of_some(c.text(row.cells.get(c.key)), row.partly(c.key))) for c in shown]
        name = cell(row.label + (f" ({row.note})" if row.note else ""))
        lines.append([f"*{name}*" if row.kind == "reference" else name, words.seeds(row.seeds)])
        lines[-1] += [f"**{text}**" if key in row.best else text for key, text in said]
    titles = [c.title + (f" ({c.of})" if c.of else "") for c in shown]
    return grid(["method", "seeds", *map(cell, titles)], lines)


def _of_some(text: str, seeds: str) -> str:
    return f"{text} ({seeds})" if seeds else text
