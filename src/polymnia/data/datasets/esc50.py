"""ESC-50: 2,000 environmental recordings of five seconds, fifty classes, five folds that share no source recording.

Where to get it: https://github.com/karolpiczak/ESC-50 (Karol J. Piczak, 2015).
Licence: CC BY-NC 3.0 (the ESC-10 part: CC BY 3.0).
Layout: ``root/audio/1-100032-A-0.wav`` and ``root/meta/esc50.csv`` (filename, fold, target, category, esc10, src_file,
take). The root is the folder ``ESC-50-master`` of the archive.
Keys: ``test_fold`` (1; ``all`` for zero-shot on all clips) and ``valid_fold`` are held out; ``esc10: true`` takes the
ten classes of ESC-10 alone; ``templates`` and ``names`` make the captions.

Clips of a class are positives of each other and come in target order, so the order in which classes first appear is
the official one. ``src_file`` is the Freesound id of the recording that a clip was cut from.
"""

from __future__ import annotations

from polymnia.data.folds import FoldsConfig
from polymnia.data.items import check
from polymnia.data.layout import Clips, find_root
from polymnia.data.official import read_rows, require_a_clip, stem, whole
from polymnia.data.table import Row
from polymnia.types import AudioFile, Item

COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")


class Config(FoldsConfig):
    """``esc10``: only the clips that ESC-10 has too."""

    esc10: bool = False


def items(cfg: Config) -> list[Item]:
    """One item a row of the table, in target order; missing recordings stay in.

    Raises UserError for a root without the layout, a table of another version, or no recording at all.
    """
    what = f"ESC-50 at {cfg.root}"
    rows = list(read_rows(find_root(cfg.root, ("meta/esc50.csv", "audio"), "ESC-50") / "meta/esc50.csv", COLUMNS))
    rows = [row for row in rows if not cfg.esc10 or row.word("esc10").lower() == "true"]
    rows.sort(key=lambda row: (whole(row, "target"), row.word("filename")))
    cfg.check_folds((whole(row, "fold") for row in rows), what)
    cfg.check_names((row.word("category") for row in rows), what)
    clips = Clips([cfg.root / "audio"])
    found = check([_item(cfg, clips, row) for row in rows], what)
    require_a_clip(found, [cfg.root / "audio"], what)
    return found


def _item(cfg: Config, clips: Clips, row: Row) -> Item:
    name, category, fold = stem(row, "filename"), row.word("category"), whole(row, "fold")
    return cfg.item(AudioFile(clips.path(name)), name, category, fold, f"freesound:{row.word('src_file')}")
