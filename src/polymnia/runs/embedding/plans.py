"""From a folder or a list of items to what is to be embedded."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from polymnia.data.faults import MediaError
from polymnia.data.names import escape, unescape
from polymnia.data.texts import TextFile, read_text
from polymnia.data.walk import Kind, Medium, kind_of, walk
from polymnia.runs.embedding.job import Job, Plan
from polymnia.types import MODALITIES, AudioFile, Captions, ImageFile, Item, Modality, VideoFile

CaptionFrom = Literal["none", "name", "folder", "sidecar"]
SHOWN = 1000  # characters of a caption that are kept beside a vector
HOLDS: dict[Kind, tuple[Modality, ...]] = {
    "audio": ("audio",),
    "image": ("image",),
    "video": ("audio", "image"),
    "text": ("text",),
}
MARKS = re.compile(r"[\s_.\-]+")


def folder_plan(
    root: Path,
    modalities: Collection[Modality],
    links: bool = False,
    captions: CaptionFrom = "none",
    without: Path | None = None,
) -> Plan:
    """What a folder holds for these modalities; see ``data.walk``. An item a file; its topic is the folder it is in.

    ``captions``: words for the column ``caption`` of sounds and pictures, from the file's name, its folder's name, or
    a text beside it of the same name (``rain.txt`` of ``rain.wav``), which then is no item of its own.
    """
    place = os.path.abspath(root)
    found = walk(root, links, without)
    about = {"kind": "folder", "place": escape(os.fsencode(place))}
    failed = [(name, why) for name, why in found.failed if name in found.unread or _is_wanted(name, modalities)]
    plan = Plan(about, [], failed, found.skipped, found.unread)
    beside = _sidecars(found.media) if captions == "sidecar" else {}
    spent = {*beside.values()}
    for medium in found.media:
        if medium.name in spent:
            plan.skip(escape(medium.name), "the caption of a medium")
            continue
        path = Path(place) / os.fsdecode(medium.name)
        caption = _caption(path, medium, Path(place), beside, captions, plan)
        _add_file(plan, medium, path, escape(os.fsencode(place)), caption, modalities)
    return plan


def _add_file(
    plan: Plan, medium: Medium, path: Path, root: str, caption: str | None, modalities: Collection[Modality]
) -> None:
    id = escape(medium.name)
    make = {"audio": AudioFile, "image": VideoFile if medium.kind == "video" else ImageFile, "text": TextFile}
    sources = {m: make[m](path) for m in HOLDS[medium.kind]}
    topic = escape(os.path.dirname(medium.name)) or None
    wanted = [m for m in sources if m in modalities]
    if not wanted:
        plan.skip(id, _unasked(sources))
    for m in wanted:
        plan.jobs.append(
            Job(id, m, sources[m], root, id, caption, topic, None, medium.size, medium.changed, medium.kind == "video")
        )


def _is_wanted(name: str, modalities: Collection[Modality]) -> bool:
    kind = kind_of(unescape(name))
    return kind is not None and any(m in modalities for m in HOLDS[kind])


def _unasked(modalities: Iterable[Modality]) -> str:
    return f"{' and '.join(modalities)}, not asked for or unknown to this run"


def _sidecars(media: Sequence[Medium]) -> dict[bytes, bytes]:
    """The text beside a sound, picture or video, by the name of that."""
    texts = {os.path.splitext(m.name)[0]: m.name for m in media if m.kind == "text"}
    stems = {m.name: os.path.splitext(m.name)[0] for m in media if m.kind != "text"}
    return {name: texts[stem] for name, stem in stems.items() if stem in texts}


def _caption(
    path: Path, medium: Medium, root: Path, beside: Mapping[bytes, bytes], captions: CaptionFrom, plan: Plan
) -> str | None:
    if medium.kind == "text" or captions == "none":
        return None
    if captions == "sidecar":
        if medium.name not in beside:
            return None
        try:
            return shown(read_text(root / os.fsdecode(beside[medium.name])))
        except MediaError as error:
            plan.skip(escape(beside[medium.name]), f"a caption that {error.reason}")
            return None
    words = path.stem if captions == "name" else path.parent.name
    return shown(MARKS.sub(" ", escape(os.fsencode(words))).strip()) or None


def shown(text: str) -> str:
    """A text as it stands beside a vector: bounded, and without characters that UTF-8 forbids."""
    return text[:SHOWN].encode("utf-8", "replace").decode()


def items_plan(
    items: Sequence[Item],
    base: Path,
    modalities: Collection[Modality],
    about: Mapping[str, str],
    tasks: Mapping[str, str] | None = None,
) -> Plan:
    """What items hold for these modalities: the caption is their first, ``tasks`` the names of their tasks by id.

    Files under ``base`` are named by their path under it, others by their folder and their name.
    """
    plan = Plan(dict(about))
    files = _Files(base)
    for item in items:
        id = escape(item.id.encode("utf-8", "surrogatepass"))
        words = item.sources.get("text")
        caption = shown(words.texts[0]) if isinstance(words, Captions) and words.texts else None
        beside = (caption, shown(item.topic) or None, (tasks or {}).get(item.id))
        wanted = [m for m in MODALITIES if m in item.sources and m in modalities]
        if not wanted:
            plan.skip(id, _unasked(item.sources))
        for m in wanted:
            source = item.sources[m]
            if isinstance(source, Captions):
                plan.jobs.append(Job(id, m, source, None, None, *beside))
                continue
            try:
                root, name, size, changed = files.look(source.path)
            except OSError as error:
                plan.failed.append((id, f"{escape(os.fsencode(source.path))}: {error.strerror}"))
                continue
            plan.jobs.append(Job(id, m, source, root, name, *beside, size, changed))
    return plan


class _Files:
    """Where files are under a folder, how large, and when they were changed; of one that many items share, once."""

    def __init__(self, base: Path):
        self._base = os.path.abspath(base)
        self._last: tuple[Path, tuple[str, str, int, int]] | None = None

    def look(self, path: Path) -> tuple[str, str, int, int]:
        """Root, name, bytes, time of change. Raises OSError for what is not there."""
        if self._last is None or self._last[0] != path:
            status = os.stat(path)
            whole = os.path.abspath(path)
            inside = os.path.commonpath([whole, self._base]) == self._base
            root = self._base if inside else os.path.dirname(whole)
            place = (escape(os.fsencode(root)), escape(os.fsencode(os.path.relpath(whole, root))))
            self._last = path, (*place, status.st_size, status.st_mtime_ns)
        return self._last[1]
