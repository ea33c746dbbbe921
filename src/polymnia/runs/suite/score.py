"""A suite on the encoder of a run: every set that is there and that the encoder can be scored on, one after another.

A set is decoded, embedded, scored and written before the next one is looked at, so that memory holds one set. What was
scored already, with the same encoder, on the same items, is not scored again.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from polymnia.data.collection import Collection
from polymnia.data.presence import files
from polymnia.embed.cache import frozen_vectors
from polymnia.embed.embedder import Embedder
from polymnia.recipe import Recipe, WatchConfig
from polymnia.runs import curriculum, machine, record
from polymnia.runs.assemble import find_device
from polymnia.runs.curriculum import SPLITS, Curriculum
from polymnia.runs.encoder import Encoder, load, read_recipe
from polymnia.runs.score import evaluate as scores_of
from polymnia.runs.score import finite
from polymnia.runs.suite.results import Results, place
from polymnia.runs.suite.sets import Suite, check_root, needs, pairs
from polymnia.types import AbsentError, EvalData, UserError

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(frozen=True)
class Done:
    """What became of a suite. ``sets``: the entries of those scored now or before; ``absent``: not under the data
    folder; ``unfit``: why the encoder cannot be scored on it; ``failed``: why it could not be scored."""

    path: Path
    facts: Mapping[str, Any]
    names: tuple[str, ...]
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def evaluate(
    run: Path,
    suite: Suite,
    data: Path | None = None,
    task: int | None = None,
    cache: Path | None = None,
    device: str | None = None,
    progress: Progress = lambda *_: None,
) -> Done:
    """Score the encoder of a run on a suite whose sets lie under ``data`` (default: where the run's own lay).

    A set that cannot be read costs itself only. Raises UserError where there is no such run or task, none of the
    suite's sets, or another process at work on the same results.
    """
    recipe = read_recipe(run)
    root = data or recipe.data
    check_root(suite, root)
    machine.settle(recipe.threads)
    encoder = load(run, task, None if recipe.data.exists() else root)
    on = find_device(device or encoder.recipe.device)
    encoder.model.to(on), encoder.method.to(on)
    path = place(run, suite.name, encoder.task)
    scorer = _Scorer(run, encoder, suite, root, cache or recipe.cache, progress)
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            results = Results(path, run, suite.name, encoder.task, encoder.signature)
            done = Done(path, results.facts, tuple(s.name for s in suite.sets))
            for cfg in suite.sets:
                _one(cfg, scorer, results, done)
    except Timeout:
        raise UserError(f"another process is at work on {path}; wait for it") from None
    return done


def _one(cfg: WatchConfig, scorer: _Scorer, results: Results, done: Done) -> None:
    if lacking := [m for m in needs(cfg) if m not in scorer.encoder.model.modalities]:
        done.unfit[cfg.name] = f"it needs a tower for {', '.join(lacking)}, which this run has not"
    elif not curriculum.is_there(cfg, scorer.root):
        gone = [str(scorer.root / p.config.root) for p in cfg.data if not (scorer.root / p.config.root).exists()]
        done.absent[cfg.name] = f"no {', '.join(gone)}"
    else:
        try:
            found = scorer.read(cfg)
            request = scorer.request(cfg, found)
            if not results.done(cfg.name, request):
                results.add(cfg.name, scorer.score(cfg, found) | {"request": request})
            done.sets[cfg.name] = results.sets[cfg.name]
        except AbsentError as error:
            done.absent[cfg.name] = str(error)
        except UserError as error:
            done.failed[cfg.name] = str(error)
            scorer.progress(f"{cfg.name} failed", 0, 0)


class _Scorer:
    """One encoder, and how a set is scored with it."""

    def __init__(self, run: Path, encoder: Encoder, suite: Suite, root: Path, cache: Path, progress: Progress):
        self.encoder, self.suite, self.root, self.cache, self.progress = encoder, suite, root, cache, progress
        self.meta = json.loads((run / "meta.json").read_text(encoding="utf-8"))

    def recipe(self, cfg: WatchConfig) -> Recipe:
        """The run's own, with nothing to learn and one set to watch."""
        own = self.encoder.recipe
        changes = {"data": self.root, "stages": (), "tasks": (), "watch": (cfg,), "eval_split": "test"}
        changes |= {"towers": {m: own.towers[m] for m in needs(cfg)}, "max_broken": self.suite.max_broken}
        return own.model_copy(update=changes)

    def read(self, cfg: WatchConfig) -> Curriculum:
        """The items of a set, before any medium is opened."""
        self.progress(f"{cfg.name}: reading", 0, 0)
        return curriculum.read_tasks(self.recipe(cfg))

    def request(self, cfg: WatchConfig, found: Curriculum) -> str:
        """A digest of what decides the scores, wherever the files lie: encoder, items, sizes of files, evaluators."""
        how = {"eval": [p.dump() for p in cfg.eval], "pairs": cfg.pairs, "official": found.used(cfg.name)[1]}
        digest = hashlib.blake2b(json.dumps([1, self.encoder.signature, self.head(cfg), how]).encode(), digest_size=12)
        digest.update(curriculum.item_digest(found.items).encode())
        for path in dict.fromkeys(path for item in found.items for path in files(item, needs(cfg))):
            digest.update(str(_size(Path(path))).encode())
        return digest.hexdigest()

    def head(self, cfg: WatchConfig) -> int | None:
        """The last task that taught a pair which the set tests, if a later task has changed the heads since."""
        tested = {frozenset(pair) for pair in pairs(cfg)}
        known = [(t["index"], {frozenset(p) for p in t["pairs"]}) for t in self.meta["tasks"]]
        after = self.encoder.task
        last = max((index for index, taught in known if index <= after and tested & taught), default=None)
        return None if last == after else last

    def score(self, cfg: WatchConfig, found: Curriculum) -> dict[str, Any]:
        """The entry of a set. Raises UserError where too much of it cannot be read."""
        started = time.monotonic()
        specs = {m: self.encoder.model.tower(m).spec for m in needs(cfg)}
        collection = Collection.open(
            found.items, specs, self.cache / "media", lambda *n: self.progress(f"{cfg.name}: decoding", *n)
        )
        usable = curriculum.drop_broken(self.recipe(cfg), found, collection.failed)
        (task,) = usable.watch
        embed = self._embedder(cfg, usable, collection)
        names = {m: self.encoder.model.tower(m).class_names for m in needs(cfg)}
        test = EvalData(task.train, task.valid, task.test, task.test, task.pairs, names)
        self.progress(f"{cfg.name}: scoring", 0, 0)
        latest, head = scores_of(cfg.eval, cfg.name, test, embed), self.head(cfg)
        kept = {} if head is None else scores_of(cfg.eval, cfg.name, test, embed.with_head(head), projected=True)
        there, official = usable.used(cfg.name)
        failed = curriculum.dropped(found, collection.failed)[cfg.name]
        return {
            "values": {"latest": finite(latest), "stored": finite({**latest, **kept})},
            "stored_head": self.encoder.task if head is None else head,
            "count": f"{there} of {official}",
            "items": {s: len(getattr(task, s)) for s in SPLITS},
            "failed": [{"id": i, "reason": why} for i, why in sorted(failed.items())],
            "leaks": self._leaks(cfg),
            "data": [p.dump() for p in cfg.data],
            "eval": [p.dump() for p in cfg.eval],
            "encoder": self.encoder.signature,
            "versions": record.versions(),
            "seconds": time.monotonic() - started,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def _leaks(self, cfg: WatchConfig) -> list[dict[str, Any]]:
        """Overlaps with training data that the run found when it was trained: of the data sets that it watched too."""
        uses = {part.use.rpartition(".")[2] for part in cfg.data}
        return [leak for leak in self.meta.get("leaks", []) if leak["scored"].partition(".")[0] in uses]

    def _embedder(self, cfg: WatchConfig, found: Curriculum, collection: Collection) -> Embedder:
        """Features that depend on nothing but a tower come from the cache, part by part."""
        model, method, view = self.encoder.model, self.encoder.method, replace(collection, vectors={})
        towers = {m: model.tower(m) for m in model.modalities}
        if not method.prompting:
            for m in needs(cfg):
                self.progress(f"{cfg.name}: {m} features", 0, 0)
                view.use_vectors(m, frozen_vectors(towers[m], found.items, m, collection, self.cache / "features"))
        return Embedder(model, method, view, towers, encoder=self.encoder.signature)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def complain(done: Done) -> None:
    """Raises UserError that names the sets which could not be scored, if any."""
    if done.failed:
        scored = f"{len(done.sets)} sets are scored, in {done.path}; " if done.sets else ""
        raise UserError(scored + "; ".join(f"'{name}' is not: {why}" for name, why in done.failed.items()))
