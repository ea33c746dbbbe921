"""Embed files with the encoder of a run: a folder of vectors that grows part by part, and goes on where it was."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from polymnia.data.walk import Skipped
from polymnia.index.schema import EncoderCard
from polymnia.index.vectors import ABOUT, write_about
from polymnia.runs.embedding import folder as files
from polymnia.runs.embedding.ask import Ask, make_plan
from polymnia.runs.embedding.card import card_of
from polymnia.runs.embedding.job import Plan
from polymnia.runs.embedding.windows import make_windows
from polymnia.runs.embedding.work import How, Progress, Worker
from polymnia.runs.encoder import Encoder, load
from polymnia.types import UserError

NAMED = 5  # failures in an error


@dataclass
class Embedded:
    """What became of it; an item in one modality counts once: ``made`` now, ``kept`` from before, ``removed``
    because its file is gone, ``changed`` (made anew). ``failed`` counts items; ``listed`` names the first.

    ``seconds``: of sound and video embedded now; ``took``: seconds of time.
    """

    folder: Path
    card: EncoderCard
    made: int = 0
    kept: int = 0
    removed: int = 0
    changed: int = 0
    failed: int = 0
    listed: list[tuple[str, str]] = field(default_factory=list)
    skipped: dict[str, Skipped] = field(default_factory=dict)
    counts: dict[str, int | float] = field(default_factory=dict)
    seconds: float = 0.0
    took: float = 0.0


def embed(
    run: Path, out: Path, ask: Ask | None = None, how: How | None = None, progress: Progress = lambda *_: None
) -> Embedded:
    """Embed what is asked for with the encoder of ``run`` into the folder ``out``; what is there already is kept.

    Raises UserError for what does not exist or fit, and, when all else is done and kept, where more than
    ``max_broken`` of the items failed.
    """
    how = how or How()
    return embed_with(load(run, how.task, how.data), run, out, ask or Ask(), how, progress)


def embed_with(
    encoder: Encoder, run: Path, out: Path, ask: Ask, how: How, progress: Progress = lambda *_: None
) -> Embedded:
    """The same with an encoder of ``run`` that is loaded already."""
    began = time.perf_counter()
    card, windows = card_of(encoder, run), make_windows(encoder, how.window, how.hop)
    plan = make_plan(run, encoder, ask, out)
    _refuse_nothing(plan, out)
    with files.opened(out):
        files.refuse_others(out, card, windows)
        jobs = {job.key: job for job in plan.jobs}
        standing = files.sweep(out, card, jobs, ask.only or card.modalities, plan.unread, how.prune)
        todo = [job for key, job in jobs.items() if key not in standing.kept]
        say = partial(write_about, out, card, source=plan.about, windows=windows.plain())
        say(complete=False)
        worker = Worker(encoder, card, windows, out, how, progress)
        for id, why in plan.failed:
            worker.failures.add(id, why)
        worker.work(todo, len(jobs) - len(todo))
        done = _summary(worker, standing, plan, time.perf_counter() - began)
        failed = {"count": done.failed, "listed": [list(f) for f in done.listed]}
        skipped = {why: asdict(s) for why, s in sorted(done.skipped.items())}
        say(complete=True, counts=done.counts, failed=failed, skipped=skipped)
    total = len({job.id for job in plan.jobs} | {id for id, _ in plan.failed})
    _refuse_broken(done, total, how.max_broken)
    return done


def _refuse_nothing(plan: Plan, out: Path) -> None:
    if plan.jobs or (out / ABOUT).exists():  # of vectors that are there, files may be gone
        return
    found = ", ".join(f"{s.count:,} x {why}" for why, s in sorted(plan.skipped.items())) or "nothing"
    broken = "".join(f"; {id}: {why}" for id, why in plan.failed[:NAMED])
    raise UserError(f"there is nothing to embed in {plan.about['place']}; found: {found}{broken}")


def _refuse_broken(done: Embedded, total: int, most: float) -> None:
    if done.failed <= most * total:
        return
    named = "; ".join(f"{id}: {why}".rstrip(".") for id, why in done.listed[:NAMED])
    raise UserError(
        f"{done.failed:,} of {total:,} items could not be embedded, more than --max-broken {most:g}: {named}"
        f"{'; ...' if done.failed > NAMED else ''}. All others are in {done.folder}, whose vectors.json names more"
    )


def _summary(worker: Worker, standing: files.Standing, plan: Plan, took: float) -> Embedded:
    return Embedded(
        worker.out,
        worker.card,
        worker.made,
        len(standing.kept),
        standing.removed,
        standing.changed,
        worker.failures.count,
        worker.failures.listed,
        plan.skipped,
        files.count(worker.out),
        worker.seconds,
        took,
    )


def options(given: dict[str, Any]) -> tuple[Ask, How]:
    """Names and values of both, taken apart. Raises UserError for a name that neither has."""
    asked = {k: v for k, v in given.items() if k in Ask.__dataclass_fields__}
    rest = {k: v for k, v in given.items() if k not in asked}
    if strange := [k for k in rest if k not in How.__dataclass_fields__]:
        known = [*Ask.__dataclass_fields__, *How.__dataclass_fields__]
        raise UserError(f"embed knows no option '{strange[0]}'; known: {', '.join(known)}")
    return Ask(**asked), How(**rest)
