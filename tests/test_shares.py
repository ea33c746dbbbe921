"""Splits of sets that have no official ones: held out by share or by number, always the same ones."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from conformance.archive_miniatures import bbc, sound, sounddescs, write
from conformance.online_miniatures import VIDEOS, wavcaps
from pydantic import ValidationError

from polymnia.config import find
from polymnia.data.shares import CountsConfig
from polymnia.types import Captions, Item, UserError

KEYS = [f"clip {n}" for n in range(50)]


def config(**keys: Any) -> CountsConfig:
    return CountsConfig(root=Path(), **keys)


def read(name: str, **keys: Any) -> list[Item]:
    module = find("data.datasets", name)
    return module.items(module.Config(**keys))


def by_hash(keys: list[str]) -> list[str]:
    """In the order of the first six bytes of BLAKE2b, as one number."""
    return sorted(keys, key=lambda key: blake2b(key.encode(), digest_size=6).hexdigest())


def test_exactly_so_many_items_are_held_out_in_the_order_of_their_hashes() -> None:
    of = dict(zip(KEYS, config(test_count=7, valid_count=5).draw(KEYS, "a set"), strict=True))
    order = by_hash(KEYS)
    assert {k for k, split in of.items() if split == "test"} == set(order[:7])
    assert {k for k, split in of.items() if split == "valid"} == set(order[7:12])
    assert Counter(of.values()) == {"test": 7, "valid": 5, "train": 38}


def test_the_order_of_the_table_does_not_matter() -> None:
    cfg = config(test_count=9, valid_count=9)
    backwards = cfg.draw(KEYS[::-1], "a set")
    assert cfg.draw(KEYS, "a set") == backwards[::-1]


def test_more_test_items_are_those_of_fewer_and_others() -> None:
    few, many = (config(test_count=n).draw(KEYS, "a set") for n in (5, 10))
    assert {i for i, s in enumerate(few) if s == "test"} < {i for i, s in enumerate(many) if s == "test"}


def test_items_of_one_key_are_counted_one_by_one() -> None:
    assert Counter(config(test_count=2).draw(["a", "a", "a"], "a set")) == {"test": 2, "train": 1}


def test_without_counts_the_shares_hold() -> None:
    cfg = config(test_share=0.3, valid_share=0.2)
    assert cfg.draw(KEYS, "a set") == [cfg.drawn(key) for key in KEYS]
    assert set(config().draw(KEYS, "a set")) == {"train"}


def test_counts_that_leave_nothing_to_train_on_are_refused_with_the_number_of_items() -> None:
    with pytest.raises(UserError, match="a set: test_count 30 and valid_count 20 leave nothing .* its 50 items"):
        config(test_count=30, valid_count=20).draw(KEYS, "a set")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"test_count": 5, "valid_share": 0.1}, "not both kinds"),
        ({"test_count": -1}, "greater than or equal to 0"),
        ({"test_share": 0.6, "valid_share": 0.6}, "more than 1"),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**keys)


# ---------------------------------------------------------------- the sets of TAIL


def test_wavcaps_holds_out_a_number_of_what_the_blacklist_leaves(tmp_path: Path) -> None:
    settings = wavcaps(tmp_path) | {"sources": ("AudioSet_SL",)}
    left = by_hash([f"y{video.lower()}" for video in VIDEOS[1:3]])  # all_ac names the first of the three
    found = read("wavcaps", **settings, exclude=("all_ac",), test_count=1)
    assert {i.id.lower(): i.split for i in found} == {
        f"audioset_sl/{left[0]}": "test",
        f"audioset_sl/{left[1]}": "train",
    }
    with pytest.raises(UserError, match="leave nothing to train on of its 2 items"):
        read("wavcaps", **settings, exclude=("all_ac",), test_count=1, valid_count=1)


def many(folder: Path, ids: list[str]) -> dict[str, Any]:
    """A BBC of WavCaps with a description for each of ``ids``, and the recordings of some of them."""
    settings = bbc(folder)
    told = [{"id": name, "caption": f"Sound {n}, near.", "category": "Nature"} for n, name in enumerate(ids)]
    write(folder / "json_files/BBC_Sound_Effects/bbc_final.json", json.dumps({"data": told}))
    for name in ids[::2]:
        sound(folder / f"Audio/BBC_Sound_Effects/{name}.flac", 32000)
    return settings


def test_bbc_holds_out_the_same_recordings_as_wavcaps_whatever_is_on_the_disk(tmp_path: Path) -> None:
    ids = [f"NHU{n:08d}" for n in range(20)]
    settings = many(tmp_path, ids) | {"test_count": 4, "valid_count": 3}
    as_bbc = {i.id: i.split for i in read("bbc", **settings)}
    assert Counter(as_bbc.values()) == {"test": 4, "valid": 3, "train": 13}
    as_wavcaps = read("wavcaps", **settings, sources=("BBC_Sound_Effects",))
    assert {i.id.partition("/")[2]: i.split for i in as_wavcaps} == as_bbc


def test_bbc_has_a_file_that_is_described_twice_once_with_both_captions(tmp_path: Path) -> None:
    settings = many(tmp_path, ["NHU1", "07066104", "nhu1", "NHU1"])
    found = read("bbc", **settings, punctuation=False)
    assert [i.id for i in found] == ["NHU1", "07066104"]
    assert [i.sources["text"] for i in found] == [
        Captions(("sound 0 near", "sound 2 near", "sound 3 near")),
        Captions(("sound 1 near",)),
    ]


def test_bbc_with_official_lists_takes_no_counts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has split lists: leave out"):
        read("bbc", **sounddescs(tmp_path), test_count=1)
