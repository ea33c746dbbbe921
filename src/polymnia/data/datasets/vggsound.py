"""VGGSound: 200 thousand videos of ten seconds, in which one can see what makes the sound; 309 classes.

Where to get it: https://www.robots.ox.ac.uk/~vgg/data/vggsound has the table (Chen et al., 2020); everyone fetches the
clips, and a good part of the videos is gone.
Licence: CC BY 4.0 (the table).
Layout: ``root/vggsound.csv``, without header: YouTube id, second at which the clip starts, label (quoted where it has
commas), train or test. Clips ``<id>_<start, six digits>.mp4`` in ``root``, ``root/video`` or the like, or sound alone
in ``root/Wav/{train,test}`` (Wav2CLIP) or ``root/audio``.

An item is a row of the table, missing clips included. Where there is any video, all items have pictures.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import NonNegativeInt

from polymnia.data.items import OnlineConfig, Template, captions, check
from polymnia.data.layout import find_root
from polymnia.data.official import read_rows
from polymnia.data.online import Media, seconds, timed, youtube
from polymnia.data.table import Row
from polymnia.types import Item, UserError

COLUMNS = ("YouTube id", "start", "label", "split")
FOLDERS = ("video", "videos", "Video", "clips", "Wav", "wav", "audio", "Audio", "train", "test", ".")


class Config(OnlineConfig):
    """``valid`` clips are taken from training: the last of the ids in alphabetical order, as Wav2CLIP does.
    ``templates`` make captions of the label; without them items have no text."""

    valid: NonNegativeInt = 500
    templates: tuple[Template, ...] = ()


def items(cfg: Config) -> list[Item]:
    """One item a row, in the order of the table.

    Raises UserError for a table that is missing or of another version, and where not one clip is there.
    """
    root = find_root(cfg.root, ["vggsound.csv"], "VGGSound")
    media = Media(root, FOLDERS, f"VGGSound at {root}", films=True)
    found = [_item(cfg, row, media) for row in read_rows(root / "vggsound.csv", COLUMNS, header=False)]
    media.require_some("<id>_<start>")
    held_out = _last(cfg, [item.id for item in found if item.split == "train"])
    return check([replace(i, split="valid") if i.id in held_out else i for i in found], f"VGGSound at {root}")


def _item(cfg: Config, row: Row, media: Media) -> Item:
    video, label, split = row.word("YouTube id"), row.word("label"), row.word("split")
    if split not in ("train", "test"):
        raise row.fault(f"'{split[:40]}' where train or test is expected; is this another version of the table?")
    origin, start = youtube(video, row.where), seconds(row.word("start"), row.where)
    stem = f"{video}_{start:06.0f}"
    # never the bare id: a file of that name is most likely the whole video
    sources = media.sources([stem, *timed(video, start, start + 10)])
    if cfg.templates:
        sources["text"] = captions(cfg.templates, label)
    return Item(stem, sources, group=stem, topic=label, split=split, labels=(label,), origin=(origin,))


def _last(cfg: Config, stems: list[str]) -> set[str]:
    if cfg.valid and cfg.valid >= len(stems):
        raise UserError(f"valid: {cfg.valid} clips cannot be held out of the {len(stems)} for training")
    return set(sorted(stems)[len(stems) - cfg.valid :])
