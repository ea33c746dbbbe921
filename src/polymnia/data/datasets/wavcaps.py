"""WavCaps: 403 thousand recordings of four sources, with captions that a language model made of descriptions.

Where to get it: https://huggingface.co/datasets/cvssp/WavCaps (Mei et al., 2023): ``json_files`` and ``Zip_files``.
Licence: academic use only; the recordings have licences of their own.
Layout: ``root/json_files/<source>/*_final.json``, ``root/json_files/blacklist/*.json`` and, unpacked,
``root/Audio/<source>/<id>.flac`` (or ``root/<source>``, ``root/waveforms/<source>_flac``), where ``<source>`` is
AudioSet_SL, BBC_Sound_Effects, FreeSound or SoundBible.

There is no official split. Much of what others test on is in here, so choose a blacklist: ``exclude: [all_ac]`` keeps
out AudioCaps and Clotho, ``test_ac`` their test sets, ``ub8k_esc50_vggsound`` what its name says. ``origin`` and the
split of a recording of the BBC are as in the data set ``bbc``. ``test_count`` and ``valid_count`` recordings, or
shares, are held out of what the blacklists leave.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from polymnia.data.captions import clean
from polymnia.data.items import OnlineConfig, check
from polymnia.data.layout import Clips, find_root
from polymnia.data.official import read_json
from polymnia.data.online import FILM, Media, seconds, youtube
from polymnia.data.shares import CountsConfig
from polymnia.data.table import Row
from polymnia.types import Captions, Item, Modality, Split, UserError, VideoFile
from polymnia.types import Source as Medium

Source = Literal["AudioSet_SL", "BBC_Sound_Effects", "FreeSound", "SoundBible"]
FILES: dict[Source, str] = {
    "AudioSet_SL": "as_final.json",
    "BBC_Sound_Effects": "bbc_final.json",
    "FreeSound": "fsd_final.json",
    "SoundBible": "sb_final.json",
}
SITES = {"BBC_Sound_Effects": "bbc", "FreeSound": "freesound", "SoundBible": "soundbible"}
LISTED: dict[str, Source] = {"AudioSet": "AudioSet_SL", **{source: source for source in FILES}}  # keys of a blacklist
NAME = re.compile(r"[A-Za-z0-9_-]+")
SPELLINGS = ("{}", "blacklist_exclude_{}", "blacklist_{}")
ABOVE = ("Audio", "audio", ".", "waveforms")


class Config(CountsConfig, OnlineConfig):
    """``exclude`` names blacklists of the set (with or without ``blacklist_exclude_``) or JSON files under ``root``.

    Recordings longer than ``max_seconds`` are left out (FreeSound has some of hours, 1.4 TB in all). ``videos`` is a
    folder under ``root`` with AudioSet's clips as videos, ``Y<id>.mp4`` or ``<id>.mp4``, cut to the same ten seconds:
    those items then have pictures. Captions are in lower case with mended spaces; ``punctuation: false`` drops marks.
    """

    sources: tuple[Source, ...] = Field(tuple(FILES), min_length=1)
    exclude: tuple[str, ...] = ()
    max_seconds: float | None = Field(None, gt=0)
    videos: str | None = None
    punctuation: bool = True

    @model_validator(mode="after")
    def _sources_make_sense(self) -> Config:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("a source stands twice in sources")
        if self.videos is not None and "AudioSet_SL" not in self.sources:
            raise ValueError("videos: only AudioSet_SL has any, and sources leaves it out")
        return self


def items(cfg: Config) -> list[Item]:
    """One item a recording, source by source in the order of the files.

    Raises UserError for a file that is missing, malformed or too large, an unknown blacklist, and a source of which
    no recording is there.
    """
    root = find_root(cfg.root, [f"json_files/{source}/{FILES[source]}" for source in cfg.sources], "WavCaps")
    banned = {pair for chosen in cfg.exclude for pair in _blacklist(root, chosen)}
    told = [(source, row) for source in cfg.sources for row in _wanted(cfg, root, source, banned)]
    splits = cfg.draw([row.word("id").lower() for _, row in told], f"WavCaps at {root}")
    found = []
    for source in cfg.sources:
        places = [f"{above}/{source}{tail}" for above in ABOVE for tail in ("", "_flac")]
        sound = Media(root, places, f"WavCaps ({source})")
        films = _films(root / cfg.videos) if cfg.videos is not None and source == "AudioSet_SL" else None
        own = [(row, split) for (of, row), split in zip(told, splits, strict=True) if of == source]
        found += [_item(cfg, source, row, split, sound, films) for row, split in own]
        sound.require_some("<id>")
    return check(found, f"WavCaps at {root}")


def _films(folder: Path) -> Clips:
    found = Clips([folder], FILM)
    if not len(found):
        raise UserError(f"videos: there is no video ({', '.join(FILM)}) in {folder}; is it the folder of the clips?")
    return found


def _bare(name: str) -> str:
    return name.removesuffix(".wav")


def _blacklist(root: Path, chosen: str) -> Iterator[tuple[Source, str]]:
    folder = root / "json_files" / "blacklist"
    # the two public copies of the set spell UrbanSound8K in two ways
    words = (chosen, chosen.replace("ub8k", "ubs8k"), chosen.replace("ubs8k", "ub8k"))
    places = [root / chosen, *(folder / f"{s.format(word)}.json" for s in SPELLINGS for word in words)]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        known = ", ".join(sorted(path.stem for path in folder.glob("*.json"))) or "none"
        raise UserError(
            f"exclude: there is no '{chosen}' in {root}, nor a blacklist of that name in {folder}: {known}"
        )
    for key, ids in read_json(file).items():
        if key not in LISTED or not isinstance(ids, list):
            raise UserError(f"{file}: '{key[:40]}' where lists of ids for some of {', '.join(LISTED)} are expected")
        yield from ((LISTED[key], _bare(str(name))) for name in ids)


def _wanted(cfg: Config, root: Path, source: Source, banned: Container[tuple[Source, str]]) -> Iterator[Row]:
    for row in _entries(root / "json_files" / source / FILES[source]):
        if (source, row.word("id")) in banned:
            continue
        if cfg.max_seconds is None or seconds(str(row.cells.get("duration")), row.where) <= cfg.max_seconds:
            yield row


def _entries(table: Path) -> Iterator[Row]:
    data = read_json(table).get("data")
    if not isinstance(data, list):
        raise UserError(f"{table}: an object with a list 'data' is expected; is this another version?")
    for number, cells in enumerate(data, start=1):
        row = Row(f"{table}, entry {number}", cells if isinstance(cells, dict) else {})
        if "id" not in row.cells:
            raise row.fault("an object with an id and a caption is expected; is this another version?")
        row.cells["id"] = _bare(row.word("id"))
        if not NAME.fullmatch(row.cells["id"]):
            raise row.fault(f"'{row.cells['id'][:40]}' cannot be the name of a recording")
        yield row


def _item(cfg: Config, source: Source, row: Row, split: Split, sound: Media, films: Clips | None) -> Item:
    name = row.word("id")
    video = name.removeprefix("Y")
    sources: dict[Modality, Medium] = sound.sources([name])
    if films is not None:
        sources["image"] = VideoFile(films.path(name, video))
    sources["text"] = Captions(_captions(cfg, row))
    origin = f"{SITES[source]}:{name.lower()}" if source in SITES else youtube(video, row.where)
    key = f"{source}/{name}"
    return Item(key, sources, group=key, topic=source, split=split, origin=(origin,))


def _captions(cfg: Config, row: Row) -> tuple[str, ...]:
    keys = [key for key in row.cells if re.fullmatch(r"caption(_[1-9]\d?)?", key)]
    texts = tuple(filter(None, (clean(row.word(key), cfg.punctuation) for key in keys)))
    if not texts:
        raise row.fault("no caption; is this another version?")
    return texts
