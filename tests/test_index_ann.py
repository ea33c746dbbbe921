"""Approximate search: chosen by recall measured here, true to filters, complete for rows that it does not know yet."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from index_rows import DIM, card, rows, unit

from polymnia.index import ann, truth
from polymnia.index.about import Settings, Tuned
from polymnia.index.ann import tune
from polymnia.index.find import Found, approximate
from polymnia.index.store import Index
from polymnia.index.truth import Probe, recall
from polymnia.types import UserError

EACH = 1500  # sounds, and as many texts
FEW = 400  # rows that are compared one by one


def world(n: int, kind: str, seed: int) -> np.ndarray:
    """Directions around thirty centres; texts lie in a cone of their own, as they do in spaces of contrast."""
    draw = np.random.default_rng(seed)
    centres, gap = (np.random.default_rng(1).standard_normal((31, DIM))[part] for part in (slice(30), 30))
    found = centres[draw.integers(30, size=n)] + 0.7 * draw.standard_normal((n, DIM)) + (gap if kind == "text" else 0)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def own(kind: str) -> np.ndarray:
    return world(EACH, kind, 10 if kind == "text" else 11)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """So few rows are compared as fast without an index: let times be those of many. And fewer queries."""
    times = {None: 100.0, "IVF_SQ": 5.0, "IVF_FLAT": 3.0, "IVF_RQ": 4.0}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ann, "_milliseconds", lambda table, probes, tuned, _: times[tuned and tuned.kind])
        patched.setattr(truth, "QUERIES", 16)
        yield


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ann") / "index"
    index = Index.create(folder, card(), Settings(FEW, 0.95))
    for kind in ("audio", "text"):
        topics = [f"topic {n % 3}" for n in range(EACH)]
        ids = [f"{kind}{n:04d}" for n in range(EACH)]
        index.add([rows(ids, own(kind), modality=kind, topic=topics)], card())
    assert index.unsettled and index.about.tuned is None
    tuned = index.settle()
    assert tuned is not None and index.about.tuned == tuned and not index.unsettled
    return folder


@pytest.fixture
def index(settled: Path, tmp_path: Path) -> Index:
    """A copy that may be changed."""
    return Index.open(shutil.copytree(settled, tmp_path / "index"))


def rewritten(index: Index) -> None:
    """Six hundred rows of another encoder in the place of all."""
    others = rows([f"r{n:04d}" for n in range(600)], world(600, "audio", 8), "second")
    index.rewrite([others], {"second": card("second")})


def nearest(query: np.ndarray, k: int, *parts: tuple[str, np.ndarray]) -> set[str]:
    """Ids of the nearest rows of those arrays, the first row of each is its kind's number 0."""
    scored = [(float(c), f"{kind}{n:04d}") for kind, vectors in parts for n, c in enumerate(vectors @ query)]
    return {id for _, id in sorted(scored, reverse=True)[:k]}


def test_what_is_chosen_reaches_the_recall_that_is_wanted(settled: Path):
    tuned = Index.open(settled).about.tuned
    assert tuned is not None and tuned.kind == "IVF_FLAT" and tuned.rows == 2 * EACH  # the fastest
    pairs = {f"{a}>{b}" for a in ("audio", "text") for b in ("audio", "text", "all")}
    assert set(tuned.recalls) == pairs and min(tuned.recalls.values()) == tuned.recall >= 0.95
    assert [t["kind"] for t in tuned.tried] == list(ann.KINDS) and 1 <= tuned.probes <= tuned.partitions


@pytest.mark.parametrize("asked", ["audio", "text"])
@pytest.mark.parametrize("gallery", ["audio", "text", None])
def test_queries_of_any_kind_find_what_comparing_every_row_finds(settled: Path, asked: str, gallery: str | None):
    index, queries = Index.open(settled), world(40, asked, 99)
    kinds = [gallery] if gallery else ["audio", "text"]
    found = index.search({"first": queries}, k=10, modality=gallery)  # type: ignore[arg-type]
    wanted = [nearest(q, 10, *((kind, own(kind)) for kind in kinds)) for q in queries]
    shares = [len({h.id for h in hits} & right) / 10 for hits, right in zip(found, wanted, strict=True)]
    assert all(len(hits) == 10 for hits in found) and np.mean(shares) > 0.9
    exact = index.search({"first": queries}, k=10, modality=gallery, exact=True)  # type: ignore[arg-type]
    assert [{h.id for h in hits} for hits in exact] == wanted
    # What was found approximately has its true cosine all the same.
    true = {h.id: h.cosine for hits, q in zip(found, queries, strict=True) for h in hits}
    for hits, q in zip(found, queries, strict=True):
        for hit in hits:
            kind, number = hit.id[:-4], int(hit.id[-4:])
            assert hit.cosine == pytest.approx(float(own(kind)[number] @ q), abs=1e-5) and hit.id in true


def test_filters_hold_whether_few_or_many_rows_pass(settled: Path):
    index, queries = Index.open(settled), world(20, "text", 98)
    for where, share in (("topic = 'topic 1'", 1000), ("topic = 'topic 1' AND modality = 'audio'", 500),
                         ("id IN ('audio0007', 'text0001')", 2)):  # fmt: skip
        assert index.count(where) == share
        for hits, exact in zip(
            index.search({"first": queries}, where=where), index.search({"first": queries}, where=where, exact=True),
            strict=True,
        ):  # fmt: skip
            assert len(hits) == min(10, share)
            assert all(h.topic == "topic 1" or share == 2 for h in hits)
            assert len({h.id for h in hits} & {h.id for h in exact}) >= len(hits) - 3


def test_rows_that_came_later_are_found_at_once_and_taken_in_when_they_are_many(index: Index):
    fresh = unit(3, 500)
    index.add([rows(["late0", "late1", "late2"], fresh)], card())
    assert index.info().unindexed == 3
    assert [hits[0].id for hits in index.search({"first": fresh}, k=1)] == ["late0", "late1", "late2"]
    tuned = index.settle()
    assert index.info().unindexed == 3 and tuned == index.about.tuned
    index.add([rows([f"more{n:04d}" for n in range(FEW)], world(FEW, "audio", 3))], card())
    index.settle()
    assert index.info().unindexed == 0 and index.about.tuned == tuned
    assert [hits[0].id for hits in index.search({"first": fresh}, k=1)] == ["late0", "late1", "late2"]


def test_rows_that_were_replaced_or_deleted_are_not_found_as_they_were(index: Index):
    query = {"first": own("audio")[7:8]}
    index.add([rows(["audio0007"], -own("audio")[7:8], topic="topic 1")], card())
    assert index.search(query, k=5)[0][0].id != "audio0007"
    index.delete("id != 'audio0007'")
    assert [(h.id, round(h.cosine, 3)) for h in index.search(query)[0]] == [("audio0007", -1.0)]


def test_more_hits_than_the_probes_hold_are_found_all_the_same(settled: Path):
    index = Index.open(settled)
    assert len(index.search({"first": world(1, "audio", 5)}, k=2 * EACH)[0]) == 2 * EACH


@pytest.mark.parametrize("kind", ["IVF_SQ", "IVF_RQ"])
def test_rewritten_rows_are_settled_anew_and_compressed_ones_give_true_cosines(
    index: Index, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.setattr(ann, "KINDS", (kind,))
    index.rewrite(
        [rows([f"r{n:04d}" for n in range(600)], world(600, "audio", 8), "second")], {"second": card("second")}
    )
    assert index.about.tuned is None and index.unsettled and index.info().unindexed == 600
    tuned = index.settle()
    assert tuned is not None and (tuned.kind, tuned.rows) == (kind, 600) and set(tuned.recalls) == {"audio>all"}
    assert Index.open(index.uri).about.tuned == tuned
    query = world(1, "audio", 12)
    true = world(600, "audio", 8) @ query[0]
    for hit in index.search({"second": query})[0]:
        assert hit.cosine == pytest.approx(float(true[int(hit.id[1:])]), abs=1e-5)


def test_where_no_kind_finds_enough_every_row_is_compared(index: Index, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ann, "KINDS", ("IVF_FLAT",))
    monkeypatch.setattr(ann, "PROBES", (1, 10**6))
    monkeypatch.setattr(ann, "recall", lambda *_: (0.5, 0.1))
    index.rewrite(
        [rows([f"r{n:04d}" for n in range(600)], world(600, "audio", 8), "second")], {"second": card("second")}
    )
    tuned = index.settle()
    assert tuned is not None and tuned.kind == "exact" and tuned.recall == 0.5 and len(tuned.tried) == 1
    assert ann.NAME not in {i.name for i in index.table.list_indices()}
    assert approximate(index.table, tuned, FEW, None) is None and not index.unsettled
    assert len(index.search({"second": world(1, "audio", 1)})[0]) == 10


def test_of_two_that_settle_at_once_one_does_it_and_the_other_finds_it_done(tmp_path: Path, monkeypatch):
    index = Index.create(tmp_path / "index", card(), Settings(exact_below=200))
    index.add([rows([f"i{n:04d}" for n in range(600)], unit(600, 1))], card())
    done = []
    monkeypatch.setattr("polymnia.index.store.tune", lambda *a: done.append(1) or tune(*a))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: i.settle(), [Index.open(index.uri), Index.open(index.uri)]))
    assert len(done) == 1 and found[0] == found[1] is not None
    assert not Index.open(index.uri).unsettled


def test_settling_that_is_killed_leaves_exact_search_and_is_done_again(index: Index, monkeypatch: pytest.MonkeyPatch):
    def killed(*_: object) -> Tuned:
        raise UserError("killed")

    doubled = [rows([f"d{n:04d}" for n in range(2 * EACH)], world(2 * EACH, "audio", 9))]
    index.add(doubled, card())
    assert index.unsettled
    with monkeypatch.context() as patched:
        patched.setattr("polymnia.index.store.tune", killed)
        with pytest.raises(UserError):
            index.settle()
    again = Index.open(index.uri)
    assert again.about.tuned is None and again.unsettled
    query = world(1, "text", 4)
    parts = (("audio", own("audio")), ("text", own("text")), ("d", world(2 * EACH, "audio", 9)))
    assert {h.id for h in again.search({"first": query})[0]} == nearest(query[0], 10, *parts)


def test_queries_of_a_kind_that_has_no_rows_are_measured_where_they_are_given(index: Index, monkeypatch):
    index.delete("modality = 'text'")
    given = {"first": {"text": world(14, "text", 77)}}
    found = truth.probes(index.table, index.about, given)
    assert {p.name: len(p.queries) for p in found} == {"text>all": 14, "audio>all": 16}
    (texts,) = (p for p in found if p.name == "text>all")
    cosines = given["first"]["text"] @ own("audio").T
    assert texts.tenth == pytest.approx(np.sort(cosines, axis=1)[:, -10], abs=1e-5)
    (sounds,) = (p for p in found if p.name == "audio>all")
    cosines = np.sort(sounds.queries @ own("audio").T, axis=1)
    assert sounds.tenth == pytest.approx(cosines[:, -11], abs=1e-5)  # the row itself is no answer


def test_recall_counts_copies_of_an_answer_as_that_answer_and_not_the_query_itself():
    def found(*rows: tuple[str, float]) -> list[Found]:
        return [Found(cosine, cosine, {"key": key}) for key, cosine in rows]

    queries = unit(2)
    probe = Probe("audio>all", None, None, queries, ("me", ""), np.array([0.5, 0.5], np.float32))
    right = [(f"r{n}", 0.9 - n / 100) for n in range(8)]
    first = found(("me", 1.0), *right, ("copy", 0.5), ("other copy", 0.5))  # ten that are as near as the tenth
    second = found(*right, ("far", 0.4), ("farther", 0.3))
    mean, error = recall(probe, [first, second])
    assert mean == 0.9 and error == pytest.approx(np.std([1.0, 0.8]) / np.sqrt(2))


@pytest.mark.parametrize(("passing", "probes"), [(3000, 4), (1500, 8), (1000, 12), (500, 24), (401, 30)])
def test_the_fewer_rows_pass_the_more_is_looked_into(passing: int, probes: int):
    class Counted:
        def count_rows(self, sql: str | None = None) -> int:
            return 3000 if sql is None else passing

    tuned = Tuned("IVF_SQ", 30, 4, 4, 1.0, {}, 1.0, 2.0, 3000)
    how = approximate(Counted(), tuned, FEW, "x")
    assert how is not None and how.probes == probes and how.refine == 4
    assert approximate(Counted(), tuned, passing, "x") is None and approximate(Counted(), tuned, FEW, None) == tuned
