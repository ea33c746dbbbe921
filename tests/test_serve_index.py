"""The server on a real index of a real run: what it finds, what it adds, and what happens when things move."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
import yaml
from index_rows import rows, unit
from serve_world import client, settings, tone
from small_index import small_index
from small_run import small_root, small_run
from starlette.testclient import TestClient

import polymnia as pm
from polymnia.index.schema import WHOLE
from polymnia.index.store import Index
from polymnia.index.vectors import read_vectors
from polymnia.runs.embedding.ask import Ask
from polymnia.runs.embedding.embed import embed
from polymnia.runs.embedding.work import How
from polymnia.runs.lookup import Weights, rocchio
from polymnia.runs.search import search
from polymnia.serve import indexed, moments
from polymnia.serve.adding import Adding
from polymnia.serve.entries import SHOWN
from polymnia.serve.indexed import IndexService
from polymnia.serve.narrow import where_of
from polymnia.serve.service import Narrowed
from polymnia.serve.start import make_app
from polymnia.types import UserError

QUERY = "a slow low drum that fades away"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return small_index(tmp_path / "index")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy that may be written into: the vectors of its test items are kept in it."""
    return shutil.copytree(small_run(), tmp_path / "run")


@pytest.fixture
def http(index: Path, run: Path) -> TestClient:
    service = IndexService(Index.open(index), run, adding=Adding(str(index)))
    return client(make_app(service, settings(allow_add=True)))


def hits(answer: Any) -> list[tuple[str, float]]:
    assert answer.status_code == 200, answer.text
    return [(h["item"]["id"], h["score"]) for h in answer.json()["hits"]]


def by_hand(index: Path, query: np.ndarray, modality: str) -> list[tuple[str, float]]:
    """Every item with the best cosine of its rows of a modality, best first, from the vectors themselves."""
    best: dict[str, float] = {}
    for batch in Index.open(index).rows(("id", "modality", "vector")):
        for row in batch.to_pylist():
            if row["modality"] == modality:
                cosine = float(np.dot(row["vector"], query))
                best[row["id"]] = max(cosine, best.get(row["id"], -1.0))
    return sorted(best.items(), key=lambda pair: -pair[1])


def between(index: Path, name: str) -> np.ndarray:
    """The unit mean of an item's vectors, one a modality (the small run's items have one caption each)."""
    rows = [r for r in Index.open(index).get(ids=[name]).to_pylist() if r["window"] == WHOLE]
    mean = np.mean([r["vector"] for r in rows], axis=0, dtype=np.float32)
    assert len(rows) == 3
    return mean / np.linalg.norm(mean)


def near(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> bool:
    return [i for i, _ in found] == [i for i, _ in wanted] and np.allclose(
        [s for _, s in found], [s for _, s in wanted], atol=1e-5
    )


@pytest.mark.parametrize("modality", ["audio", "image", "text"])
def test_words_find_the_nearest_of_the_index(http: TestClient, index: Path, modality: str):
    query = pm.load(small_run()).encode_text(QUERY)[0]
    found = hits(http.post("/api/search", json={"text": QUERY, "modalities": [modality], "k": 5}))
    assert near(found, by_hand(index, query, modality)[:5])


def test_a_file_finds_itself_and_the_mean_of_two_queries_is_searched(http: TestClient, index: Path):
    (first, _), *_ = by_hand(index, np.zeros(16, np.float32), "audio")
    sound = http.get(f"/api/media/{quote(first, safe='')}").content
    form = {"modalities": "audio", "k": "3"}
    (best, score), *_ = hits(http.post("/api/search", files={"file": ("q.wav", sound)}, data=form))
    assert best == first and score == pytest.approx(1.0, abs=1e-5)

    encoder = pm.load(small_run())
    path = next(p for p in (small_root() / "data").rglob("*.wav") if p.read_bytes() == sound)
    mean = encoder.encode_text(QUERY)[0] + encoder.encode_audio([path])[0]
    both = hits(http.post("/api/search", files={"file": ("q.wav", sound)}, data={**form, "text": QUERY}))
    assert near(both, by_hand(index, mean / np.linalg.norm(mean), "audio")[:3])


def test_like_and_unlike_are_towards_and_away_and_never_hits(http: TestClient, index: Path):
    # Rocchio's weights: 0.75 and 0.15
    names = [i for i, _ in by_hand(index, np.ones(16, np.float32) / 4, "audio")]
    middle = {name: between(index, name) for name in names[:2]}
    query = 0.75 * middle[names[0]] - 0.15 * middle[names[1]]
    wanted = [h for h in by_hand(index, query / np.linalg.norm(query), "audio") if h[0] not in names[:2]]
    asked = {"like": [names[0]], "unlike": [names[1]], "modalities": ["audio"], "k": 4}
    assert near(hits(http.post("/api/search", json=asked)), wanted[:4])
    similar = http.get(f"/api/similar/{quote(names[0], safe='')}", params={"k": 50})
    assert len(hits(similar)) == 7 and names[0] not in dict(hits(similar))
    assert http.post("/api/search", json={"like": ["gone"]}).status_code == 422
    with pytest.raises(UserError, match="cancels out"):
        rocchio([], [middle[names[0]]], [5 * middle[names[0]]], Weights())


def test_a_client_cannot_name_files_of_the_server(http: TestClient, index: Path):
    sound = str(next((small_root() / "data").rglob("*.wav")))
    for named in ({"like": [sound]}, {"text": "a", "unlike": [sound]}, {"like": [sound], "after": 1}):
        refused = http.post("/api/search", json=named)
        assert refused.status_code == 422 and "There is no" in refused.json()["error"]
    query = pm.load(small_run()).encode_text([sound])[0]
    found = hits(http.post("/api/search", json={"text": sound, "modalities": ["audio"], "k": 3}))
    assert near(found, by_hand(index, query, "audio")[:3])  # words like others
    assert len(hits(http.post("/api/search", json={"text": "/etc/passwd"}))) == 8


@pytest.mark.parametrize(("after", "modality"), [(0, "audio"), (1, "image"), (2, "text")])
def test_another_moment_is_what_a_search_of_the_run_finds(http: TestClient, run: Path, after: int, modality: str):
    wanted = [(h.id, h.score) for h in search(run, QUERY, modality, 5, after)]  # type: ignore[arg-type]
    asked = {"text": QUERY, "modalities": [modality], "k": 5, "after": after}
    answer = http.post("/api/search", json=asked)
    assert near(hits(answer), wanted) and answer.json()["gallery"] == "run"
    for hit in answer.json()["hits"]:
        for link in hit["item"]["links"].values():
            assert link is None or http.get(link.split("#")[0]).status_code == 200
    tasks = {h["item"]["task"] for h in answer.json()["hits"]}
    only = http.post("/api/search", json={**asked, "tasks": ["seas"], "longest": 0.6}).json()["hits"]
    assert tasks == {"seas", "tunes"} and {h["item"]["task"] for h in only} == {"seas"} and len(only) == 4
    assert http.post("/api/search", json={**asked, "shortest": 1.0}).json()["hits"] == []
    first = only[0]["item"]["id"]
    more = http.get(f"/api/similar/{quote(first, safe='')}", params={"after": after, "modalities": modality})
    assert first not in dict(hits(more)) and len(hits(more)) == 7


def test_a_moment_that_is_being_prepared_is_asked_for_again(http: TestClient, monkeypatch: pytest.MonkeyPatch):
    whole = moments.gallery
    monkeypatch.setattr(moments, "WAIT", 0.05)
    monkeypatch.setattr(moments, "gallery", lambda *given: (time.sleep(0.4), whole(*given))[1])
    first = http.post("/api/search", json={"text": QUERY, "after": 1})
    assert first.status_code == 503 and "for the first time" in first.json()["error"]
    assert int(first.headers["retry-after"]) == 2
    for _ in range(100):
        if (again := http.post("/api/search", json={"text": QUERY, "after": 1})).status_code == 200:
            break
    assert len(hits(again)) == 8
    assert http.post("/api/search", json={"text": QUERY, "after": 7}).status_code == 422


@pytest.mark.parametrize(
    "where",
    ["1; DROP TABLE items", "duration <", "root LIKE '/%'", "\"root\" IS NULL", "id = (SELECT 1)",
     "duration < 1) OR (1 = 1",
     "sleep(9) = 1", "((((((((((((((((((((((((id = 'a'))))))))))))))))))))))))", "topic = 'x' -- '", "\x00"],
)  # fmt: skip
def test_a_hostile_filter_is_refused(http: TestClient, index: Path, where: str):
    answer = http.post("/api/search", json={"text": "a", "where": where, "topics": ["music"]})
    assert answer.status_code == 422 and list(answer.json()) == ["error"]
    assert Index.open(index).count() == 48


def test_filters_narrow_the_hits(http: TestClient):
    asked = {"text": QUERY, "where": "topic = 'music' OR topic = 'nature'", "topics": ["music"], "longest": 0.6}
    found = http.post("/api/search", json=asked).json()["hits"]
    assert len(found) == 4 and {h["item"]["topic"] for h in found} == {"music"}
    assert http.post("/api/search", json={"text": "a", "topics": ["o'clock\"; --"]}).json()["hits"] == []
    assert where_of(Narrowed()) is None
    assert where_of(Narrowed(("audio",), ("it's",), (), 1.5)) == (
        "modality IN ('audio') AND task IN ('it''s') AND duration >= 1.5"
    )


def test_as_many_topics_as_fit_are_one_filter_and_more_are_refused(http: TestClient):
    words = [f"{n:02d}" + "'" * 9 for n in range(100)]  # each quote is written twice: 2000 characters
    where = "topic = 'music' AND id != '" + "x" * 971 + "'"
    asked = {"text": "a", "tasks": words[:50], "topics": words[50:], "where": where, "shortest": 0.1, "longest": 1e7}
    assert len(where) == 999 and hits(http.post("/api/search", json=asked)) == []
    more = http.post("/api/search", json={"text": "a", "topics": ["x" * 200] * 10, "tasks": ["y"]})
    assert more.status_code == 422 and "2001 characters together; at most 2000" in more.json()["error"]
    long = http.get("/api/similar/x", params={"topics": ["x" * 200] * 11})
    assert long.status_code == 422 and "2200 characters together" in long.json()["error"]


def test_of_a_long_recording_only_what_is_shown_is_read(index: Path, run: Path, monkeypatch: pytest.MonkeyPatch):
    one = next(Index.open(index).rows(("id", "encoder"), "modality = 'audio'", 1)).to_pylist()[0]
    card, name = Index.open(index).cards[one["encoder"]], "long.wav"
    many = rows([name] * 301, unit(301, dim=card.dim), card.signature, window=list(range(WHOLE, 300)), source=name)
    Index.open(index).add([many], card)
    read: list[pa.Table] = []
    wholes = Index.wholes
    monkeypatch.setattr(Index, "wholes", lambda *asked: read.append(wholes(*asked)) or read[-1])
    monkeypatch.setattr(Index, "get", lambda *_, **__: pytest.fail("all rows with all columns"))
    http = client(make_app(IndexService(Index.open(index), run), settings()))
    found = http.post("/api/search", json={"text": QUERY, "where": f"id = '{name}'"}).json()["hits"]
    assert [h["item"]["id"] for h in found] == [name] and found[0]["modality"] == "audio"
    assert http.get(f"/api/item/{name}").status_code == 200 and http.get("/api/item/nobody").status_code == 404
    assert [(t.num_rows, tuple(t.column_names)) for t in read] == [(1, SHOWN), (0, SHOWN)]


def test_what_is_added_is_found_as_embed_would_have_made_it(http: TestClient, index: Path, tmp_path: Path):
    sound = tone(tmp_path / "new.wav", 500, 0.5)
    form = {"caption": "a new tone", "topic": "new"}
    added = http.post("/api/add", files={"file": ("new.wav", sound.read_bytes())}, data=form)
    assert added.status_code == 201
    name = added.json()["id"]
    (row,) = Index.open(index).get(ids=[name]).to_pylist()
    assert np.allclose(row["vector"], pm.load(small_run()).encode_audio([sound])[0], atol=1e-6)
    assert (row["caption"], row["topic"], row["duration"]) == ("a new tone", "new", pytest.approx(0.5))
    assert http.get(added.json()["links"]["sound"].split("#")[0]).content == sound.read_bytes()
    assert "new" in http.get("/api/info").json()["topics"]
    again = http.post("/api/add", files={"file": ("other.wav", sound.read_bytes())}, data=form)
    assert again.json()["id"] == name and Index.open(index).count() == 49
    assert [p.suffix for p in (index / "media").iterdir()] == [".wav"]


def test_a_long_sound_that_is_added_is_found_at_its_window(index: Path, run: Path, tmp_path: Path):
    service = IndexService(Index.open(index), run, adding=Adding(str(index)))
    app = make_app(service, settings(allow_add=True, limits={"seconds": 60, "upload": 1_000_000}))
    long = tone(
        tmp_path / "long.wav", 500, 40, rate=8000
    ).read_bytes()  # windows of 30 s, 15 s apart: the last to the end
    added = client(app).post("/api/add", files={"file": ("long.wav", long)})
    rows = Index.open(index).get(ids=[added.json()["id"]]).to_pylist()
    assert sorted((r["window"], r["start"], r["end"]) for r in rows) == [(WHOLE, 0, 40), (0, 0, 30), (1, 10, 40)]
    first, *_ = client(app).post("/api/search", files={"file": ("long.wav", long)}).json()["hits"]
    assert first["item"]["id"] == added.json()["id"] and first["score"] == pytest.approx(1.0, abs=1e-5)


def test_there_is_an_end_to_what_is_added(index: Path, tmp_path: Path):
    service = IndexService(Index.open(index), adding=Adding(str(index), room=20_000))
    http = client(make_app(service, settings(allow_add=True)))
    first, second = (tone(tmp_path / f"{n}.wav", 100 * n, 0.5) for n in (2, 3))  # 16 kB each
    assert http.post("/api/add", files={"file": ("a.wav", first.read_bytes())}).status_code == 201
    full = http.post("/api/add", files={"file": ("b.wav", second.read_bytes())})
    assert full.status_code == 422 and "no more room" in full.json()["error"]
    assert Index.open(index).count() == 49 and len(list((index / "media").iterdir())) == 1
    with pytest.raises(UserError, match="no folder of this machine"):
        Adding("s3://bucket/index")


def test_what_others_put_in_is_seen(http: TestClient, index: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(indexed, "FRESH", 0.0)
    assert http.get("/api/info").json()["rows"] == 48
    gone = hits(http.post("/api/search", json={"text": QUERY}))[0][0]
    Index.open(index).delete(ids=[gone])
    assert gone not in dict(hits(http.post("/api/search", json={"text": QUERY})))
    assert http.get("/api/info").json()["rows"] < 48
    assert http.get(f"/api/item/{quote(gone, safe='')}").status_code == 404


def test_an_index_of_two_encoders_is_asked_with_both_and_takes_no_more(index: Path, tmp_path: Path):
    embed(small_run(), tmp_path / "earlier", Ask(only=("image",)), How(task=1))
    earlier, opened = read_vectors(tmp_path / "earlier"), Index.open(index)
    opened.add_encoder(earlier.card)
    opened.add(earlier, earlier.card)  # in the place of the pictures of the later one
    http = client(make_app(IndexService(opened, adding=Adding(str(index))), settings(allow_add=True)))
    assert http.get("/api/info").json()["spaces"] == [{"task": 1, "name": "seas"}, {"task": 2, "name": "tunes"}]
    found = http.post("/api/search", json={"text": QUERY, "modalities": ["image"], "k": 8}).json()["hits"]
    query = pm.load(small_run(), 1).encode_text(QUERY)[0]
    assert near([(h["item"]["id"], h["cosine"]) for h in found], by_hand(index, query, "image"))
    assert [h["score"] for h in found] != [h["cosine"] for h in found]
    refused = http.post("/api/add", files={"file": ("a.wav", tone(tmp_path / "a.wav", 300).read_bytes())})
    assert refused.status_code == 422 and "several encoders" in refused.json()["error"]


def test_a_run_that_moved_is_asked_for_and_then_found(tmp_path: Path, index: Path, run: Path):
    opened = Index.open(index)
    (card,) = opened.cards.values()
    away = type(card)(**{**{f: getattr(card, f) for f in card.__slots__}, "run": str(tmp_path / "gone")})
    opened.about = type(opened.about)({away.signature: away}, opened.about.settings)
    with pytest.raises(UserError, match=r"the run .*gone of the index's encoder is not there: .* --run FOLDER"):
        IndexService(opened)
    assert IndexService(opened, run).info().name == "tunes"


def test_another_run_than_the_one_that_made_the_index_is_refused(index: Path, run: Path):
    shutil.copy(run / "encoders" / "after-1.safetensors", run / "encoders" / "after-2.safetensors")
    with pytest.raises(
        UserError, match="after task 2 is the encoder .*; the index needs .*: give the run that made its vectors"
    ):
        IndexService(Index.open(index), run)


def test_without_the_runs_data_the_index_alone_is_searched(index: Path, run: Path):
    raw = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**raw, "data": "gone"}))
    service = IndexService(Index.open(index), run)
    assert "data" in service.problem and service.info().states == ()
    http = client(make_app(service, settings()))
    assert len(hits(http.post("/api/search", json={"text": QUERY, "modalities": ["audio"]}))) == 8
    assert (
        "test items of the run are not here"
        in http.post("/api/search", json={"text": "a", "after": 1}).json()["error"]
    )


def test_a_run_that_disappears_while_it_is_served_breaks_nothing_and_tells_nothing(
    tmp_path: Path, index: Path, run: Path
):
    http = client(make_app(IndexService(Index.open(index), run), settings()))
    shutil.rmtree(run)
    assert len(hits(http.post("/api/search", json={"text": QUERY, "modalities": ["audio"]}))) == 8
    for answer in (http.get("/api/matrices"), http.post("/api/search", json={"text": "a", "after": 1})):
        assert answer.status_code in (404, 422) and str(tmp_path) not in answer.text


def test_no_answer_of_a_real_index_names_a_folder(http: TestClient, index: Path, tmp_path: Path):
    found = http.post("/api/search", json={"text": QUERY, "k": 20}).json()["hits"]
    answers = [
        http.post("/api/search", json={"text": QUERY, "after": 1}),
        http.post("/api/search", json={"text": " "}),
    ]
    answers += [http.post("/api/search", json={"text": "a", "where": "durtion < 1"})]
    answers += [http.get(f"/api/{w}") for w in ("info", "matrices", "metrics", "openapi.json")]
    answers += [http.get(link.split("#")[0]) for h in found for link in h["item"]["links"].values() if link]
    answers += [http.post("/api/search", files={"file": (n, b"RIFF....")}) for n in ("a.wav", "a.png")]
    assert len(answers) > 30
    for answer in answers:
        said = answer.content + repr(dict(answer.headers)).encode()
        for folder in (tmp_path, small_root(), small_run(), index):
            assert str(folder).encode() not in said
        assert b"Traceback" not in said


@pytest.mark.parametrize("lost", ["data", "_versions", "."])
def test_an_index_that_is_damaged_while_it_is_served_is_no_fault_of_the_client(
    tmp_path: Path, run: Path, lost: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(indexed, "FRESH", 0.0)
    place = small_index(tmp_path / "secret place" / "idx")
    http = client(make_app(IndexService(Index.open(place), run, adding=Adding(str(place))), settings(allow_add=True)))
    assert http.get("/api/item/nobody").status_code == 404
    lose = place / "items.lance" / lost
    lose.rename(tmp_path / "moved")
    answers = [http.get(f"/api/{path}") for path in ("item/xyz", "media/xyz", "similar/xyz", "info", "metrics")]
    answers += [http.post("/api/search", json={"text": "rain", **more}) for more in ({}, {"where": "duration < 9"})]
    answers += [http.post("/api/search", json={"text": "rain", "topics": ["x"], "like": ["xyz"]})]
    answers += [http.post("/api/add", files={"file": ("a.wav", tone(tmp_path / "a.wav", 300).read_bytes())})]
    for answer in answers:
        assert answer.status_code == (200 if answer.url.path.endswith("metrics") else 503), (answer.url, answer.text)
        said = answer.text + repr(dict(answer.headers))
        for part in (*tmp_path.parts[1:], "secret", "place", "idx", "items", ".lance", "_versions"):
            assert not re.search(rf"(?<!\w){re.escape(part)}(?!\w)", said), (part, said)
