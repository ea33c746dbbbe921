"""The folder that vectors go into: what of it still holds, what is removed, and its next part."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from polymnia.index.schema import WHOLE, EncoderCard, key
from polymnia.index.vectors import ABOUT, LOCK, PART, part_path, parts, read_about, read_part, read_stamps, write_part
from polymnia.runs.embedding.job import Job, Stamp
from polymnia.runs.embedding.rows import told
from polymnia.runs.embedding.windows import Windows
from polymnia.types import Modality, UserError

MOST_REMOVED = 0.5  # share of what is there that goes without being asked for


@contextmanager
def opened(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there, for this process alone. Raises UserError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {p.name for p in folder.iterdir()}
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} for vectors: {error.strerror}") from error
    strange = {n for n in names if n != LOCK and not _draft(n)}
    if strange and ABOUT not in names:
        raise UserError(f"{folder} holds other things ({min(strange)!r}) and no {ABOUT}; give --out a new folder")
    try:
        with FileLock(folder / LOCK, timeout=0):
            for name in filter(_draft, names):  # of a process that died
                (folder / name).unlink(missing_ok=True)
            yield
    except Timeout as error:
        raise UserError(f"another process embeds into {folder}; wait for it, or give another --out") from error
    except OSError as error:
        what = f"{error.strerror or error}"
        raise UserError(f"cannot write to {folder}: {what}; what is done is kept, the same command goes on") from error


def _draft(name: str) -> bool:
    inner = name.removeprefix(".").rsplit(".", 2)[0]
    return name.startswith(".") and name.endswith(".tmp") and (inner == ABOUT or bool(PART.fullmatch(inner)))


def refuse_others(folder: Path, card: EncoderCard, windows: Windows) -> None:
    """Raises UserError where the folder holds vectors of another encoder, or of other windows."""
    if not (folder / ABOUT).exists():
        return
    about = read_about(folder)
    its = EncoderCard.from_json(json.dumps(about.get("card")), str(folder / ABOUT))
    if its.signature != card.signature:
        raise UserError(
            f"{folder} holds vectors of another encoder ({its.run} after task {its.task}, {its.signature}), not of "
            f"{card.run} after task {card.task} ({card.signature}): give another --out, or that run and --task"
        )
    if about.get("windows") != windows.plain():
        was = about.get("windows") or {}
        raise UserError(
            f"{folder} was made with --window {was.get('window')} --hop {was.get('hop')}: give these, or another --out"
        )


@dataclass
class Standing:
    """What is in the folder already, by the keys of wholes: ``kept`` as it is; how many were ``removed`` because they
    are no longer asked for, or ``changed``."""

    kept: set[str] = field(default_factory=set)
    removed: int = 0
    changed: int = 0


def sweep(
    folder: Path,
    card: EncoderCard,
    jobs: Mapping[str, Job],
    modalities: Collection[Modality],
    unread: Collection[str],
    prune: bool,
) -> Standing:
    """Take out of the parts what is no longer asked for or has changed, and mend what stands beside the others.

    What is of modalities that are not asked for now, or in folders that cannot be read now, stays. Raises UserError,
    with nothing touched, where more than ``MOST_REMOVED`` would go and ``prune`` does not say so.
    """
    found = {path: {k: Stamp.read(s) for k, s in read_stamps(path).items()} for path in parts(folder).values()}
    standing, fates = Standing(), {}
    for path, stamps in found.items():
        fates[path] = {k: _fate(k, s, jobs, modalities, unread, standing) for k, s in stamps.items()}
    total = sum(map(len, found.values()))
    if standing.removed > MOST_REMOVED * total and not prune:
        raise UserError(
            f"{standing.removed:,} of the {total:,} items in {folder} are not in this source (any more). Give another "
            "--out for another source; add --prune if they are to go"
        )
    for path, fate in fates.items():
        if any(fate.values()):
            _rewrite(path, card, jobs, fate)
    return standing


def _fate(
    name: str,
    stamp: Stamp,
    jobs: Mapping[str, Job],
    modalities: Collection[Modality],
    unread: Collection[str],
    standing: Standing,
) -> str:
    """What becomes of an item: nothing (empty), or it is to ``go``, or to be ``told`` anew."""
    job = jobs.get(name)
    if name in standing.kept:
        return "go"  # twice there
    if job is not None and job.stamp.content != stamp.content:
        standing.changed += 1
        return "go"
    aside = name.rpartition("#")[2] not in modalities or any(name.startswith(f"{folder}/") for folder in unread)
    if job is None and not aside:
        standing.removed += 1
        return "go"
    standing.kept.add(name)
    return "told" if job is not None and job.stamp.said != stamp.said else ""


def _rewrite(path: Path, card: EncoderCard, jobs: Mapping[str, Job], fate: Mapping[str, str]) -> None:
    rows = pa.Table.from_batches(list(read_part(path, card)))
    names = [key(i, m, WHOLE) for i, m in zip(rows["id"].to_pylist(), rows["modality"].to_pylist(), strict=True)]
    stays = [n for n, name in enumerate(names) if fate.get(name) != "go"]
    if not stays:
        path.unlink()
        return
    rows = rows.take(stays)
    news = [told(jobs[name]) if fate[name] == "told" else {} for name in (names[n] for n in stays)]
    for column in ("root", "topic", "task", "caption"):
        old = rows[column].to_pylist()
        new = [n.get(column, o) for n, o in zip(news, old, strict=True)]
        place, kind = rows.schema.get_field_index(column), rows.schema.field(column)
        rows = rows.set_column(place, kind, pa.array(new, kind.type))
    stamps = {
        name: str(jobs[name].stamp) if how == "told" else was
        for (name, how), was in zip(fate.items(), read_stamps(path).values(), strict=True)
        if how != "go"
    }
    write_part(path, rows, stamps, card)


def next_part(folder: Path) -> Path:
    """Where the next part goes: behind the last one."""
    return part_path(folder, max(parts(folder), default=-1) + 1)


def count(folder: Path) -> dict[str, int | float]:
    """Of all parts: items, rows, items of each modality, windows, seconds of sound."""
    ids: set[str] = set()
    found: dict[str, int | float] = {
        "items": 0,
        "rows": 0,
        "audio": 0,
        "image": 0,
        "text": 0,
        "windows": 0,
        "seconds": 0.0,
    }
    for path in parts(folder).values():
        rows = pq.read_table(path, columns=["id", "modality", "window", "duration"]).to_pydict()
        ids.update(rows["id"])
        found["rows"] += len(rows["id"])
        for modality, window, seconds in zip(rows["modality"], rows["window"], rows["duration"], strict=True):
            found["windows" if window != WHOLE else modality] += 1
            if modality == "audio" and window == WHOLE:
                found["seconds"] += seconds or 0.0
    return {**found, "items": len(ids)}
