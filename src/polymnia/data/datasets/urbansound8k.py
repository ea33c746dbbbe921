"""UrbanSound8K: 8,732 slices of at most four seconds from field recordings, ten classes of urban sound, ten folds.

Where to get it: https://urbansounddataset.weebly.com, Zenodo 1203745 (Salamon, Jacoby, Bello, ACM MM 2014).
Licence: CC BY-NC 3.0.
Layout: ``root/metadata/UrbanSound8K.csv`` (slice_file_name, fsID, start, end, salience, fold, classID, class) and
``root/audio/fold1`` to ``fold10``; sample rates, bit depths and channels are mixed.
Keys: ``test_fold`` (1; ``all`` for zero-shot on all slices) and ``valid_fold`` are held out; ``templates`` and
``names`` make the captions.

Slices of one recording are in one fold: never shuffle the folds. Slices of a class are positives of each other and
come in the order of ``classID``. ``fsID`` is the Freesound id of the recording.
"""

from __future__ import annotations

from collections.abc import Sequence

from polymnia.data.folds import FoldsConfig
from polymnia.data.items import check
from polymnia.data.layout import Clips, find_root
from polymnia.data.official import read_rows, require_a_clip, stem, whole
from polymnia.data.table import Row
from polymnia.types import AudioFile, Item

TABLE = "metadata/UrbanSound8K.csv"
COLUMNS = ("slice_file_name", "fsID", "fold", "classID", "class")


class Config(FoldsConfig):
    """Folds, templates and names; see the top of the file."""


def items(cfg: Config) -> list[Item]:
    """One item a row of the table, in the order of ``classID``; missing recordings stay in.

    Raises UserError for a root without the layout, a table of another version, or no recording at all.
    """
    what = f"UrbanSound8K at {cfg.root}"
    rows = list(read_rows(find_root(cfg.root, (TABLE, "audio"), "UrbanSound8K") / TABLE, COLUMNS))
    rows.sort(key=lambda row: (whole(row, "classID"), row.word("slice_file_name")))
    folds = sorted({whole(row, "fold") for row in rows})
    cfg.check_folds(folds, what)
    cfg.check_names((row.word("class") for row in rows), what)
    _refuse_two_names(rows)
    clips = {fold: Clips([cfg.root / "audio" / f"fold{fold}"]) for fold in folds}
    found = check([_item(cfg, clips[whole(row, "fold")], row) for row in rows], what)
    require_a_clip(found, [cfg.root / "audio" / f"fold{fold}" for fold in folds], what)
    return found


def _refuse_two_names(rows: Sequence[Row]) -> None:
    names: dict[int, str] = {}
    for row in rows:
        first = names.setdefault(whole(row, "classID"), row.word("class"))
        if first != row.word("class"):
            raise row.fault(f"classID {row.word('classID')} is called '{row.word('class')}' here, '{first}' elsewhere")


def _item(cfg: Config, clips: Clips, row: Row) -> Item:
    name, category, fold = stem(row, "slice_file_name"), row.word("class"), whole(row, "fold")
    return cfg.item(AudioFile(clips.path(name)), name, category, fold, f"freesound:{row.word('fsID')}")
