"""Searching an index against numpy: the nearest rows, each item once, filters, several encoders, earlier versions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from index_rows import DIM, card, rows, unit

from polymnia.index.background import Samples
from polymnia.index.hit import Hit
from polymnia.index.rows import sample
from polymnia.index.store import Index
from polymnia.types import UserError

ITEMS = 60
TOPICS = ["rain", "wind", "sea"]


def recordings() -> list[pa.RecordBatch]:
    """Items with a sound of one to four windows, and a caption each; every third has a picture."""
    out = []
    for n in range(ITEMS):
        windows = [-1, *range(n % 4)] if n % 4 > 1 else [-1]
        size = len(windows)
        said: dict[str, Any] = {"topic": TOPICS[n % 3], "duration": float(n), "caption": f"number {n}"}
        places = {"window": windows, "start": [max(0.0, float(w)) for w in windows],
                  "end": [float(w + 1) if w >= 0 else 9.0 for w in windows]}  # fmt: skip
        out.append(rows([f"i{n:02d}"] * size, unit(size, n), **said, **places, source=f"{n}.wav", root="/data"))
        out.append(rows([f"i{n:02d}"], unit(1, 100 + n), modality="text", **said))
        if n % 3 == 0:
            out.append(rows([f"i{n:02d}"], unit(1, 200 + n), modality="image", **said))
    return out


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = Index.create(tmp_path_factory.mktemp("search") / "index", card())
    index.add(recordings(), card())
    return index


Row = dict[str, Any]


@functools.cache
def all_rows() -> list[Row]:
    return [r for batch in recordings() for r in batch.to_pylist()]


def by_hand(query: np.ndarray, passes: Callable[[Row], bool], per_item: bool) -> list[tuple[str, float]]:
    """Keys and cosines of all rows that pass, best first; of an item the best."""
    found = [(r["key"], float(np.dot(r["vector"], query)), r["id"])
             for r in all_rows() if passes(r)]  # fmt: skip
    found.sort(key=lambda f: (-f[1], f[0]))
    seen: set[str] = set()
    return [(key, cosine) for key, cosine, id in found if not per_item or not (id in seen or seen.add(id))]


@pytest.mark.parametrize("per_item", [True, False])
@pytest.mark.parametrize(
    ("asked", "passes"),
    [({}, lambda r: True), ({"modality": "audio"}, lambda r: r["modality"] == "audio"),
     ({"where": "duration < 20 AND topic IN ('rain', 'sea')"}, lambda r: r["duration"] < 20 and r["topic"] != "wind"),
     ({"modality": "image", "where": "window >= 0"}, lambda r: False),
     ({"modality": "audio", "where": "window >= 0"}, lambda r: r["window"] >= 0),
     ({"without": ["i02", "i03"]}, lambda r: r["id"] not in ("i02", "i03")),
     ({"k": 500}, lambda r: True), ({"k": 500, "exact": True}, lambda r: True)],
)  # fmt: skip
def test_hits_are_the_nearest_best_first(index: Index, per_item: bool, asked: dict, passes: Callable[[Row], bool]):
    queries = unit(5, 999)
    found = index.search({"first": queries}, per_item=per_item, **{"k": 7, **asked})
    assert len(found) == 5
    for query, hits in zip(queries, found, strict=True):
        wanted = by_hand(query, passes, per_item)[: asked.get("k", 7)]
        assert [h.key for h in hits] == [key for key, _ in wanted]
        assert [h.cosine for h in hits] == pytest.approx([cosine for _, cosine in wanted], abs=1e-5)
        assert [h.rank for h in hits] == list(range(1, len(wanted) + 1)) and all(h.score == h.cosine for h in hits)


def test_one_query_finds_what_it_finds_among_others(index: Index):
    queries = unit(6, 5)
    together = index.search({"first": queries}, k=4)
    assert together == [index.search({"first": q[None]}, k=4)[0] for q in queries]


def test_a_hit_says_which_window_of_which_file_it_is(index: Index):
    (row,) = index.get(keys=["i07#audio#2"]).to_pylist()
    (hit,) = index.search({"first": np.array([row["vector"]], np.float32)}, k=1)[0]
    assert hit.cosine == pytest.approx(1.0, abs=1e-5)
    assert hit == Hit(
        rank=1, score=hit.cosine, cosine=hit.cosine, id="i07", key="i07#audio#2", modality="audio",
        source="7.wav", root="/data", entry=None, window=2, start=2.0, end=3.0, duration=7.0, caption="number 7",
        topic="wind", task=None, encoder="first", made="embedded", doubt=None,
    )  # fmt: skip


def test_an_item_of_very_many_windows_does_not_crowd_out_others(tmp_path: Path):
    index, near = Index.create(tmp_path / "index", card()), unit(1, 1)
    crowd = near + 0.01 * unit(300, 2)
    crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)
    index.add(
        [rows(["long"] * 300, crowd, window=list(range(300))), rows([f"i{n}" for n in range(9)], unit(9))], card()
    )
    hits = index.search({"first": near}, k=5)[0]
    order = np.argsort(-(unit(9) @ near[0]))[:4]
    assert [h.id for h in hits] == ["long", *(f"i{n}" for n in order)]


# --- several encoders


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, np.ndarray, np.ndarray]:
    """Thirty items by an encoder whose cosines are all near 0.9, thirty by one whose cosines are near 0."""
    narrow = np.ones((30, DIM), np.float32) / 4 + 0.3 * unit(30, 1)
    narrow /= np.linalg.norm(narrow, axis=1, keepdims=True)
    wide = unit(30, 2)
    index = Index.create(tmp_path_factory.mktemp("two") / "index", card())
    index.add([rows([f"n{n:02d}" for n in range(30)], narrow)], card())
    index.add_encoder(card("second", task=2))
    index.add([rows([f"w{n:02d}" for n in range(30)], wide, "second")], card("second", task=2))
    return index, narrow, wide


def test_each_encoders_rows_are_asked_in_their_own_space_and_scores_are_comparable(two):
    index, narrow, wide = two
    asked = {"first": narrow[:3].copy(), "second": wide[:3].copy()}
    found = index.search(asked, k=10)
    for q in range(3):
        scored = []
        for letter, own, signature in (("n", narrow, "first"), ("w", wide, "second")):
            cosines = own @ asked[signature][q]
            above = (cosines - cosines.mean()) / cosines.std()
            for n, (score, cosine) in enumerate(zip(above.tolist(), cosines.tolist(), strict=True)):
                scored.append((score, f"{letter}{n:02d}", cosine))
        wanted = sorted(scored, reverse=True)[:10]
        assert [h.id for h in found[q]] == [id for _, id, _ in wanted]
        assert [h.score for h in found[q]] == pytest.approx([s for s, _, _ in wanted], abs=1e-3)
        assert [h.cosine for h in found[q]] == pytest.approx([c for _, _, c in wanted], abs=1e-5)
        # By plain cosine all ten would be of the encoder whose cosines are high anyway.
        assert {h.encoder for h in found[q]} == {"first", "second"}


@pytest.mark.parametrize("few", [1, 2, 5])
def test_the_first_few_rows_of_a_new_encoder_are_found(few: int, tmp_path: Path):
    old, new = unit(400, 3), unit(few, 4)
    index = Index.create(tmp_path / "index", card())
    index.add([rows([f"o{n:03d}" for n in range(400)], old)], card())
    index.add_encoder(card("second", task=2))
    index.add([rows([f"n{n}" for n in range(few)], new, "second")], card("second", task=2))
    asked = {"first": unit(1, 5), "second": new[:1].copy()}
    assert index.search(asked, k=5)[0][0].id == "n0"  # a cosine of 1, and what it asks of the others is chance
    back = {"first": old[:1].copy(), "second": unit(1, 6)}
    assert index.search(back, k=5)[0][0].id == "o000"


def test_what_hits_are_compared_with_is_read_once_a_version(two, monkeypatch):
    index, narrow, wide = two
    read = []
    monkeypatch.setattr("polymnia.index.background.sample", lambda *a: read.append(a[1]) or sample(*a))
    index._samples = Samples()
    asked = {"first": narrow[:1].copy(), "second": wide[:1].copy()}
    first = index.search(asked, k=5)
    assert index.search(asked, k=5) == first and len(read) == 2


def test_every_encoder_that_has_rows_must_be_asked(two):
    index, narrow, _ = two
    with pytest.raises(UserError, match=r"no vector of the encoder second; .* needs queries of first .*second"):
        index.search({"first": narrow[:1]})


def test_an_encoder_whose_rows_are_gone_is_asked_no_more(two, tmp_path: Path):
    index, narrow, _ = two
    other = Index.create(tmp_path / "index", card())
    other.add_encoder(card("second"))
    other.add([rows([f"n{n:02d}" for n in range(30)], narrow)], card())
    asked = {"first": narrow[:1]}
    hits = other.search(asked, k=3)[0]
    assert [h.id for h in hits][0] == "n00" and all(h.score == h.cosine for h in hits)
    assert other.search({**asked, "second": narrow[:1]}, k=3)[0] == hits


# --- earlier versions


def test_an_earlier_version_is_searched_as_it_was(tmp_path: Path):
    index = Index.create(tmp_path / "index", card())
    index.add([rows(["a", "b"], unit(2))], card())
    before = index.version
    index.delete(ids=["a"])
    index.add([rows(["c"], unit(1))], card())
    query = {"first": unit(1)}
    assert [h.id for h in index.search(query)[0]] == ["c", "b"]
    past = Index.open(tmp_path / "index", before)
    assert [h.id for h in past.search(query)[0]] == ["a", "b"] and past.version == before
    with pytest.raises(UserError, match=f"opened at its version {before}, which stays as it is"):
        past.delete(ids=["b"])
    with pytest.raises(UserError, match="has no version 99; `polymnia index versions"):
        Index.open(tmp_path / "index", 99)


# --- what cannot be asked


@pytest.mark.parametrize(
    ("asked", "how", "message"),
    [({"other": unit(1)}, {}, r"query is of the encoder other; .* needs queries of first"),
     ({}, {}, "has no vector of the encoder first"), ({"first": unit(1, 0, 8)}, {}, "needs rows of 16 numbers"),
     ({"first": unit(1)}, {"k": 0}, "k is 0"), ({"first": unit(1)}, {"where": "dur < 3"}, "did you mean 'duration'"),
     ({"first": unit(1) * np.float32(np.nan)}, {}, "what is no number")],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(index: Index, asked: dict, how: dict, message: str):
    with pytest.raises(UserError, match=message):
        index.search(asked, **how)


def test_an_empty_index_finds_nothing(tmp_path: Path):
    assert Index.create(tmp_path / "index", card()).search({"first": unit(2)}) == [[], []]
