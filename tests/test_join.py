"""Joining by topic: who is paired with whom, what a pair keeps, and what cannot be joined."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from polymnia.config import parse_part
from polymnia.data.datasets import join, mnist
from polymnia.types import AudioFile, Captions, ImageFile, Item, UserError

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
Rows = Sequence[dict[str, Any]]


def table(folder: Path, rows: Rows) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def joined(folder: Path, left: Rows, right: Rows, **settings: Any) -> list[Item]:
    table(folder / "left", left)
    table(folder / "right", right)
    part = {"use": "manifest", "file": "manifest.jsonl"}
    raw = {"use": "join", "root": folder, "left": part | {"root": "left"}, "right": part | {"root": "right"}}
    part = parse_part("data.datasets", raw | settings)
    return part.module.items(part.config)


def sounds(count: int, topic: str = "dog", **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"s{i}", "audio": f"{i}.wav", "text": f"bark {i}", "topic": topic} | more for i in range(count)]


def pictures(count: int, topic: str = "dog", **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "image": f"{i}.png", "text": f"fur {i}", "topic": topic} | more for i in range(count)]


def partners(items: Sequence[Item]) -> dict[str, str]:
    return {left: right for left, right in (item.id.split("+") for item in items)}


def test_join_merges_a_pair_and_takes_labels_from_the_left(tmp_path: Path) -> None:
    left = sounds(1, labels="bark", split="test", group="g")
    (item,) = joined(tmp_path, left, pictures(1, split="test"), keep_text="left")
    assert item == Item(
        id="s0+p0",
        sources={
            "audio": AudioFile(tmp_path / "left" / "0.wav"),
            "image": ImageFile(tmp_path / "right" / "0.png"),
            "text": Captions(("bark 0",)),
        },
        group="s0+p0",
        topic="dog",
        split="test",
        labels=("bark",),
    )


def test_join_keeps_the_captions_asked_for(tmp_path: Path) -> None:
    (right,) = joined(tmp_path, sounds(1), pictures(1), keep_text="right")
    assert right.sources["text"] == Captions(("fur 0",))
    (none,) = joined(tmp_path, sounds(1), pictures(1))
    assert set(none.sources) == {"audio", "image"}


def test_join_uses_every_partner_before_any_serves_twice(tmp_path: Path) -> None:
    assert len(set(partners(joined(tmp_path, sounds(8), pictures(9))).values())) == 8
    assert sorted(Counter(partners(joined(tmp_path, sounds(8), pictures(3))).values()).values()) == [2, 3, 3]


def test_join_depends_on_seed_and_ids_but_not_on_the_order_of_rows(tmp_path: Path) -> None:
    left, right = sounds(9), pictures(9)
    first = partners(joined(tmp_path, left, right))
    assert partners(joined(tmp_path, left[::-1], right[3:] + right[:3])) == first
    assert partners(joined(tmp_path, left, right, seed=1)) != first
    assert list(partners(joined(tmp_path, left[::-1], right))) == [row["id"] for row in left[::-1]]


def test_join_never_pairs_across_splits_or_topics(tmp_path: Path) -> None:
    train, test = pictures(4, split="train"), pictures(8, split="test")[4:]
    assert partners(joined(tmp_path, sounds(1, split="test"), train + test))["s0"] in {"p4", "p5", "p6", "p7"}
    with pytest.raises(UserError, match="topic 'dog' of 'manifest' has no partner in the test split.*nothing"):
        joined(tmp_path, sounds(1, split="test"), train)
    with pytest.raises(UserError, match="topic 'dog'.*in the train split.*which has there: cat"):
        joined(tmp_path, sounds(1), pictures(1, topic="cat"))
    with pytest.raises(UserError, match="have no topic"):
        joined(tmp_path, sounds(1, topic=""), pictures(1, topic=""))


def test_join_of_one_modality_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing but audio"):
        joined(tmp_path, sounds(1), sounds(1))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data sets are not at {SHARED}")
def test_join_pairs_every_spoken_digit_with_a_handwritten_one(tmp_path: Path) -> None:
    items = join.items(
        join.Config(root=SHARED, left={"use": "fsdd", "root": "fsdd"}, right={"use": "mnist", "root": "mnist_t10k"})
    )
    assert Counter(item.split for item in items) == {"train": 900, "test": 300}
    assert len(set(partners(items).values())) == 1200
    written = {item.id: item for item in mnist.items(mnist.Config(root=SHARED / "mnist_t10k"))}
    for spoken, picture in partners(items).items():
        assert DIGITS[int(spoken[0])] == written[picture].topic
