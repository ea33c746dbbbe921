"""The report: one self-contained HTML page, the same as Markdown and CSV, and a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from polymnia.report import (
    charts,
    columns,
    counts,
    figure,
    markdown,
    metrics,
    notes,
    plots,
    shares,
    summary,
    tables,
    words,
)
from polymnia.report.collect import Estimate, Method, heads
from polymnia.report.folders import read_methods
from polymnia.report.gallery import gallery
from polymnia.report.logs import INERT, fact_means, gradient_shares
from polymnia.report.tables import Report
from polymnia.report.taskmap import task_map
from polymnia.types import UserError

HEAD_WORDS = {
    "latest": "every task tested through the projection heads as they are at that moment",
    "stored": "every task already learned tested through the projection heads saved right after it was learned",
}


def write_report(runs: Sequence[Path], out: Path) -> Report:
    """Compare run folders; write report.html, report.md, summary.csv, matrix.csv and figure.png into ``out``."""
    # `report runs/*` also names the folder that a study wrote its report into
    methods = read_methods([r for r in runs if not (r / "report.html").exists() or (r / "meta.json").exists()])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the report cannot be written into {out}: {error}") from error
    found = content(methods)
    rows = found["summary"]
    (out / "report.html").write_text(render(methods, found), encoding="utf-8")
    (out / "report.md").write_text(markdown.markdown(methods, found), encoding="utf-8")
    summary_header = ("method", "seed", "head", "metric", "value")
    matrix_header = ("method", "seed", "head", "after", "task", "metric", "value")
    return Report(
        html=out / "report.html",
        markdown=out / "report.md",
        csv=tables.write_csv(out / "summary.csv", summary_header, tables.summary_lines(methods)),
        matrix_csv=tables.write_csv(out / "matrix.csv", matrix_header, tables.matrix_lines(methods)),
        figure=figure.write_figure(out / "figure.png", methods, next(iter(rows.values()))),
        table=[row.plain(head) for head, of_head in rows.items() for row in of_head],
        lacking=counts.lacking(methods),
    )


def content(methods: Sequence[Method]) -> dict[str, Any]:
    """What both the page and the text say."""
    known = heads(methods)
    rows = {head: summary.rows(methods, head) for head in known}
    return {
        "title": notes.heading(methods),
        "intro": notes.intro(methods, rows[known[0]]),
        "claims": notes.claims(methods),
        "notes": notes.notes(methods),
        "summary": rows,
        "maps": {m.label: found for m in methods if (found := task_map(m))},
        "watched": metrics.watched(methods, known[0]),
    }


def render(methods: Sequence[Method], found: dict[str, Any]) -> str:
    """The page. Everything that comes from a run is escaped by the template engine."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"digits": words.digits, "text": words.text, "upper_first": upper_first}
    scale = heat_range(methods)
    return environment.get_template("report.html").render(
        **found,
        methods=methods,
        columns={h: columns.columns(methods, rows) for h, rows in found["summary"].items()},
        named=columns.NAMED,
        with_named=columns.with_named,
        indexed=columns.INDEXED,
        with_index=columns.with_index,
        heads={h: HEAD_WORDS[h] for h in found["summary"]},
        gain=columns.GAIN,
        percent=columns.PERCENT,
        how_sure=columns.how_sure,
        shared=shares.shared(methods),
        slots=plots.slots(methods),
        charts={h: plots.curve_charts(methods, h) for h in found["summary"]},
        training={m.label: plots.training_charts(m) for m in methods},
        shares={m.label: gradient_shares(m) for m in methods},
        facts={m.label: fact_means(m) for m in methods},
        gallery=gallery(methods),
        lacking=counts.lacking(methods),
        synthetic=any(r.meta.get("synthetic") for m in methods for r in m.runs),
        inert=INERT,
        scale=scale,
        heat=heat(*scale),
        metric_rows=metrics.metric_rows,
        words=words,
        size=(charts.WIDTH, charts.HEIGHT, charts.LEFT, charts.TOP, charts.BOTTOM),
    )


def upper_first(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def heat_range(methods: Sequence[Method]) -> tuple[float, float]:
    """One colour scale for all matrices."""
    every = [c.mean for m in methods for h in heads([m]) for row in m.cells(h).values() for c in row if c]
    return (min(every), max(every)) if every else (0.0, 1.0)


def heat(low: float, high: float) -> Callable[[Estimate], float]:
    return lambda value: round((value.mean - low) / ((high - low) or 1.0), 3)
