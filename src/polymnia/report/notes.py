"""The report in words: what was run, what came out, and what a reader must know before believing a number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from polymnia.report import words
from polymnia.report.collect import Method
from polymnia.report.columns import GAIN, Row, said_scores
from polymnia.report.counts import lacking
from polymnia.report.logs import INERT, gradient_shares

CLAIMS = {  # of papers, by the method that is named after them
    "ptat": "PTAT claims 2.42 % of the parameters of sequential fine-tuning and +4.46 % over it (points or percent: "
    "its abstract does not say)",
    "lpi": "LPI claims < 0.5 M additional parameters (as a summary of it says; its abstract gives no number)",
}


def heading(methods: Sequence[Method]) -> str:
    titles = list(dict.fromkeys(str(m.runs[0].meta.get("recipe_title") or m.recipe) for m in methods))
    return titles[0].replace("->", "→") if len(titles) == 1 else f"{len(titles)} recipes compared"


def intro(methods: Sequence[Method], summary: Sequence[Row]) -> list[str]:
    """What was run and what came out, in words."""
    metas = [t for m in methods for r in m.runs for t in r.task_meta()]
    tasks = list(dict.fromkeys(t for m in methods for t in m.tasks))
    pairs = dict.fromkeys(" with ".join(p) for t in metas for p in t.get("pairs") or [])
    order = " one after another" if len(tasks) > 1 else ""
    said = f"One shared embedding space learned {words.count(len(tasks), 'task')}{order}: {', '.join(tasks)}. "
    said += f"The objective aligns {words.listed(pairs)}. " if pairs else ""
    said += f"{ran(methods)} After every task all tasks were tested again, those to come included. {scored(methods)}"
    return [said.strip(), *([finding] if (finding := headline(summary)) else [])]


def ran(methods: Sequence[Method]) -> str:
    """Which methods, with how many seeds."""
    own, others = ([m.label for m in methods if m.reference is kind] for kind in (False, True))
    who = f"{words.count(len(own), 'method')}: {words.listed(own)}" if own else ""
    reference = f"for reference {words.listed(others)}" if others else ""
    said = "; ".join(x for x in (who, reference) if x)
    fewest, most = (f(len(m.counted) for m in methods) for f in (min, max))
    if most > 1:
        seeds = f"{most} seeds each" if fewest == most else f"{fewest} to {most} seeds each"
        return f"{said}. {seeds}; a number is the mean ± standard deviation [95 % interval] over seeds."
    return f"{said}. One seed{' each' if len(methods) > 1 else ''}."


def scored(methods: Sequence[Method]) -> str:
    """What the score is: once where all tasks have the same."""
    found = {t: words.score(said) for m in methods for r in m.runs for t, said in said_scores(r).items()}
    if not found:
        return ""
    if len(set(found.values())) == 1:
        return f"The score, in percent, is the {next(iter(found.values()))}."
    each = "; ".join(f"of {task} the {what}" for task, what in found.items())
    return f"The score, in percent, is {each}. Tasks are not scored alike, so compare methods, not tasks."


def headline(summary: Sequence[Row]) -> str:
    """The best average, and whether its lead is more than chance."""
    ranked = [(c, r) for r in summary if r.kind == "method" and not r.note and (c := r.cells.get("average"))]
    ranked.sort(key=lambda pair: -pair[0].mean)
    if len(ranked) < 2:
        return ""
    (first, best), (second, next_best) = ranked[:2]
    said = f"Highest average after the last task: {best.label}, {words.digits(first.mean)} %; "
    said += f"next is {next_best.label}, {words.digits(second.mean)} %. "
    if first.low is None or second.high is None:
        said += "With one seed there is no telling how much of the lead would stay with another seed."
    else:
        apart = first.low > second.high
        said += f"Their intervals over seeds {'do not overlap' if apart else 'overlap, so the order may be chance'}."
    for over in ("queries", "seeds"):
        gains = [(r.label, c) for _, r in ranked if r.over == over and (c := r.cells.get(GAIN)) and c.low is not None]
        sure = [label for label, c in gains if words.certain(c) and c.mean > 0]
        if gains:
            whom = words.listed(sure) if sure else "no method"
            said += f" Better than plain fine-tuning by more than the choice of {over} explains: {whom}."
    return said


def claims(methods: Sequence[Method]) -> list[str]:
    """What the papers say whose methods were run: of their own encoders and data, and no result of ours."""
    used = [said for use, said in CLAIMS.items() if any(r.uses(use) for m in methods for r in m.runs)]
    return [f"{said}. A claim of the paper on its own encoders and data, no result of these runs." for said in used]


def notes(methods: Sequence[Method]) -> list[str]:
    """Inert terms first, then what is missing, then the rest."""
    runs = [r for m in methods for r in m.runs]
    partial = {f"{name}: {said} items to score were there and used" for name, said in lacking(methods).items()}
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
    for lack in dict.fromkeys(w for run in method.runs for w in run.missing):
        lacking = [str(run.seed) for run in method.runs if lack in run.missing]
        who = "" if len(lacking) == len(method.runs) else f", seed {', '.join(lacking)}"
        out.append(f"{method.label}{who}: {lack}")
    behind = [str(r.seed) for r in method.runs if r not in method.counted]
    if behind:
        out.append(f"{method.label}: seed {', '.join(behind)} is behind the others and not in the averages")
    return out


def warnings(method: Method) -> list[str]:
    messages = dict.fromkeys(str(x.get("message")) for r in method.runs for x in r.log if x.get("kind") == "warning")
    return [f"{method.label}, warning: {m}" for m in messages]
