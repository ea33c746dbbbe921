"""Shards of samples in tar files, unpacked once and safely: nothing is written where a member's name points.

A shard of ``root`` becomes a folder of its own: media under numbers (``000012.flac``) and ``index.jsonl``, one sample
a line with its texts. It is made under another name and renamed when it is complete, so that a killed run begins that
one shard again. A shard that changes (name, size or time) becomes a new folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from polymnia.data.disk import sync_folder
from polymnia.types import UserError

SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
VIDEOS = (".mp4",)
TEXTS = (".txt", ".json")
MAX_MEMBER = 1 << 30  # bytes of a medium
MAX_TEXT = 1 << 20
MAX_MEMBERS = 1_000_000
MEDIUM = re.compile(r"\d+\.[a-z0-9]+")  # the name of an unpacked medium
BLOCK = 512  # a tar file is a whole number of these
LONG = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


@dataclass
class Sample:
    """The members of one key: ``media`` by suffix (file names in the shard's folder) and ``texts`` by suffix."""

    key: str
    media: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


class _Header(tarfile.TarInfo):
    """A header whose extension is small: tarfile reads extensions whole into the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> tarfile.TarInfo:
        header = super().frombuf(buf, encoding, errors)
        if header.type in LONG and header.size > MAX_TEXT:
            raise tarfile.ReadError(f"an extended header of {header.size:,} bytes, more than {MAX_TEXT:,}")
        return header


def unpack(shard: Path, name: str, into: Path) -> Path:
    """The folder of the unpacked shard; made if it is not there. Safe for several processes.

    ``name`` is the shard's, the same wherever the data folder lies.

    Raises UserError, naming the member, for links, devices, names that lead out, and sizes above the bounds; for a
    file that is no tar or is cut off; and where it cannot be written.
    """
    done = place(shard, name, into)
    if done.is_dir():
        return done
    try:
        into.mkdir(parents=True, exist_ok=True)
        with FileLock(into / f"{done.name}.lock"):
            if not done.is_dir():
                _make(shard, done)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{shard}: not a whole, plain tar file ({error}); fetch or pack it again") from error
    except OSError as error:
        raise UserError(f"cannot unpack {shard} into {into}: {error.strerror or error}") from error
    return done


def place(shard: Path, name: str, into: Path) -> Path:
    """Where ``unpack`` puts the shard, or has put it."""
    stat = shard.stat()
    digest = blake2b(f"{name}|{stat.st_size}|{stat.st_mtime_ns}".encode(), digest_size=6).hexdigest()
    return into / f"{shard.stem}-{digest}"


def _make(shard: Path, done: Path) -> None:
    part = done.with_name(f"{done.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        part.mkdir()
        _write(shard, part)
        part.rename(done)
        sync_folder(done.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def samples(folder: Path) -> Iterator[Sample]:
    """The samples of an unpacked shard, in its order. UserError for a folder that ``unpack`` did not make."""
    with (folder / "index.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            sample = Sample(**json.loads(line))
            if not all(MEDIUM.fullmatch(name) for name in sample.media.values()):
                raise UserError(f"{folder}: 'index.jsonl' is not ours; delete the folder")
            yield sample


def _write(shard: Path, part: Path) -> None:
    if shard.stat().st_size % BLOCK:
        raise EOFError("cut off: its size is not a multiple of 512")
    found: dict[str, Sample] = {}
    with tarfile.open(shard, "r:", tarinfo=_Header) as tar:
        for number, member in enumerate(tar):
            if number >= MAX_MEMBERS:
                raise UserError(f"{shard} has more than {MAX_MEMBERS:,} members")
            _check(shard, member)
            ours = _ours(member)
            content = tar.extractfile(member) if ours else None
            if ours and content:
                _keep(shard, part, number, found.setdefault(ours[0], Sample(ours[0])), ours[1], content)
    with (part / "index.jsonl").open("w", encoding="utf-8") as index:
        for sample in found.values():
            index.write(json.dumps(asdict(sample), ensure_ascii=False) + "\n")
        index.flush()
        os.fsync(index.fileno())


def _check(shard: Path, member: tarfile.TarInfo) -> None:
    """Raises UserError for what an honest shard does not hold."""
    name = member.name
    if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
        raise UserError(f"{shard}: the name of member '{name}' leads out of the archive; do not trust this file")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise UserError(f"{shard}: member '{name}' is a link or a device, not a file; do not trust this file")
    most = MAX_TEXT if PurePosixPath(name).suffix.lower() in TEXTS else MAX_MEMBER
    if member.size > most:
        raise UserError(f"{shard}: member '{name}' has {member.size:,} bytes, more than {most:,}")


def _ours(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and suffix of a member (the key ends at the first dot of the file name), None for others than ours."""
    path = PurePosixPath(member.name)
    base, dot, _ = path.name.partition(".")
    suffix = path.suffix.lower()
    if not member.isfile() or not base or not dot or suffix not in (*SOUNDS, *PICTURES, *VIDEOS, *TEXTS):
        return None
    return str(path.parent / base), suffix


def _keep(shard: Path, part: Path, number: int, sample: Sample, suffix: str, content: BufferedReader) -> None:
    if suffix in sample.media or suffix in sample.texts:
        raise UserError(f"{shard}: key '{sample.key}' has two members *{suffix}; keys must be unique in a shard")
    if suffix in TEXTS:
        try:
            sample.texts[suffix] = content.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{shard}: member '{sample.key}{suffix}' is not UTF-8 ({error.reason})") from error
        return
    name = f"{number:06d}{suffix}"
    with (part / name).open("wb") as file:
        shutil.copyfileobj(content, file)
    sample.media[suffix] = name


def told(shard: Path, sample: Sample) -> dict[str, Any]:
    """The object in the sample's ``.json``, an empty one if it has none. UserError if it is malformed."""
    try:
        found = json.loads(sample.texts.get(".json", "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shard}: member '{sample.key}.json' is malformed JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{shard}: member '{sample.key}.json' must be a JSON object")
    return found
