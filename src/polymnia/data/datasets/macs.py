"""MACS: 3,930 ten-second recordings of airports, parks and squares, two to five captions each by different people.

Where to get it: captions Zenodo 5114771 (Martin-Morato and Mesaros, 2021); recordings: the development set of TAU
Urban Acoustic Scenes 2019, Zenodo 2589280.
Licence: non-commercial, with attribution (captions and recordings).
Layout: ``root/MACS.yaml`` (a list ``files`` of filename and annotations: annotator_id, sentence, tags) beside TAU's
unpacked folder ``TAU-urban-acoustic-scenes-2019-development`` with ``audio`` and the tab-separated ``meta.csv``
(filename, scene_label, identifier, source_label). Or as aac-datasets leaves it: ``root`` is its folder ``MACS``, with
``audio`` and ``tau_meta/meta.csv``. ``MACS_competence.csv`` is not read. The recordings are stereo, mixed to mono.
Keys: ``valid_share`` (0.05) and ``test_share`` (0) of the places, since there is no official split; ``punctuation:
false`` drops the marks.

The split is drawn by ``identifier`` (city and place), so no place is in two splits. ``topic`` is the scene, ``labels``
are the tags that any annotator gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from polymnia.data.captions import clean
from polymnia.data.items import check
from polymnia.data.layout import Clips
from polymnia.data.official import find_layout, read_rows, read_text, require_a_clip, stem
from polymnia.data.shares import SharesConfig
from polymnia.data.table import Row
from polymnia.types import AudioFile, Captions, Item, UserError

TAU = "TAU-urban-acoustic-scenes-2019-development"
# the folder of the recordings, and TAU's table
LAYOUTS = ((f"{TAU}/audio", f"{TAU}/meta.csv"), ("audio", "tau_meta/meta.csv"), ("audio", "meta.csv"))
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # five times as fast as pure Python (measured)


class Config(SharesConfig):
    """The shares of places that are held out; ``punctuation``: keep the marks."""

    valid_share: float = Field(default=0.05, ge=0, le=1)
    punctuation: bool = True


def items(cfg: Config) -> list[Item]:
    """One item a file of ``MACS.yaml``, in its order; missing recordings stay in.

    Raises UserError for a root without the layout, a table of another version, or no recording at all.
    """
    number = find_layout(cfg.root, [("MACS.yaml", *layout) for layout in LAYOUTS], "MACS")
    audio, table = (cfg.root / name for name in LAYOUTS[number])
    columns = ("filename", "scene_label", "identifier")
    places = {Path(row.word("filename")).stem: row for row in read_rows(table, columns, delimiter="\t")}
    clips = Clips([audio])
    told = _files(cfg.root / "MACS.yaml")
    found = check([_item(cfg, row, places, table, clips) for row in told], f"MACS at {cfg.root}")
    require_a_clip(found, [audio], f"MACS at {cfg.root}")
    return found


def _files(path: Path) -> list[Row]:
    text = read_text(path)
    try:
        found = yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: malformed YAML: {error}") from error
    files = found.get("files") if isinstance(found, dict) else None
    if not isinstance(files, list):
        raise UserError(f"{path}: expected a list 'files' at the top; it may be another version of the data set")
    rows = [Row(f"{path}, file {number}", cells) for number, cells in enumerate(files, start=1)]
    for row in rows:
        if not isinstance(row.cells, dict) or {"filename", "annotations"} - set(row.cells):
            raise row.fault("expected the keys filename and annotations")
    return rows


def _item(cfg: Config, row: Row, places: Mapping[str, Row], table: Path, clips: Clips) -> Item:
    name = stem(row, "filename")
    if name not in places:
        raise row.fault(f"'{name}' is not in {table}: is that the table of TAU Urban Acoustic Scenes 2019?")
    scene, identifier = places[name].word("scene_label"), places[name].word("identifier")
    notes = row.cells["annotations"]
    if not isinstance(notes, list) or not all(isinstance(note, dict) for note in notes):
        raise row.fault("annotations must be a list of {annotator_id, sentence, tags}")
    texts = tuple(filter(None, (clean(_sentence(row, note), cfg.punctuation) for note in notes)))
    if not texts:
        raise row.fault("no annotator wrote a sentence")
    tags = [tag for note in notes for tag in note.get("tags") or () if isinstance(tag, str)]
    return Item(
        name,
        {
            "audio": AudioFile(clips.path(name)),
            "text": Captions(texts),
        },
        group=name,
        topic=scene,
        split=cfg.drawn(identifier),
        labels=tuple(dict.fromkeys(tags)),
    )


def _sentence(row: Row, note: Mapping[str, Any]) -> str:
    sentence = note.get("sentence")
    if not isinstance(sentence, str):
        raise row.fault(f"sentence must be a text, not a {type(sentence).__name__}")
    return sentence
