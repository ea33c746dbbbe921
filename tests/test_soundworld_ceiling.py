"""How far ambiguous captions let retrieval go, against worlds small enough to do it by hand."""

import json
from pathlib import Path

import pytest

from polymnia.data.synth import world
from polymnia.types import AudioFile, Item, UserError


def by_hand(home: Path, scenes: list[tuple[tuple[str, ...], list[tuple[str, ...]]]]) -> list[Item]:
    entries = [
        {"id": str(n), "captions": [{"text": " ".join(says), "says": says} for says in captions]}
        for n, (_, captions) in enumerate(scenes)
    ]
    (home / "scenes.json").write_text(json.dumps({"scenes": entries}))
    return [
        Item(str(n), {"audio": AudioFile(home / "audio" / f"{n}.wav")}, group=str(n), labels=labels)
        for n, (labels, _) in enumerate(scenes)
    ]


def test_the_ceiling_is_the_one_computed_by_hand(tmp_path):
    dog, cat, low, high = "family:dog", "family:cat", "pitch:low", "pitch:high"
    scenes = [
        ((dog, low), [(dog,), (dog, low)]),  # fit 2 and 1 of the three items
        ((dog, high), [(dog,), (dog,)]),  # fit 2 and 2
        ((cat, low), [(cat,), (cat, low)]),  # fit 1 and 1
    ]
    scores = world.ceiling(by_hand(tmp_path, scenes), (1, 2))
    assert scores["text>audio/R@1"] == pytest.approx(100 * (1 / 2 + 1 + 1 / 2 + 1 / 2 + 1 + 1) / 6)
    assert scores["text>audio/R@2"] == 100
    # item 0: its unique caption is first; item 1: one of three tied captions is not its own; item 2: both are unique
    assert scores["audio>text/R@1"] == pytest.approx(100 * (1 + 2 / 3 + 1) / 3)
    assert scores["audio>text/R@2"] == 100
    assert {k.replace("image", "audio"): v for k, v in scores.items() if "image" in k}.items() <= scores.items()


def test_captions_that_say_everything_have_a_ceiling_of_a_hundred(tmp_path):
    tags = [(f"family:{f}", f"pitch:{p}") for f in "ab" for p in "cd"]
    assert set(world.ceiling(by_hand(tmp_path, [(t, [t]) for t in tags])).values()) == {100.0}


def test_indistinguishable_items_are_found_at_chance(tmp_path):
    same = [(("family:a",), [("family:a",)])] * 4
    scores = world.ceiling(by_hand(tmp_path, same), (1, 3))
    assert scores["text>audio/R@1"] == scores["audio>text/R@1"] == pytest.approx(25)
    assert scores["text>audio/R@3"] == scores["audio>text/R@3"] == pytest.approx(75)


def test_the_ceiling_of_other_data_is_refused(tmp_path):
    stranger = Item("x", {"audio": AudioFile(tmp_path / "audio" / "x.wav")}, group="x")
    with pytest.raises(UserError, match="not an item of soundworld"):
        world.ceiling([stranger])
