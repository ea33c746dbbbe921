"""Clotho v2.1: 5,929 Freesound clips of 15 to 30 s, each with five captions of eight to twenty words.

Where to get it: Zenodo 4783391 (Drossos, Lipping, Virtanen, ICASSP 2020); unpack the 7z archives.
Licence: Tampere University's, non-commercial research with attribution; each clip has its own from Freesound.
Layout: ``root/development``, ``root/validation``, ``root/evaluation`` with the recordings, beside them
``clotho_captions_<split>.csv`` (file_name, caption_1 to caption_5) and ``clotho_metadata_<split>.csv`` (file_name,
sound_id, ...; ISO-8859-1). Or as aac-datasets leaves it: ``root`` is its folder ``CLOTHO_v2.1``, with
``clotho_audio_files/<split>`` and ``clotho_csv_files``.
Keys: ``parts`` (which of the three are read), ``punctuation: false`` drops the marks, ``origins: false`` does without
the metadata tables, so that leaks between this set and other Freesound sets cannot be found.

development is train, validation is valid, evaluation is test (5,225 captions of 1,045 clips: queries of the published
scores). Names hold spaces and other odd characters; an archive program that changed their Unicode form is forgiven.
``sound_id`` is the Freesound id; where the authors wrote "Not found", the origin is unknown.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

from pydantic import Field

from polymnia.data.captions import clean
from polymnia.data.items import DatasetConfig, check
from polymnia.data.layout import Clips
from polymnia.data.official import LATIN, find_layout, read_rows, require_a_clip, stem
from polymnia.data.table import Row
from polymnia.types import AudioFile, Captions, Item, Split

Part = Literal["development", "validation", "evaluation"]
SPLITS: dict[str, Split] = {"development": "train", "validation": "valid", "evaluation": "test"}
TABLES, AUDIO = "clotho_csv_files", "clotho_audio_files"  # of aac-datasets
CAPTIONS = tuple(f"caption_{n}" for n in range(1, 6))


class Config(DatasetConfig):
    """``parts``: what is read; ``punctuation``: keep the marks; ``origins``: read the Freesound ids."""

    parts: tuple[Part, ...] = Field(default=("development", "validation", "evaluation"), min_length=1)
    punctuation: bool = True
    origins: bool = True


def items(cfg: Config) -> list[Item]:
    """One item a clip, with its five captions, in the order of the tables; missing recordings stay in.

    Raises UserError for a root without the layout, a table of another version, or no recording at all.
    """
    flat = [f"clotho_captions_{part}.csv" for part in cfg.parts]
    layouts = [[*flat, *cfg.parts], [f"{TABLES}/{name}" for name in flat] + [f"{AUDIO}/{part}" for part in cfg.parts]]
    number = find_layout(cfg.root, layouts, "Clotho")
    tables, audio = ((cfg.root, cfg.root), (cfg.root / TABLES, cfg.root / AUDIO))[number]
    found = [item for part in cfg.parts for item in _part(cfg, tables, audio, part)]
    what = f"Clotho at {cfg.root}"
    require_a_clip(check(found, what), [audio / part for part in cfg.parts], what)
    return found


def _part(cfg: Config, tables: Path, audio: Path, part: Part) -> list[Item]:
    origins = _origins(tables / f"clotho_metadata_{part}.csv") if cfg.origins else None
    clips = Clips([audio / part])
    found = []
    for row in read_rows(tables / f"clotho_captions_{part}.csv", ("file_name", *CAPTIONS)):
        name = stem(row, "file_name")
        if origins is not None and _plain(name) not in origins:
            raise row.fault(f"'{name}' is not in clotho_metadata_{part}.csv; origins: false does without that table")
        sound = origins[_plain(name)] if origins else ""
        path = clips.path(name, name.strip(), *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        key = f"{part}/{name}"
        sources = {"audio": AudioFile(path), "text": Captions(_texts(cfg, row))}
        # some ids are "Not found"
        found.append(
            Item(key, sources, key, split=SPLITS[part], origin=(f"freesound:{sound}",) if sound.isdigit() else ())
        )
    return found


def _texts(cfg: Config, row: Row) -> tuple[str, ...]:
    texts = tuple(clean(row.word(key), cfg.punctuation) for key in CAPTIONS)
    if not all(texts):
        raise row.fault("an empty caption: every clip has five")
    return texts


def _origins(table: Path) -> dict[str, str]:
    rows = read_rows(table, ("file_name", "sound_id"), encodings=LATIN)
    return {_plain(stem(row, "file_name")): row.word("sound_id") for row in rows}


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()
