"""What each method finds: a few queries with their best hits, and the sounds and pictures that they show, inlined."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import soundfile

from polymnia.report.collect import Method, Run

MEDIA_BYTES = 6_000_000  # of base64, so that the page stays under 8 MB
QUERIES = 12
SOUNDS = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
KINDS = SOUNDS | {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
SMALL = 4096  # bytes of a sound that is not worth compressing
ORDINAL = ("first", "second", "third", "fourth", "fifth")
Files = dict[str, str]  # key -> data URI


@dataclass
class Gallery:
    """Queries of each method, and every file they show, once."""

    queries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    media: Files = field(default_factory=dict)
    shown: int = 0
    total: int = 0


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
        views, files = {}, Files()
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
    """One of each task and direction, then the second of each, and so on."""
    seen: dict[tuple[str, str], int] = {}
    turns = []
    for task, direction, _ in keys:
        seen[task, direction] = seen.get((task, direction), 0) + 1
        turns.append(seen[task, direction])
    return [key for _, key in sorted(zip(turns, keys, strict=True), key=lambda pair: pair[0])]


def query_view(run: Run, query: dict[str, Any], files: Files) -> dict[str, Any]:
    """A query with what was retrieved before learning, right after learning and at the end."""
    source, _, target = str(query.get("direction", "")).partition(">")
    task = str(query.get("task"))
    asked = item_view(run, query.get("query"), source, files)
    if query.get("caption"):
        asked["caption"] = str(query["caption"])
    by_class = "class_mAP" in next((str(t.get("score")) for t in run.task_meta() if t.get("name") == task), "")
    results = {int(k): v for k, v in (query.get("results") or {}).items()}
    stages = []
    for after, name in stage_names(run, task).items():
        if results.get(after) is not None:
            views = [hit_view(run, h, asked["topic"], target, files) for h in results[after][:5]]
            for view in views:
                view["right"] = view["kin"] if by_class else view["hit"]
            stages.append({"name": name, "results": views, "said": said([v["right"] for v in views])})
    topics = {v["topic"] for s in stages for v in s["results"]} | {asked["topic"]}
    found = {"task": task, "source": source, "target": target, "asked": asked, "stages": stages}
    return found | {"by_class": by_class, "topical": len(topics) > 1}


def stage_names(run: Run, task: str) -> dict[int, str]:
    own = run.tasks.index(task) + 1 if task in run.tasks else 0
    named = {run.learned: "at the end", own: f"right after {task}", 0: "before learning"}
    if own and own == run.learned:
        named[own] = f"right after {task}, at the end"
    return dict(sorted(named.items()))


def said(right: Sequence[bool]) -> str:
    """Which of the hits are right, in words."""
    count = sum(right)
    if not count:
        return "none right"
    return f"the {ORDINAL[right.index(True)]} is right" if count == 1 else f"{count} of {len(right)} right"


def hit_view(run: Run, hit: dict[str, Any], topic: str, modality: str, files: Files) -> dict[str, Any]:
    """A hit: ``hit`` where it belongs to the query, ``kin`` where it is of the same topic at least."""
    view = item_view(run, hit.get("id"), modality, files)
    right = bool(hit.get("hit"))
    return view | {"hit": right, "kin": right or bool(topic) and view["topic"] == topic}


def item_view(run: Run, key: Any, modality: str, files: Files) -> dict[str, Any]:
    """An item as the gallery shows it; the file of the modality in question is added to ``files``."""
    item = (run.examples.get("items") or {}).get(str(key)) or {}
    view = {"id": str(key), "caption": item.get("caption") or "", "topic": item.get("topic") or ""}
    view |= {"modality": modality, "media": ""}
    name = item.get(modality) if modality in ("audio", "image") else None
    if name and (uri := data_uri(run.path, str(name))):
        view["media"] = hashlib.sha256(uri.encode()).hexdigest()[:12]
        files[view["media"]] = uri
    return view


def data_uri(folder: Path, name: str) -> str:
    """A file of the run folder as a data URI; "" where it is absent, elsewhere, or of no kind that a page plays."""
    path = (folder / name).resolve()
    kind = KINDS.get(path.suffix.lower())
    if kind is None or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return ""
    content = path.read_bytes()
    if path.suffix.lower() in (".wav", ".flac") and len(content) > SMALL and (smaller := compressed(content)):
        kind, content = SOUNDS[".mp3"], smaller
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@lru_cache(256)  # methods find the same sounds
def compressed(sound: bytes) -> bytes:
    """A sound as MP3, which every browser plays, in a tenth of the room; b"" where it has no such form."""
    out = io.BytesIO()
    try:
        samples, rate = soundfile.read(io.BytesIO(sound), dtype="float32")
        soundfile.write(out, samples, rate, format="MP3", subtype="MPEG_LAYER_III")
    except (soundfile.LibsndfileError, ValueError):
        return b""
    return out.getvalue()
