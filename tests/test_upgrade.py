"""What is done with the vectors of an older encoder: decided from anchors, and carried out on an index."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_run import small_recipe, small_root, small_run
from torch.nn.functional import normalize

import polymnia as pm
from polymnia.index import popularity
from polymnia.index.rows import vectors
from polymnia.index.schema import EncoderCard
from polymnia.index.store import Index
from polymnia.index.vectors import read_vectors
from polymnia.runs import lookup
from polymnia.runs.anchors import Anchor, Anchors, Rows
from polymnia.runs.compatibility import Upgrades
from polymnia.runs.embedding.ask import Ask
from polymnia.runs.embedding.embed import embed
from polymnia.runs.embedding.work import How as EmbedHow
from polymnia.runs.encoder import load
from polymnia.runs.lookup import Encoders, Query, ask, find
from polymnia.runs.upgrading.advice import advise, decide
from polymnia.runs.upgrading.bridge import Bridge
from polymnia.runs.upgrading.lazily import Budget, ranked
from polymnia.runs.upgrading.upgrade import How, upgrade
from polymnia.spaces.adapter import Adapter
from polymnia.spaces.doubt import Doubt
from polymnia.types import AudioFile, UserError


@pytest.mark.parametrize(
    ("kept", "upgraded", "new", "action"),
    [
        (50.0, 80.0, 81.0, "upgrade"),  # within two points of the best, and it needs no media
        (90.0, 80.0, 60.0, "keep"),  # the new encoder forgot these
        (40.0, 50.0, 80.0, "re-embed"),
        (79.0, 50.0, 80.0, "keep"),  # nearly as good as embedding again, for nothing
    ],
)
def test_an_action_is_the_cheapest_that_is_good_enough(kept, upgraded, new, action):
    assert decide({"kept": kept, "stale": 0.0, "upgraded": upgraded, "self": new}) == action


def anchors(move, texts=lambda x: x, n: int = 160, d: int = 12) -> Anchors:
    """Sounds and texts of one thing each, alike before; then sounds are moved by one map and texts by another."""
    x = normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(0)), dim=1)
    roles = ["fit", "fit", "choose", "test"]
    items = tuple(Anchor(f"i{k}", f"g{k}", 1, roles[k % 4]) for k in range(n))
    at = torch.arange(n)
    before = {"audio": Rows(x, at), "text": Rows(x, at)}
    after = {"audio": Rows(normalize(move(x), dim=1), at), "text": Rows(normalize(texts(x), dim=1), at)}
    return Anchors(items, {1: before, 2: after}, ("one", "two"), ((("audio", "text"),), (("audio", "text"),)))


def test_a_space_that_was_turned_round_is_upgraded():
    spin = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
    advice = advise(Upgrades(anchors(lambda x: x @ spin, lambda x: x @ spin)), 1, 2, "audio")
    assert advice.action == "upgrade" and advice.fitted.kind == "orthogonal"
    assert advice.measured["upgraded"] == advice.measured["self"] == 100.0 > advice.measured["stale"]
    assert {line.direction for line in advice.lines} == {"audio>audio", "text>audio"}
    assert advice.doubt(torch.eye(12)).abs().max() < 1e-5


def test_an_encoder_that_forgot_leaves_old_vectors_in_their_space():
    collapsed = Upgrades(anchors(lambda x: torch.ones_like(x) + 0.01 * x.abs()))
    advice = advise(collapsed, 1, 2, "audio")
    assert advice.action == "keep" and "the new encoder is worse" in advice.why
    assert advice.measured["kept"] == 100.0 and advice.measured["self"] < 60.0
    # texts did not move: for them alone, old vectors serve as they are
    words = advise(collapsed, 1, 2, "audio", queries=("text",))
    assert words.action == "upgrade" and words.measured["upgraded"] > words.measured["self"] + 50
    assert [line.direction for line in words.lines] == ["text>audio"]


def test_what_no_map_can_follow_is_to_be_embedded_again():
    shuffled = torch.randperm(160, generator=torch.Generator().manual_seed(2))
    base = anchors(lambda x: x[shuffled], lambda x: x[shuffled])
    # old queries in the old space are as good as new ones in the new: kept, not embedded again
    assert advise(Upgrades(base), 1, 2, "audio", queries=("text",)).action == "keep"
    noise = torch.randn(160, 12, generator=torch.Generator().manual_seed(3))
    words = {"audio": base.rows[1]["audio"], "text": Rows(normalize(noise, dim=1), torch.arange(160))}
    blind = Anchors(base.items, {1: words, 2: base.rows[2]}, base.tasks, base.pairs)  # its first encoder knew no words
    advice = advise(Upgrades(blind), 1, 2, "audio", queries=("text",))
    assert advice.action == "re-embed" and advice.loss > 50 and "embed them again" in advice.why


def test_a_map_that_the_method_learned_is_taken_where_it_is_better():
    spin = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
    stretched = spin @ torch.diag(torch.linspace(0.2, 3.0, 12))
    known = anchors(lambda x: x @ stretched, lambda x: x @ stretched)
    exact = Adapter("predictor", {"weight": torch.linalg.inv(stretched), "bias": torch.zeros(12)})
    for learned, kind in (
        (exact, "predictor"),
        (Adapter("predictor", {"weight": -spin, "bias": torch.zeros(12)}), "ridge"),
    ):
        upgrades = Upgrades(known, learned={(2, 1, "audio"): learned})
        assert upgrades.between(2, 1, "audio").kind == kind
        assert "predictor" not in upgrades.between(1, 2, "audio").scores  # it leads back only
        advice = advise(upgrades, 1, 2, "audio", back=True)
        assert advice.backwards["audio"] == kind
        assert {line.back for line in advice.lines} == {100.0}


def test_what_queries_find_when_they_are_mapped_back_is_measured():
    collapsed = Upgrades(anchors(lambda x: torch.ones_like(x) + 0.01 * x.abs()))
    advice = advise(collapsed, 1, 2, "audio", back=True)
    own, words = (next(line for line in advice.lines if line.direction == d) for d in ("audio>audio", "text>audio"))
    assert words.back == words.kept == 100.0  # texts did not move
    assert own.back < 60.0 and own.kept == 100.0  # of sounds that are all alike, no map finds which it was
    assert advice.way == "back" and advice.loss == pytest.approx(100.0 - advice.chosen["back"])
    assert advise(collapsed, 1, 2, "audio").lines[0].back is None


def test_doubt_is_the_error_of_the_nearest_anchors():
    old = torch.eye(4)
    new = old.clone()
    new[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # of the first anchor, the map is wholly wrong
    doubt = Doubt.of(old.repeat(5, 1), old.repeat(5, 1), new.repeat(5, 1))
    torch.testing.assert_close(doubt(old), torch.tensor([1.0, 0.0, 0.0, 0.0]))


@pytest.fixture
def index(tmp_path):
    """The small run's own test items as its encoder embedded them after the first task."""
    embed(small_run(), tmp_path / "old", Ask(), EmbedHow(task=1))
    read = read_vectors(tmp_path / "old")
    made = Index.create(tmp_path / "index", read.card)
    made.add(read, read.card)
    return made


def by_key(batches) -> dict:
    return {k: v for b in batches for k, v in zip(b.column("key").to_pylist(), vectors(b).tolist(), strict=True)}


def state(uri) -> dict:
    rows = Index.open(uri).rows(["key", "modality", "encoder", "made", "doubt"])
    return {r["key"]: r for b in rows for r in b.to_pylist()}


def test_measuring_alone_changes_nothing(index):
    before = index.version
    done = upgrade(index.uri, small_run(), how=How(dry=True))
    assert {a.modality for a in done.advices} == {"audio", "image", "text"} and done.mapped == 0
    assert Index.open(index.uri).version == before


def test_rows_of_towers_that_stood_still_only_change_their_encoders_name(index):
    done = upgrade(index.uri, small_run(), how=How(mode="vectors", force=True))
    found = state(index.uri)
    assert done.mapped == len(found) == 48 and done.left == 0
    assert {r["encoder"] for r in found.values()} == {done.card.signature}
    made = {r["modality"]: r["made"] for r in found.values()}
    assert made == {"audio": "upgraded", "image": "embedded", "text": "embedded"}
    assert all((r["doubt"] is not None) == (r["modality"] == "audio") for r in found.values())
    assert set(Index.open(index.uri).cards) == {done.card.signature}


def test_the_state_before_an_upgrade_stays_reachable(index):
    before = by_key(index.rows(["key", "vector"]))
    version = index.version
    upgrade(index.uri, small_run(), how=How(mode="vectors", force=True))
    assert by_key(Index.open(index.uri, version).rows(["key", "vector"])) == before


def test_what_is_embedded_again_is_what_embedding_everything_gives(index, tmp_path):
    first = upgrade(index.uri, small_run(), how=How(mode="lazy", budget=Budget(items=3)))
    assert (first.again.items, first.again.left) == (3, 5)
    rest = upgrade(index.uri, small_run(), how=How(mode="lazy"))
    assert (rest.again.items, rest.again.left, rest.mapped) == (5, 0, 0)
    embed(small_run(), tmp_path / "new", Ask(), EmbedHow(task=2))
    whole, kept = by_key(read_vectors(tmp_path / "new")), by_key(Index.open(index.uri).rows(["key", "vector"]))
    assert whole.keys() == kept.keys()
    for key, vector in whole.items():
        assert kept[key] == pytest.approx(vector, abs=1e-5)
    assert {r["made"] for r in state(index.uri).values()} == {"embedded"}


def test_what_is_doubtful_and_often_found_comes_first(index):
    done = upgrade(index.uri, small_run(), how=How(mode="vectors", force=True))
    order = [item for item, _ in ranked(Index.open(index.uri), done.card)]
    popularity.count(index.uri, [order[-1]] * 1000)
    rows = state(index.uri)
    if any(r["doubt"] for r in rows.values() if r["modality"] == "audio" and r["key"].startswith(order[-1])):
        assert [item for item, _ in ranked(Index.open(index.uri), done.card)][0] == order[-1]
    assert popularity.counts(index.uri, order) == {order[-1]: 1000}


def test_changed_and_missing_media_are_listed_and_keep_their_mapped_vectors(index, tmp_path):
    rows = index.get(keys=[k for k in state(index.uri) if k.endswith("#audio")]).to_pylist()
    gone = [r | {"root": str(tmp_path), "source": "nowhere.wav"} for r in rows[:1]]

    index.add(
        [pa.RecordBatch.from_pylist(gone, schema=index.table.schema.remove_metadata())],
        next(iter(index.cards.values())),
    )
    done = upgrade(index.uri, small_run(), how=How(mode="lazy"))
    assert [item for item, _ in done.again.failed] == [rows[0]["id"]] and "No such file" in done.again.failed[0][1]
    assert state(index.uri)[rows[0]["key"]]["made"] == "upgraded"


def test_an_index_of_another_run_is_refused(index, tmp_path):

    other = pm.run(
        small_recipe(small_root(), seed=7, out=str(tmp_path / "runs"), tasks=small_recipe(small_root())["tasks"][:1])
    )
    with pytest.raises(UserError, match="which is not of"):
        upgrade(index.uri, other.folder)


def test_too_much_loss_is_refused_and_changes_nothing(index):
    before = index.version
    with pytest.raises(UserError, match="max-loss -200: .*Nothing was changed"):
        upgrade(index.uri, small_run(), how=How(mode="vectors", most_lost=-200.0))
    with pytest.raises(UserError, match="queries mapped back to .*max-loss -200: .*Nothing was changed"):
        upgrade(index.uri, small_run(), how=How(mode="queries", most_lost=-200.0))
    assert Index.open(index.uri).version == before


def said_to(action: str, kept: float, upgraded: float, new: float):
    """``advise``, but with these scores on held-out anchors."""
    scores = {"kept": kept, "stale": 0.0, "upgraded": upgraded, "self": new}

    def advised(*args, **kwargs):
        return replace(advise(*args, **kwargs), action=action, chosen=scores)

    return advised


def test_embedding_again_leaves_what_is_better_kept_unless_it_is_forced(index, monkeypatch):
    monkeypatch.setattr("polymnia.runs.upgrading.upgrade.advise", said_to("keep", 90.0, 10.0, 60.0))
    before = by_key(index.rows(["key", "vector"]))
    done = upgrade(index.uri, small_run(), how=How(mode="lazy"))
    assert done.mapped == 0 and by_key(Index.open(index.uri).rows(["key", "vector"])) == before
    forced = upgrade(index.uri, small_run(), how=How(mode="lazy", force=True))
    assert forced.mapped == 48 and forced.again is not None and forced.again.items > 0


def test_mapping_badly_is_refused_where_a_budget_ends_embedding_again_before_all_is_done(index, monkeypatch):
    monkeypatch.setattr("polymnia.runs.upgrading.upgrade.advise", said_to("re-embed", 10.0, 20.0, 90.0))
    version = index.version
    with pytest.raises(UserError, match="70.0 points less .*without a budget"):
        upgrade(index.uri, small_run(), how=How(mode="lazy", budget=Budget(items=1)))
    assert Index.open(index.uri).version == version
    assert (
        upgrade(index.uri, small_run(), how=How(mode="lazy")).mapped == 48
    )  # all of them are embedded anew behind it


def test_rows_that_are_kept_are_asked_directly_even_if_queries_were_mapped_back_before(index, monkeypatch):
    upgrade(index.uri, small_run(), how=How(mode="queries", force=True))
    monkeypatch.setattr("polymnia.runs.upgrading.upgrade.advise", said_to("keep", 90.0, 10.0, 60.0))
    upgrade(index.uri, small_run(), how=How())
    now = Index.open(index.uri)
    old = next(c for c in now.cards.values() if c.task == 1)
    assert not now.about.bridges and not isinstance(Encoders().into(now, old), Bridge)


def test_a_budget_is_for_embedding_again_only(index):
    with pytest.raises(UserError, match="--mode lazy"):
        upgrade(index.uri, small_run(), how=How(mode="vectors", budget=Budget(items=1)))


def test_queries_mapped_back_leave_every_row_and_find_what_the_old_encoder_found(index):
    before, version = by_key(index.rows(["key", "vector"])), index.version
    done = upgrade(index.uri, small_run(), how=How(mode="queries", force=True))
    assert done.mapped == 0 and len(done.bridged) == 1
    now = Index.open(index.uri)
    assert by_key(now.rows(["key", "vector"])) == before and now.version > version
    encoders, (card, newer) = Encoders(), now.cards.values()
    assert (card.task, newer) == (1, done.card)  # what is embedded from now on may come in
    assert isinstance(encoders.into(now, card), Bridge)
    # texts never moved: their queries need no map, and find with the newer encoder what the older one found
    words = Query("a calm sea")
    (vector,) = ask(now, words, encoders).values()
    (old,) = ask(index, words, Encoders()).values()
    assert vector == pytest.approx(old, abs=1e-6)
    hits = [[h.id for h in find(i, words, Encoders())] for i in (index, now)]
    assert hits[0] == hits[1] != []


def test_a_bridge_maps_a_sound_from_the_new_space_to_the_old(index):
    new, old = load(small_run(), 2), load(small_run(), 1)
    bridge = Bridge(new, small_run(), 1)
    bridge._upgrades = Upgrades(turned := anchors(lambda x: x.roll(1, dims=1), d=16))
    tone = [np.sin(np.arange(8000) / 9).astype(np.float32)]
    expected = new.encode_audio(tone, 16000)
    assert bridge.encode_audio(tone, 16000) == pytest.approx(np.roll(expected, -1, axis=1), abs=1e-4)
    assert bridge.encode_text(["a sea"]) == pytest.approx(old.encode_text(["a sea"]), abs=1e-5)
    assert turned.dim == new.dim


def test_what_is_asked_for_more_like_it_is_the_stretch_or_the_words_that_an_item_is(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "polymnia.runs.lookup.encoded",
        lambda encoder, kind, medium: asked.append((kind, medium)) or np.ones(16, np.float32),
    )
    card = EncoderCard("0" * 24, 16, "/run", 1, "one", ("audio",), "tiny-s0")
    encoders = Encoders()
    monkeypatch.setattr(encoders, "get", lambda card: None)
    path = tmp_path / "long.wav"
    path.write_bytes(b"")
    row = {"root": str(tmp_path), "source": "long.wav", "modality": "audio", "entry": None, "caption": "a drum"}

    def like(**changes):
        table = pa.Table.from_pylist([{**row, "start": 2.0, "end": 3.0, "vector": [1.0], **changes}])
        lookup._anew(table, "item", card, encoders)

    like()
    like(end=None)
    like(modality="text")
    assert asked == [
        ("audio", AudioFile(path, 2.0, 1.0)),
        ("audio", AudioFile(path, 2.0, lookup.LONGEST)),  # bounded, however long it is
        ("text", "a drum"),
    ]
    with pytest.raises(UserError, match="its file is not here"):
        like(source="gone.wav")
