"""Several runs of one recipe: every variant with every seed, on as many processes as asked, then a report."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

from polymnia.recipe import Recipe, plan
from polymnia.report.page import write_report
from polymnia.report.tables import Report
from polymnia.runs import assemble
from polymnia.runs.encoder import read_matrix
from polymnia.runs.life import Interrupted, Run, Session
from polymnia.runs.signals import on_sigterm
from polymnia.types import UserError

Progress = Callable[[str, str, int, int], None]  # run, what it does, done, of how many


@dataclass(frozen=True)
class Study:
    """Runs and the report that compares them."""

    runs: tuple[Run, ...]
    report: Report


def single(recipe: str | Path | Mapping[str, Any], overrides: Mapping[str, Any]) -> Run:
    """The one run that a recipe asks for. Raises UserError if it asks for several."""
    planned = plan(recipe, overrides)
    if len(planned) > 1:
        variants = ", ".join(dict.fromkeys(r.variant for r in planned))
        raise UserError(
            f"this recipe asks for {len(planned)} runs: give only=NAME ({variants}) and seeds=N, or study()"
        )
    return one(planned[0])


def one(recipe: Recipe, on_step: Callable[[str, int, int], None] = lambda *_: None) -> Run:
    """A run: from its folder if it is finished, else trained from where it stopped.

    Raises UserError where the folder belongs to other data than there is now.
    """
    path = recipe.folder / "meta.json"
    meta = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"finished": None}
    if not meta["finished"]:
        return Session(recipe, on_step).go()
    if recipe.data.exists():  # data that is gone is no reason to refuse a result
        fingerprint = assemble.fingerprint(assemble.read_tasks(recipe))
        if meta.get("fingerprint", fingerprint) != fingerprint:
            raise UserError(assemble.other_data(recipe.folder))
    return Run(recipe.folder, recipe, read_matrix(recipe.folder))


def study(
    recipe: str | Path | Mapping[str, Any], overrides: Mapping[str, Any], progress: Progress = lambda *_: None
) -> Study:
    """Every run of a recipe. What is finished is not done again; the report is written even where one run fails.

    Raises UserError that names the runs that failed, after all others are done.
    """
    planned = plan(recipe, overrides)
    jobs = min(planned[0].jobs, len(planned))
    finished, failed = _all_here(planned, progress) if jobs == 1 else _spread(planned, jobs, progress)
    folders = [r.folder for r in finished]
    report = write_report(folders, planned[0].out / f"{planned[0].name}-report") if folders else None
    if failed or report is None:
        raise UserError(_complaint(planned, failed))
    return Study(tuple(finished), report)


def _complaint(planned: Sequence[Recipe], failed: Sequence[tuple[Recipe, str]]) -> str:
    """Which runs failed and why, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for recipe, why in failed:
        by_reason.setdefault(why, []).append(label(recipe))
    if len(planned) > 1 and len(by_reason) == 1 and len(failed) == len(planned):
        return f"all {len(planned)} runs: {failed[0][1]}"
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())


def label(recipe: Recipe) -> str:
    return f"{recipe.variant or recipe.name} seed {recipe.seed}"


def _all_here(planned: Sequence[Recipe], progress: Progress) -> tuple[list[Run], list[tuple[Recipe, str]]]:
    runs, failed = [], []
    for recipe in planned:
        name = label(recipe)
        try:
            runs.append(one(recipe, lambda what, done, total, name=name: progress(name, what, done, total)))
        except Exception as error:  # a fault of one run must not cost the others, nor the report
            failed.append((recipe, _reason(error)))
            progress(name, "failed", 0, 0)
        else:
            progress(name, "done", 1, 1)
    return runs, failed


def _spread(planned: Sequence[Recipe], jobs: int, progress: Progress) -> tuple[list[Run], list[tuple[Recipe, str]]]:
    context = multiprocessing.get_context("spawn")
    runs: list[Run] = []
    failed: list[tuple[Recipe, str]] = []
    queue = context.Queue()
    over = threading.Event()
    listener = threading.Thread(target=_listen, args=(queue, over, progress), daemon=True)
    listener.start()
    asked = threading.Event()

    def stop() -> None:
        asked.set()
        for child in multiprocessing.active_children():
            child.terminate()  # each run saves and exits

    with (
        ProcessPoolExecutor(jobs, mp_context=context, initializer=_adopt, initargs=(queue, list(sys.path))) as pool,
        on_sigterm(stop),
    ):
        futures = [(r, pool.submit(_child, r)) for r in planned]
        try:
            for recipe, future in futures:
                try:
                    future.result()
                    runs.append(Run(recipe.folder, recipe, read_matrix(recipe.folder)))
                except Exception as error:
                    if asked.is_set():  # a worker that was stopped while idle breaks the pool
                        raise Interrupted from error
                    failed.append((recipe, _reason(error)))
        except SystemExit:  # a child was asked to stop, and saved: the others too, and nothing new is begun
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            over.set()
            listener.join()
    return runs, failed


def _reason(error: Exception) -> str:
    """Why a run failed: bad input in its own words, anything else with its traceback on stderr."""
    if isinstance(error, UserError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error} (its traceback is above; this is a fault of the program or of a part)"


_queue: Queue[tuple[str, str, int, int]] | None = None  # of this worker process


def _adopt(queue: Queue[tuple[str, str, int, int]], path: list[str]) -> None:
    """A worker's start: where its progress goes, and a user's own modules found as in the parent."""
    global _queue
    _queue = queue
    sys.path[:] = path
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Interrupted().code))  # until a run has its own way to stop


_asked_to_stop = False  # this worker process; the pool may have handed it the next run before it could be cancelled


def _child(recipe: Recipe) -> None:
    global _asked_to_stop
    name = label(recipe)
    if _asked_to_stop:
        raise Interrupted

    def tell(what: str, done: int, total: int) -> None:
        assert _queue is not None
        _queue.put((name, what, done, total))

    try:
        one(recipe, tell)
    except Interrupted:
        _asked_to_stop = True
        raise
    tell("done", 1, 1)


def _listen(queue: Queue[tuple[str, str, int, int]], over: threading.Event, progress: Progress) -> None:
    while not (over.is_set() and queue.empty()):
        try:
            progress(*queue.get(timeout=0.2))
        except Empty:
            continue
