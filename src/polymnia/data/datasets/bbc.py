"""BBC Sound Effects: about 32,000 archive recordings (seconds to many minutes), in its two captioned forms.

Where to get it: https://sound-effects.bbcrewind.co.uk; the captions of ``form: wavcaps`` at Hugging Face,
cvssp/WavCaps (Mei et al., 2023), those of ``form: sounddescs`` at github.com/akoepke/audio-retrieval-benchmark
(Koepke et al., 2022).
Licence: RemArc of the BBC, non-commercial use; WavCaps' captions for academic use.
Layout, ``wavcaps`` (31,201 clips): ``root/json_files/BBC_Sound_Effects/bbc_final.json`` and the unpacked recordings in
``root/Audio/BBC_Sound_Effects`` or another of ``audio``, or ``root/bbc_final.json`` beside them; ``<id>.flac``.
Layout, ``sounddescs`` (32,979): ``root/sounddescs_data/descriptions.pkl`` and ``categories.pkl``, the recordings in
``root/audios/<id>/<id>.wav`` or ``root/audios/<id>.wav``, and the split lists ``train_list.txt``, ``val_list.txt``,
``test_list.txt`` in ``root/data/SoundDescs``, where they are.
Keys: ``form``; ``audio``, the folders that hold ``<id>.flac`` or ``.wav``; ``test_count`` and ``valid_count``, or
``test_share`` and ``valid_share``, where there are no lists; ``punctuation: false`` drops the marks.

The pickles are read as plain data; one that could run a program is refused. Ids differ in case between the forms:
``origin`` is ``bbc:<id in lower case>`` in both. A file that is described twice, in whatever case, is one item with
both captions. ``topic`` is the (first) category.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from polymnia.data.captions import clean
from polymnia.data.items import check
from polymnia.data.layout import Clips, find_root
from polymnia.data.official import find_layout, read_json, read_text, require_a_clip, stem
from polymnia.data.pickles import read_plain
from polymnia.data.shares import CountsConfig
from polymnia.data.table import Row
from polymnia.types import AudioFile, Captions, Item, Split, UserError

JSON = ("json_files/BBC_Sound_Effects/bbc_final.json", "bbc_final.json")
LISTS: dict[str, Split] = {"train_list.txt": "train", "val_list.txt": "valid", "test_list.txt": "test"}
Told = tuple[Row, str, tuple[str, ...], str]  # where, id, captions, category


class Config(CountsConfig):
    """``form``: whose captions; ``audio``: folders below ``root``, the first that has a clip wins."""

    form: Literal["wavcaps", "sounddescs"] = "wavcaps"
    audio: tuple[str, ...] = (
        *(
            f"{above}BBC_Sound_Effects{tail}"
            for above in ("Audio/", "audio/", "", "waveforms/")
            for tail in ("", "_flac")
        ),
        *("audios", "audio"),
    )
    punctuation: bool = True


def items(cfg: Config) -> list[Item]:
    """One item a described clip, in the order of the file; missing recordings stay in.

    Raises UserError for a root without the layout, a file of another version, or no recording at all.
    """
    what = f"BBC Sound Effects ({cfg.form}) at {cfg.root}"
    told = _joined(_wavcaps(cfg.root) if cfg.form == "wavcaps" else _sounddescs(cfg.root))
    lists = _lists(cfg.root) if cfg.form == "sounddescs" else {}
    if lists and cfg.holds_out:
        raise UserError(f"{what} has split lists: leave out test_share, test_count and so on, or the lists")
    folders = [cfg.root / name for name in cfg.audio]
    clips = Clips(folders)
    nested = {path.name for path in (cfg.root / "audios").glob("*/")}
    if lists:
        told = {low: one for low, one in told.items() if low in lists}
    splits = [lists[low] for low in told] if lists else cfg.draw(list(told), what)
    found = [_item(cfg, one, split, clips, nested) for one, split in zip(told.values(), splits, strict=True)]
    if unknown := lists.keys() - {item.id.lower() for item in found}:
        raise UserError(f"{what}: the split lists name {len(unknown)} clips without description, say {min(unknown)}")
    require_a_clip(check(found, what), folders, what)
    return found


def _joined(told: Iterable[Told]) -> dict[str, Told]:
    """What is told of each file, by its id in lower case."""
    found: dict[str, Told] = {}
    for row, name, texts, category in told:
        first = found.get(name.lower(), (row, name, (), category))
        both = tuple(dict.fromkeys((*first[2], *texts)))
        found[name.lower()] = (first[0], first[1], both, first[3] or category)
    return found


def _item(cfg: Config, told: Told, split: Split, clips: Clips, nested: Container[str]) -> Item:
    row, name, texts, category = told
    texts = tuple(filter(None, (clean(text, cfg.punctuation) for text in texts)))
    if not texts:
        raise row.fault("the clip has no caption")
    low = name.lower()
    path = cfg.root / "audios" / low / f"{low}.wav" if low in nested else clips.path(name, low, name.upper())
    return Item(
        name,
        {"audio": AudioFile(path), "text": Captions(texts)},
        group=name,
        topic=category,
        split=split,
        origin=(f"bbc:{low}",),
    )


def _wavcaps(root: Path) -> Iterator[Told]:
    path = root / JSON[find_layout(root, [(name,) for name in JSON], "BBC Sound Effects (wavcaps)")]
    data = read_json(path).get("data")
    if not isinstance(data, list):
        raise UserError(f"{path}: expected a list 'data', as in WavCaps' bbc_final.json")
    for number, cells in enumerate(data, start=1):
        row = Row(f"{path}, entry {number}", cells if isinstance(cells, dict) else {})
        if missing := {"id", "caption"} - row.cells.keys():
            found = ", ".join(row.cells) or "nothing"
            raise row.fault(f"no {' and '.join(sorted(missing))}; found: {found}; expected: id, caption, category")
        row.cells["id"] = row.word("id")
        yield row, stem(row, "id"), _texts(row, row.cells["caption"]), _first(row, row.cells.get("category"))


def _sounddescs(root: Path) -> Iterator[Told]:
    names = ("sounddescs_data/descriptions.pkl", "sounddescs_data/categories.pkl")
    find_root(root, names, "BBC Sound Effects (sounddescs)")
    texts, categories = (read_plain(root / name) for name in names)
    for name, value in zip(names, (texts, categories), strict=True):
        if not isinstance(value, dict):
            raise UserError(f"{root / name}: expected a dict from id to text, found a {type(value).__name__}")
    for key, text in texts.items():
        row = Row(f"{root / names[0]}, clip {key}", {"id": key})
        yield row, stem(row, "id"), _texts(row, text), _first(row, categories.get(key))


def _texts(row: Row, value: Any) -> tuple[str, ...]:
    texts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise row.fault("a caption must be a text, or a list of texts")
    return tuple(texts)


def _first(row: Row, value: Any) -> str:
    names: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    first = names[0] if names else None
    if first is not None and not isinstance(first, str):
        raise row.fault(f"a category must be a text, not a {type(first).__name__}")
    return (first or "").strip()


def _lists(root: Path) -> dict[str, Split]:
    folder = root / "data" / "SoundDescs"
    if not folder.is_dir():
        return {}
    found: dict[str, Split] = {}
    for name, split in LISTS.items():
        for line in read_text(folder / name).split():
            if found.setdefault(line.lower(), split) != split:
                raise UserError(f"{folder / name}: {line} is in two splits")
    return found
