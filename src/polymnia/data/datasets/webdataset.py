"""Sharded tar files in the WebDataset form, of your own or of others: sounds, pictures and videos with their captions.

Where to get it: you pack it (``tar --sort=name``), or take shards packed for other projects; the licence is theirs.
Layout: ``root/*.tar`` (plain, not compressed); members of one sample share a key, the name up to the first dot:
``<key>.{wav,flac,ogg,opus,mp3}``, ``<key>.{jpg,jpeg,png,webp}``, ``<key>.mp4`` (its frames, and its sound where the
sample has no other), ``<key>.txt`` (a caption), ``<key>.json`` (an object). Other members are ignored.
Keys: ``shards``, ``valid_shards``, ``test_shards`` (names, with ``*`` and braces: ``train-{000..127}.tar``); of the
JSON, ``captions``, ``labels`` and ``topic`` say which keys hold them (a text or a list); ``unpacked``, where the media
go (``.extracted``, below ``root`` or anywhere).

Media are read from files, so the shards are unpacked once, when the items are first asked for; this takes the size of
the shards again on the disk. Where nothing may be left behind (``doctor``, ``--dry-run``) they are unpacked into the
temporary folder, up to 256 MB. Members that are links or lead out of the archive are refused. Items are called
``<shard>/<key>``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from polymnia.data.items import DatasetConfig, check, require
from polymnia.data.tar import PICTURES, SOUNDS, VIDEOS, Sample, place, samples, told, unpack
from polymnia.types import AudioFile, Captions, ImageFile, Item, Modality, Source, Split, UserError, VideoFile

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_SHARDS = 100_000
MAX_ASIDE = 1 << 28  # bytes of shards that are unpacked only to look into them


class Config(DatasetConfig):
    """Patterns below ``root`` for each split, and the keys of a sample's JSON that are read."""

    shards: str = "*.tar"
    valid_shards: str = ""
    test_shards: str = ""
    captions: tuple[str, ...] = ("text", "caption", "captions")
    labels: tuple[str, ...] = ("labels", "tag", "tags")
    topic: str = "topic"
    unpacked: Path = Path(".extracted")
    max_bytes: int | None = Field(None, exclude=True)  # of shards still to be unpacked; decides no result


def items(cfg: Config) -> list[Item]:
    """One item a sample that has a medium or a caption, shard by shard; unpacks what is not unpacked yet.

    Raises UserError for shards that are missing, malformed or unsafe, and for samples without anything of ours.
    """
    root = require(cfg.root, "the folder of the shards")
    patterns: dict[Split, str] = {"train": cfg.shards, "valid": cfg.valid_shards, "test": cfg.test_shards}
    found: list[Item] = []
    owner: dict[Path, Split] = {}
    for split, pattern in patterns.items():
        for shard in _shards(root, pattern) if pattern else ():
            if shard in owner:
                raise UserError(f"{shard} is in two splits, {owner[shard]} and {split}")
            owner[shard] = split
    _refuse_large(cfg, root, owner)
    for shard, split in owner.items():
        found += _items(cfg, root, shard, split)
    return check(found, f"the shards in {root}")


def elsewhere(cfg: Config, folder: Path) -> Config:
    """Settings under which ``items`` writes into ``folder`` alone, and not much; what is unpacked already is linked
    there."""
    folder.mkdir(parents=True, exist_ok=True)
    for done in sorted((cfg.root / cfg.unpacked).glob("*/")):
        link = folder / done.name
        if not link.exists() and done.suffix != ".part":
            link.symlink_to(done.resolve(), target_is_directory=True)
    return cfg.model_copy(update={"unpacked": folder, "max_bytes": MAX_ASIDE})


def expand(pattern: str) -> Iterator[str]:
    """``a-{00..02}.{tar,tgz}`` without braces: every name it stands for, in order; widths are kept."""
    parts = BRACES.split(pattern)  # text, inside, text, inside, ...
    choices = [_choices(part) if n % 2 else [part] for n, part in enumerate(parts)]
    for number, names in enumerate(itertools.product(*choices)):
        if number >= MAX_SHARDS:
            raise UserError(f"shards: '{pattern}' stands for more than {MAX_SHARDS:,} files")
        yield "".join(names)


def _choices(inside: str) -> list[str]:
    match = RANGE.fullmatch(inside)
    if not match:
        return inside.split(",")
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise UserError(f"shards: '{{{inside}}}' counts down, so it stands for no file; put the smaller number first")
    if last - first >= MAX_SHARDS:
        raise UserError(f"shards: '{{{inside}}}' stands for more than {MAX_SHARDS:,} files")
    return [str(number).zfill(len(match[1])) for number in range(first, last + 1)]


def _shards(root: Path, pattern: str) -> list[Path]:
    if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
        raise UserError(f"shards: '{pattern}' leads out of the data folder {root}")
    found: list[Path] = []
    for name in expand(pattern):
        files = [root / name] if not set(name) & set("*?[") else sorted(root.glob(name))
        files = [path for path in files if path.is_file()]
        if not files:
            near = [folder for folder in (*sorted(root.glob("*/")), root.resolve().parent) if any(folder.glob(name))]
            hint = f"; give {near[0]} as root" if near else ""
            raise UserError(f"no shard '{name}' in {root}{hint} (data=FOLDER, or the set's root; key shards)")
        found += files
    return list(dict.fromkeys(found))


def _refuse_large(cfg: Config, root: Path, shards: Iterable[Path]) -> None:
    """Raises UserError where more is to be unpacked than the settings allow."""
    if cfg.max_bytes is None:
        return
    new = [shard for shard in shards if not place(shard, _name(root, shard), root / cfg.unpacked).is_dir()]
    total = sum(shard.stat().st_size for shard in new)
    if total > cfg.max_bytes:
        raise UserError(
            f"{len(new):,} shards in {root} are not unpacked yet, and hold {total / 1e6:,.0f} MB, more than the "
            f"{cfg.max_bytes / 1e6:,.0f} MB that are unpacked only to look into them; unpack them first, by "
            f"`polymnia data check webdataset {root}` and the set's own keys, if it has any (such as unpacked=FOLDER)"
        )


def _name(root: Path, shard: Path) -> str:
    return shard.relative_to(root).with_suffix("").as_posix()


def _items(cfg: Config, root: Path, shard: Path, split: Split) -> Iterator[Item]:
    name = _name(root, shard)
    folder = unpack(shard, name, root / cfg.unpacked)
    empty = True
    for sample in samples(folder):
        facts = told(shard, sample)
        sources = _sources(cfg, shard, folder, sample, facts)
        if sources:
            empty = False
            key = f"{name}/{sample.key}"
            topic = "".join(_words(shard, sample, facts, (cfg.topic,))[:1])
            yield Item(key, sources, key, topic, split, tuple(_words(shard, sample, facts, cfg.labels)))
    if empty:
        raise UserError(f"{shard} has no member <key>.flac, .wav, .jpg, .mp4, .txt, ... that could be an item")


def _sources(cfg: Config, shard: Path, folder: Path, sample: Sample, facts: dict[str, Any]) -> dict[Modality, Source]:
    files = {suffix: folder / name for suffix, name in sample.media.items()}
    sound = next((files[s] for s in (*SOUNDS, *VIDEOS) if s in files), None)
    picture = next((files[s] for s in PICTURES if s in files), None)
    video = next((files[s] for s in VIDEOS if s in files), None)
    sources: dict[Modality, Source] = {}
    if sound:
        sources["audio"] = AudioFile(sound)
    if picture or video:
        sources["image"] = ImageFile(picture) if picture else VideoFile(video)
    texts = [sample.texts.get(".txt", ""), *_words(shard, sample, facts, cfg.captions)]
    if texts := list(dict.fromkeys(text.strip() for text in texts if text.strip())):
        sources["text"] = Captions(tuple(texts))
    return sources


def _words(shard: Path, sample: Sample, facts: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for key in keys:
        value = facts.get(key)
        words = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(word, str) for word in words):
            raise UserError(f"{shard}: '{key}' of '{sample.key}.json' must be a text or a list of texts")
        found += words
    return found
