"""What a run leaves behind beside its weights: the resolved recipe, versions, the log, and media of the examples."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
from PIL import Image

from polymnia.data.collection import Collection
from polymnia.data.disk import write_text
from polymnia.runs import compatibility, parameters, taskmap
from polymnia.train.ratio import INERT
from polymnia.train.trainer import Step
from polymnia.types import AudioSpec, Captions, Item, Task
from polymnia.version import __version__

if TYPE_CHECKING:
    from polymnia.runs.life import Session

PACKAGES = ("torch", "numpy", "transformers", "scikit-learn", "soundfile", "soxr", "pillow", "pydantic")


class Log:
    """``log.jsonl``: a JSON object a line. ``cut`` drops what stands behind the checkpoint that a run resumes from."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        if self.size() > size:
            os.truncate(self.path, size)

    def write(self, kind: str, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def step(self, task: Task, step: Step) -> None:
        line = {"task": task.name, "index": task.index, "step": step.number, "epoch": step.epoch, "lr": step.lr}
        line |= {"loss": step.loss, "terms": step.terms}
        if step.ratio:
            line["ratio"] = step.ratio
        if step.facts:
            line["facts"] = step.facts
        self.write("step", **line)

    def lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line]


def warn_of_broken(log: Log, dropped: Mapping[str, Mapping[str, str]]) -> None:
    """A warning for each task that items were left out of, with the first reasons; meta.json lists them all."""
    for task, failed in dropped.items():
        if failed:
            shown = "; ".join(f"{i}: {why}" for i, why in sorted(failed.items())[:3])
            log.write("warning", message=f"{len(failed)} broken items of '{task}' were left out ({shown})")


def warn_if_inert(log: Log, task: Task) -> None:
    """A warning for each method whose terms pulled less than 5 % as hard as the objective all through the task."""
    ratios: dict[str, list[float]] = {}
    for line in log.lines():
        if line["kind"] == "step" and line["task"] == task.name:
            for name, value in line.get("ratio", {}).items():
                ratios.setdefault(name, []).append(value)
    for name, values in ratios.items():
        median = sorted(values)[len(values) // 2]
        if median < INERT:
            log.write(
                "warning",
                message=f"{name} is inert on task '{task.name}': its gradient is {median:.2g} of the objective's "
                f"(median of {len(values)} measurements, under {INERT}); set balance: {{target: 1.0}}",
            )


def begin(session: Session) -> None:
    """Write the resolved recipe and meta.json before anything is trained."""
    write_text(session.folder / "recipe.yaml", session.recipe.dump())
    meta = _meta(session)
    write_text(session.folder / "meta.json", json.dumps(meta, indent=1))


def finish(session: Session, seconds: float) -> None:
    """Examples with their media, the map of the tasks, and meta.json with the time taken."""
    session.book.write(session.folder)
    _examples(session)
    taskmap.write(session)
    compatibility.write(session.folder)
    meta = _meta(session) | {"seconds": seconds, "finished": _now()}
    write_text(session.folder / "meta.json", json.dumps(meta, indent=1))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _meta(session: Session) -> dict[str, Any]:
    recipe = session.recipe
    path = session.folder / "meta.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        "name": recipe.name,
        "variant": recipe.variant,
        "seed": recipe.seed,
        "hash": recipe.hash,
        "recipe_title": recipe.title,
        "synthetic": recipe.synthetic,
        "started": before.get("started") or _now(),
        "finished": None,
        "seconds": 0.0,
        "parameters": parameters.sizes(session),
        "method": [p.dump() for p in recipe.method],
        "fingerprint": session.fingerprint,
        "stages": session.stage_keys,
        "tasks": [_task_meta(session, t, list(c.score)) for t, c in session.curriculum.tasks],
        "watched": [t.name for t in session.curriculum.watch],
        "datasets": [asdict(count) for count in session.curriculum.counts],
        "extends": session.extends or before.get("extends"),
        "leaks": [leak.plain() for leak in session.curriculum.leaks],
        "versions": versions(),
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(terse=True),
            "cpu_threads": torch.get_num_threads(),
            "device": recipe.device,
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        },
        "notes": _notes(session),
    }


def _notes(session: Session) -> list[str]:
    """How the scores were taken: split, crop policy, text templates."""
    recipe = session.recipe
    notes = [f"scored on the {recipe.eval_split} items"]
    spec = session.towers["audio"].spec if "audio" in session.towers else None
    if isinstance(spec, AudioSpec):
        short = f"zero-padded to {spec.seconds:g} s" if spec.min_seconds is None else "filled up by the tower"
        notes.append(f"clips are scored whole: shorter ones {short}, of longer ones the middle {spec.max_seconds:g} s")
    parts = [*recipe.eval, *(p for t in (*recipe.tasks, *recipe.watch) for p in t.eval)]
    templates = {t for p in parts if p.use == "zeroshot" for t in p.config.template}
    notes += [f"zero-shot template: {', '.join(sorted(templates))}"] if templates else []
    missing = [f"'{name}' was not scored: its data are not there" for name in session.curriculum.without]
    missing += [f"data set {count}" for count in session.curriculum.counts if count.present < count.official]
    return [*notes, *missing, *(f"overlap of training and test data: {leak}" for leak in session.curriculum.leaks)]


def _task_meta(session: Session, task: Task, score: list[str]) -> dict[str, Any]:
    failed = session.dropped.get(task.name, {})
    return {
        "name": task.name,
        "index": task.index,
        "items": {"train": len(task.train), "valid": len(task.valid), "test": len(task.test)},
        "official": dict(session.curriculum.official[task.name]),
        "pairs": [list(p) for p in task.pairs],
        "failed": [{"id": i, "reason": why} for i, why in sorted(failed.items())],
        "score": f"mean of {', '.join(score)}" if score else "mean of R@1, R@5, R@10 in both directions, own gallery",
    }


def versions() -> dict[str, str]:
    """Of this package and of those that decide numbers."""
    return {"polymnia": __version__, **{p: _version(p) for p in PACKAGES}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _examples(session: Session) -> None:
    """``examples.json`` and small copies of the media of its items, so that the folder stands alone."""
    items = {i.id: i for i in session.curriculum.items}
    shown: dict[str, Any] = {}
    folder = session.folder / "examples"
    folder.mkdir(exist_ok=True)
    queries = list(session.book.examples.values())
    wanted = [q["query"] for q in queries] + [h["id"] for q in queries for r in q["results"].values() for h in r]
    for number, item_id in enumerate(dict.fromkeys(wanted)):
        item = items[item_id]
        captions = item.sources.get("text")
        shown[item_id] = {
            "caption": captions.texts[0] if isinstance(captions, Captions) else None,
            "topic": item.topic,
            "audio": _sound(session.source, item, folder / f"{number:04d}.wav"),
            "image": _picture(session.source, item, folder / f"{number:04d}.png"),
        }
    write_text(session.folder / "examples.json", json.dumps({"items": shown, "queries": queries}, indent=1))


def _sound(collection: Collection, item: Item, path: Path) -> str | None:
    if "audio" not in item.sources or collection.audio is None:
        return None
    wave = collection.clip(item)
    step = max(1, collection.audio.rate // 16000)  # for listening only: a third of the size
    soundfile.write(path, np.asarray(wave[: 5 * collection.audio.rate : step]), collection.audio.rate // step)
    return f"{path.parent.name}/{path.name}"


def _picture(collection: Collection, item: Item, path: Path) -> str | None:
    if "image" not in item.sources or collection.images is None:
        return None
    pixels = collection.picture(item).transpose(1, 2, 0)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)
    return f"{path.parent.name}/{path.name}"
