"""From items to tables: rows in the items' order, and no vector depends on what else was embedded."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torch.nn.functional import normalize

from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.data.collection import Collection
from polymnia.embed.cache import frozen_vectors, signature
from polymnia.embed.embedder import Embedder, run_tower
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.models.towers import cached, tiny_audio, tiny_text
from polymnia.ops.audio import LogMel
from polymnia.types import AudioFile, Captions, Item, UserError

LENGTHS = (1.0, 0.3, 0.7, 0.3, 1.4, 0.2, 0.7, 0.3)  # seconds; the shortest are padded to the tower's 0.4


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    made = []
    for n, seconds in enumerate(LENGTHS):
        noise = rng.uniform(-0.5, 0.5, round(seconds * 16000)) * np.sin(np.arange(round(seconds * 16000)) * 0.01 * n)
        soundfile.write(folder / f"{n}.wav", noise, 16000)
        captions = tuple(f"{'word ' * (7 * n % 5)}{k}" for k in range(1 + n % 3))
        made.append(
            Item(str(n), {"audio": AudioFile(folder / f"{n}.wav"), "text": Captions(captions)}, f"g{n}", f"t{n % 2}")
        )
    return made


class Counting(tiny_audio.Tower):
    """Counts the clips that it is shown, and has a classifier."""

    def __init__(self, cfg: tiny_audio.Config):
        super().__init__(cfg)
        self.seen = 0

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        self.seen += len(x)
        return super().forward(x, prompt)

    def classify(self, h: Tensor) -> Tensor:
        return 2 * h


@pytest.fixture
def embed(items: list[Item], tmp_path: Path) -> Embedder:
    torch.manual_seed(0)
    audio = Counting(tiny_audio.Config(seconds=0.4, n_mels=8, width=16, layers=1, out_dim=12))
    text = tiny_text.Tower(tiny_text.Config(width=16, layers=1, buckets=64, out_dim=12, max_tokens=8))
    heads = {"audio": HeadConfig(kind="mlp", hidden=16, dropout=0.5), "text": HeadConfig(kind="linear")}
    model = Model({"audio": audio, "text": text}, heads, 6, frozenset({"audio"}), tasks=2)
    collection = Collection.open(items, model.specs, tmp_path)
    method = Chain([], Setup(model, lambda *_: {}, 2, 0))
    return Embedder(model, method, collection, {"audio": audio, "text": text}, batch=4, encoder="me")


def by_hand(embed: Embedder, item: Item) -> Tensor:
    """The unit vector of one clip, from the tower and the head alone."""
    wave = torch.from_numpy(embed.collection.clip(item))[None]
    with torch.no_grad():
        return normalize(embed.model.heads["audio"].eval()(embed.model.towers["audio"].eval()(wave)), dim=-1)[0]


def test_rows_stand_in_the_order_of_the_items_whatever_their_length(embed: Embedder, items: list[Item]):
    table = embed(items, "audio")
    assert table.ids == tuple(i.id for i in items) and table.groups[3] == "g3" and table.topics[3] == "t1"
    assert table.encoder == "me" and table.vectors.shape == (8, 6)
    wanted = torch.stack([by_hand(embed, i) for i in items])
    assert torch.allclose(table.vectors, wanted, atol=1e-6)
    assert torch.cdist(wanted, wanted).fill_diagonal_(1).min() > 1e-3  # so that a mixed-up row would show
    back = embed(items[::-1], "audio")
    assert torch.equal(back.vectors, table.vectors.flip(0)) and back.ids == table.ids[::-1]


def test_a_text_gives_a_row_a_caption(embed: Embedder, items: list[Item]):
    table = embed(items, "text")
    assert table.ids == tuple(i.id for i in items for _ in i.sources["text"].texts)  # type: ignore[union-attr]
    assert len(table) == 1 + 2 + 3 + 1 + 2 + 3 + 1 + 2
    first = embed([Item("x", {"text": Captions(items[2].sources["text"].texts[1:2])}, "g")], "text")  # type: ignore[union-attr]
    assert torch.allclose(table.vectors[4], first.vectors[0], atol=1e-6)


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_a_vector_is_the_same_alone_and_in_a_batch(embed: Embedder, items: list[Item], modality):
    together = embed(items, modality)
    fresh = Embedder(embed.model, embed.method, embed.collection, embed.raw)
    alone = torch.cat([fresh([i], modality).vectors for i in items])
    assert torch.allclose(together.vectors, alone, atol=1e-6)


def test_embeddings_are_of_unit_norm_and_features_are_the_towers_own(embed: Embedder, items: list[Item]):
    assert torch.allclose(embed(items, "audio").vectors.norm(dim=1), torch.ones(8), atol=1e-6)
    features = embed(items, "audio", "features").vectors
    wave = torch.from_numpy(embed.collection.clip(items[4]))[None]
    with torch.no_grad():
        assert torch.allclose(features[4], embed.model.towers["audio"](wave)[0], atol=1e-6)


def test_scores_come_from_the_towers_own_classifier(embed: Embedder, items: list[Item]):
    assert torch.equal(embed(items, "audio", "scores").vectors, 2 * embed(items, "audio", "features").vectors)
    with pytest.raises(UserError, match="text tower .* has no classifier of its own"):
        embed(items, "text", "scores")


def test_the_latest_head_and_a_stored_one_are_told_apart(embed: Embedder, items: list[Item]):
    before = embed(items, "audio").vectors
    embed.model.store_heads(1)
    with torch.no_grad():
        for p in embed.model.heads.parameters():
            p.neg_()
    assert torch.equal(embed.with_head(1)(items, "audio").vectors, before)
    latest = embed(items, "audio").vectors
    assert not torch.allclose(latest, before, atol=1e-2)
    assert torch.allclose(latest[0], by_hand(embed, items[0]), atol=1e-6)
    assert torch.equal(embed.with_head(None)(items, "audio").vectors, latest)


def test_features_are_computed_once_for_all_heads_and_evaluators(embed: Embedder, items: list[Item]):
    tower = embed.model.tower("audio")
    assert isinstance(tower, Counting)
    embed(items[:5], "audio")
    embed.with_head(2)(items, "audio")
    embed(items[2:], "audio", "features")
    embed(items[::-1], "audio", "scores")
    assert tower.seen == len(items)


def test_an_item_that_is_asked_for_twice_has_two_rows(embed: Embedder, items: list[Item]):
    table = embed([items[1], items[0], items[1]], "audio")
    assert table.ids == ("1", "0", "1") and torch.equal(table.vectors[0], table.vectors[2])


@pytest.mark.parametrize("training", [True, False])
def test_embedding_is_done_in_eval_mode_and_leaves_the_mode_as_it_was(
    embed: Embedder, items: list[Item], training: bool
):
    embed.model.train(training)
    first = embed(items, "audio").vectors
    assert torch.equal(embed(items, "audio").vectors, first)  # a dropout of 0.5 would show
    assert embed.model.training is training and embed.model.towers["audio"].training is training
    assert not first.requires_grad


def test_what_cannot_be_embedded_is_named(embed: Embedder, items: list[Item]):
    with pytest.raises(UserError, match="cannot embed audio of no items"):
        embed([], "audio")
    with pytest.raises(UserError, match=r"cannot embed audio of \['quiet'\]"):
        embed([items[0], Item("quiet", {"text": Captions(("x",))}, "g")], "audio")


# --- frozen towers


def frozen(embed: Embedder, items: list[Item], folder: Path) -> tuple[Embedder, Collection]:
    """The same embedder with the text tower replaced by its cached features."""
    raw = embed.raw["text"]
    view = replace(embed.collection, vectors={})
    view.use_vectors("text", frozen_vectors(raw, items, "text", embed.collection, folder))
    stand_in = cached.Tower(cached.Config(modality="text", dim=12))
    heads = {"audio": HeadConfig(kind="linear"), "text": HeadConfig(kind="linear")}
    model = Model({"audio": embed.model.tower("audio"), "text": stand_in}, heads, 6, frozenset({"audio"}))
    return Embedder(model, embed.method, view, embed.raw), view


def test_cached_features_give_what_the_tower_gives(embed: Embedder, items: list[Item], tmp_path: Path):
    quick, _ = frozen(embed, items, tmp_path / "features")
    assert torch.allclose(
        quick(items, "text", "features").vectors, embed(items, "text", "features").vectors, atol=1e-6
    )
    back = quick(items[::-1], "text", "features")
    assert back.ids[0] == "7" and torch.allclose(
        back.vectors[-1], embed(items[:1], "text", "features").vectors[0], atol=1e-6
    )


def test_texts_that_are_made_on_the_fly_go_through_the_tower_itself(
    embed: Embedder, items: list[Item], tmp_path: Path
):
    quick, _ = frozen(embed, items, tmp_path / "features")
    new = Item("class:0", {"text": Captions(("a sound of rain",))}, "rain")
    both = quick([new, items[0]], "text", "features").vectors
    assert torch.allclose(both, embed([new, items[0]], "text", "features").vectors, atol=1e-6)


def test_features_of_a_frozen_tower_are_kept_by_its_weights_settings_and_items(
    embed: Embedder, items: list[Item], tmp_path: Path
):
    tower = embed.model.tower("audio")
    assert isinstance(tower, Counting)

    def count(*chosen: Item) -> int:
        before = tower.seen
        frozen_vectors(tower, chosen, "audio", embed.collection, tmp_path / "features")
        return tower.seen - before

    assert (count(*items), count(*items), count(*items[:3])) == (8, 0, 3)
    tower.settings = '{"pooling": "cls"}'
    assert (count(*items), count(*items)) == (8, 0)
    with torch.no_grad():
        tower.out.bias.add_(1)
    assert count(*items) == 8
    path = items[0].sources["audio"].path  # type: ignore[union-attr]
    soundfile.write(path, np.zeros(16000), 16000)  # another sound in the same file
    assert count(*items) == 8


def test_broken_items_have_no_features(embed: Embedder, items: list[Item], tmp_path: Path):
    embed.collection.failed["3"] = "is torn"
    vectors = frozen_vectors(embed.model.tower("audio"), items, "audio", embed.collection, tmp_path / "features")
    assert set(vectors.rows) == {i.id for i in items} - {"3"} and vectors.values.shape == (7, 12)


def test_the_signature_changes_with_any_weight(embed: Embedder):
    names = {signature(embed.model)}
    for p in embed.model.parameters():
        with torch.no_grad():
            p.view(-1)[0] += 1
        names.add(signature(embed.model))
    assert len(names) == 1 + len(list(embed.model.parameters()))


def test_a_short_clip_among_many_leaves_their_batches_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n, samples in enumerate([800, *[16000] * 8]):
        soundfile.write(tmp_path / f"{n}.wav", rng.uniform(-0.5, 0.5, samples), 16000)
    items = [Item(str(n), {"audio": AudioFile(tmp_path / f"{n}.wav")}, str(n)) for n in range(9)]
    torch.manual_seed(0)
    tower = Counting(tiny_audio.Config(seconds=0.5, n_mels=8, width=16, layers=1, out_dim=12))
    tower.spec = replace(tower.spec, min_seconds=0.0)
    shapes = []
    tower.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    collection = Collection.open(items, {"audio": tower.spec}, tmp_path / "cache")
    run_tower(tower, lambda x, _: tower(x), collection, items, "audio", 8)
    assert shapes == [(1, 800), (8, 16000)]


def test_the_front_end_is_part_of_an_encoders_signature() -> None:
    def signed(**keys: float) -> str:
        torch.manual_seed(0)
        tower = tiny_audio.Tower(tiny_audio.Config(seconds=0.4, n_mels=8, width=16, layers=1, out_dim=12))
        tower.mel = LogMel(tower.mel.cfg.model_copy(update=keys))
        return signature(tower)

    assert signed() == signed() != signed(fmin=60.0)


def test_a_loader_gets_no_weights_where_it_needs_none() -> None:
    audio = tiny_audio.Tower(tiny_audio.Config(seconds=0.4, n_mels=8, width=16, layers=1, out_dim=12))
    text = tiny_text.Tower(tiny_text.Config(width=16, layers=1, buckets=64, out_dim=12, max_tokens=8))
    assert len(pickle.dumps(audio.collate)) < 200 and text.collate == text.prepare
    waves = [np.zeros(3, np.float32), np.ones(3, np.float32)]
    assert torch.equal(audio.collate(waves), audio.prepare(waves))
