"""The report: one self-contained HTML page, the same as Markdown and CSV, and a figure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from polymnia.report import plots, tables
from polymnia.report.collect import INERT, Estimate, Method, Run, gradient_shares, heads, read_methods
from polymnia.report.tables import Report

MEDIA_BYTES = 6_000_000  # of base64, so that the page stays under 8 MB
QUERIES = 12
KINDS = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
KINDS |= {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
HEAD_WORDS = {
    "latest": "tested through the projection head as it is at the end",
    "stored": "tested through the head that was saved right after the task",
}


@dataclass
class Gallery:
    """Queries of each method, and every file they show, once: key -> data URI."""

    queries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    media: dict[str, str] = field(default_factory=dict)
    shown: int = 0
    total: int = 0


def write_report(runs: Sequence[Path], out: Path) -> Report:
    """Compare run folders; write report.html, report.md, summary.csv, matrix.csv and figure.png into ``out``."""
    methods = read_methods(runs)
    out.mkdir(parents=True, exist_ok=True)
    known = heads(methods)
    summary = {head: tables.rows(methods, head) for head in known}
    title, words, remarks = heading(methods), intro(methods, summary[known[0]]), notes(methods)
    (out / "report.html").write_text(render(methods, title, words, remarks, summary), encoding="utf-8")
    (out / "report.md").write_text(tables.markdown(title, words, methods, remarks), encoding="utf-8")
    return Report(
        html=out / "report.html",
        markdown=out / "report.md",
        csv=tables.write_csv(
            out / "summary.csv", ("method", "seed", "head", "metric", "value"), tables.summary_lines(methods)
        ),
        matrix_csv=tables.write_csv(
            out / "matrix.csv",
            ("method", "seed", "head", "after", "task", "metric", "value"),
            tables.matrix_lines(methods),
        ),
        figure=plots.write_figure(out / "figure.png", methods, summary[known[0]]),
        table=[row.plain(head) for head, found in summary.items() for row in found],
    )


def heading(methods: Sequence[Method]) -> str:
    titles = list(dict.fromkeys(str(m.runs[0].meta.get("recipe_title") or m.runs[0].key[0]) for m in methods))
    return titles[0] if len(titles) == 1 else f"{len(titles)} recipes compared"


def intro(methods: Sequence[Method], summary: Sequence[tables.Row]) -> list[str]:
    """What was run and what came out, in words."""
    runs = [r for m in methods for r in m.runs]
    tasks = list(dict.fromkeys(t for m in methods for t in m.tasks))
    pairs = list(dict.fromkeys(" with ".join(p) for r in runs for t in task_list(r) for p in t.get("pairs") or []))
    own, others = ([m.label for m in methods if m.reference is kind] for kind in (False, True))
    most = max(len(m.counted) for m in methods)
    order = " one after another" if len(tasks) > 1 else ""
    said = f"One shared embedding space learned {count(len(tasks), 'task')}{order}: {', '.join(tasks)}. "
    said += f"The objective aligns {', '.join(pairs)}. " if pairs else ""
    reference = f"for reference {', '.join(others)}" if others else ""
    ran = " and ".join(x for x in (count(len(own), "method") if own else "", reference) if x)
    said += ran[:1].upper() + ran[1:] + " ran"
    if most > 1:
        said += f", with {most} seeds each; a number is the mean ± standard deviation [95 % interval] over seeds. "
    else:
        said += ", with one seed. "
    said += "After every task all tasks were tested again, those to come included."
    scores = list(dict.fromkeys(str(t["score"]) for r in runs for t in task_list(r) if t.get("score")))
    if scores:
        said += f" The score, in percent, is the {scores[0].removeprefix('the ')}."
    return [said, *([finding] if (finding := headline(summary)) else [])]


def headline(summary: Sequence[tables.Row]) -> str:
    """The best average, and whether its lead is more than the spread over seeds."""
    ranked = [(c, r) for r in summary if r.kind == "method" and not r.note and (c := r.cells.get("average"))]
    ranked.sort(key=lambda pair: -pair[0].mean)
    if len(ranked) < 2:
        return ""
    (first, best), (second, next_best) = ranked[:2]
    said = f"Highest average after the last task: {best.label}, {tables.digits(first.mean)} %; "
    said += f"next is {next_best.label}, {tables.digits(second.mean)} %. "
    if first.low is None or second.high is None:
        return said + "With one seed there is no telling how much of the lead is chance."
    apart = first.low > second.high
    return said + f"Their intervals {'do not overlap' if apart else 'overlap, so the order may be chance'}."


def count(n: int, word: str) -> str:
    return f"{n} {word}" + ("" if n == 1 else "s")


def task_list(run: Run) -> list[dict[str, Any]]:
    return [t for t in run.meta.get("tasks") or [] if isinstance(t, dict)]


def notes(methods: Sequence[Method]) -> list[str]:
    """What a reader must know before believing a number: inert terms first, then what is missing, then the rest."""
    runs = [r for m in methods for r in m.runs]
    partial = {f"{t}: {n} test items present" for r in runs for t, n in counts(r).items() if incomplete(n)}
    said = [str(n) for r in runs for n in r.meta.get("notes") or []]
    found = [[f(m) for m in methods] for f in (inert_terms, gaps, warnings)]
    return list(dict.fromkeys([*chain(*chain(*found)), *sorted(partial), *said]))


def inert_terms(method: Method) -> list[str]:
    return [
        f"{method.label}: the term “{term}” is inert: its gradient is {100 * share:.1f} % of the objective's "
        f"(median), under {100 * INERT:.0f} %, so it hardly steers the training. Do not credit results to it."
        for term, share in gradient_shares(method).items()
        if share < INERT
    ]


def gaps(method: Method) -> list[str]:
    """What the folders lack; a line for all seeds where they lack the same."""
    out = []
    for words in dict.fromkeys(w for run in method.runs for w in run.missing):
        lacking = [str(run.seed) for run in method.runs if words in run.missing]
        who = "" if len(lacking) == len(method.runs) else f", seed {', '.join(lacking)}"
        out.append(f"{method.label}{who}: {words}")
    behind = [str(r.seed) for r in method.runs if r not in method.counted]
    if behind:
        out.append(f"{method.label}: seed {', '.join(behind)} is behind the others and not in the averages")
    return out


def warnings(method: Method) -> list[str]:
    messages = dict.fromkeys(str(x.get("message")) for r in method.runs for x in r.log if x.get("kind") == "warning")
    return [f"{method.label}, warning: {m}" for m in messages]


def counts(run: Run) -> dict[str, str]:
    return {str(t): str(n) for t, n in (run.matrix.get("counts") or {}).items()}


def incomplete(words: str) -> bool:
    """Whether "913 of 975" falls short."""
    parts = words.split(" of ")
    return len(parts) == 2 and parts[0].strip() != parts[1].strip()


def gallery(methods: Sequence[Method]) -> Gallery:
    """Queries by turns from each task, as many as fit; the same for all methods, from each one's first seed."""
    sources = {m.label: run for m in methods if (run := next((r for r in m.runs if r.examples.get("queries")), None))}
    by_key = {
        label: {(str(q.get("task")), str(q.get("direction")), str(q.get("query"))): q for q in run.examples["queries"]}
        for label, run in sources.items()
    }
    found = Gallery(queries={label: [] for label in sources})
    keys = by_turns(list(dict.fromkeys(k for queries in by_key.values() for k in queries)))
    found.total, spent = len(keys), 0
    for key in keys:
        if found.shown == QUERIES:
            break
        views, files = {}, dict[str, str]()
        for label, run in sources.items():
            if key in by_key[label]:
                views[label] = query_view(run, by_key[label][key], files)
        fresh = {k: v for k, v in files.items() if k not in found.media}
        cost = sum(map(len, fresh.values()))
        if spent + cost <= MEDIA_BYTES:
            spent, found.shown = spent + cost, found.shown + 1
            found.media |= fresh
            for label, view in views.items():
                found.queries[label].append(view)
    return found


def by_turns(keys: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """One of each task, then the second of each, and so on."""
    seen: dict[str, int] = {}
    turns = []
    for key in keys:
        seen[key[0]] = seen.get(key[0], 0) + 1
        turns.append(seen[key[0]])
    return [key for _, key in sorted(zip(turns, keys, strict=True), key=lambda pair: pair[0])]


def query_view(run: Run, query: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """A query with what was retrieved before learning, right after learning and at the end."""
    source, _, target = str(query.get("direction", "")).partition(">")
    own = run.tasks.index(query["task"]) + 1 if query.get("task") in run.tasks else 0
    results = {int(k): v for k, v in (query.get("results") or {}).items()}
    named = {run.learned: "at the end", own: f"right after {query.get('task')}", 0: "before learning"}
    if own and own == run.learned:
        named[own] = "right after learning it, at the end"
    stages = []
    for after, name in sorted(named.items()):
        hits = results.get(after)
        if hits is not None:
            views = [item_view(run, h.get("id"), target, files) | {"hit": bool(h.get("hit"))} for h in hits[:5]]
            stages.append({"name": name, "results": views, "right": sum(v["hit"] for v in views)})
    asked = item_view(run, query.get("query"), source, files)
    if query.get("caption"):
        asked["caption"] = str(query["caption"])
    return {"task": str(query.get("task")), "source": source, "target": target, "asked": asked, "stages": stages}


def item_view(run: Run, key: Any, modality: str, files: dict[str, str]) -> dict[str, Any]:
    """An item as the gallery shows it; the file of the modality in question is added to ``files``."""
    item = (run.examples.get("items") or {}).get(str(key)) or {}
    view = {
        "id": str(key),
        "caption": item.get("caption") or "",
        "topic": item.get("topic") or "",
        "modality": modality,
    }
    name = item.get(modality) if modality in ("audio", "image") else None
    if name:
        uri = data_uri(run.path, str(name))
        view["media"] = hashlib.sha256(uri.encode()).hexdigest()[:12] if uri else ""
        if uri:
            files[view["media"]] = uri
    return view


def data_uri(folder: Path, name: str) -> str:
    """A file of the run folder as a data URI; "" where it is absent, elsewhere, or of no kind that a page plays."""
    path = (folder / name).resolve()
    kind = KINDS.get(path.suffix.lower())
    if kind is None or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return ""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def heat_range(methods: Sequence[Method]) -> tuple[float, float]:
    """One colour scale for all matrices."""
    every = [c.mean for m in methods for h in heads([m]) for row in m.cells(h).values() for c in row if c]
    return (min(every), max(every)) if every else (0.0, 1.0)


def render(
    methods: Sequence[Method],
    title: str,
    words: Sequence[str],
    remarks: Sequence[str],
    summary: dict[str, list[tables.Row]],
) -> str:
    """The page. Everything that comes from a run is escaped by the template engine."""
    low, high = heat_range(methods)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": tables.text, "digits": tables.digits, "spread": tables.has_spread}

    def heat(value: Estimate) -> float:
        return round((value.mean - low) / ((high - low) or 1.0), 3)

    return environment.get_template("page.html").render(
        title=title,
        intro=words,
        notes=remarks,
        methods=methods,
        summary=summary,
        columns=tables.columns(methods),
        heads={h: HEAD_WORDS[h] for h in summary},
        slots=plots.slots(methods),
        charts={h: plots.curve_charts(methods, h) for h in summary},
        training={m.label: plots.training_charts(m) for m in methods},
        shares={m.label: gradient_shares(m) for m in methods},
        gallery=gallery(methods),
        synthetic=any(r.meta.get("synthetic") for m in methods for r in m.runs),
        inert=INERT,
        scale=(low, high),
        heat=heat,
        metric_rows=tables.metric_rows,
        task_list=task_list,
        counts=counts,
        size=(plots.WIDTH, plots.HEIGHT, plots.LEFT, plots.RIGHT, plots.TOP, plots.BOTTOM),
    )
