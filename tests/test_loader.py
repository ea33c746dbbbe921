"""Batches by number: what is drawn is a function of (seed, task, epoch, item) alone, so a run resumes anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from polymnia.data.augment import AugmentConfig
from polymnia.data.collection import Collection, Vectors
from polymnia.data.loader import Clean, Interleaved, Loader, group_number, stream
from polymnia.types import AudioFile, AudioSpec, Batch, Captions, ImageFile, ImageSpec, Item, Modality, Task, TextSpec

RATE, COUNT = 1000, 10
SPECS = {"audio": AudioSpec(RATE, 0.1), "image": ImageSpec(4, 1), "text": TextSpec(4)}


def stack(raw: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(raw))


def letters(raw: Sequence[str]) -> Tensor:
    """A caption "7b" as its two characters: which item, and which of its captions."""
    return torch.tensor([[ord(c) for c in text] for text in raw])


PREPARE = {"audio": stack, "image": stack, "text": letters}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Item, ...], Collection]:
    """Item n is a rising ramp that starts at n / 20, a grey picture of value n, and captions na, nb, nc."""
    folder = tmp_path_factory.mktemp("loader")
    items = []
    for n in range(COUNT):
        ramp = n / 20 + np.arange(400) / 20 / 400
        soundfile.write(folder / f"{n}.wav", ramp.astype(np.float32), RATE, subtype="FLOAT")
        Image.new("L", (4, 4), n).save(folder / f"{n}.png")
        sources = {
            "audio": AudioFile(folder / f"{n}.wav"),
            "image": ImageFile(folder / f"{n}.png"),
            "text": Captions((f"{n}a", f"{n}b", f"{n}c")),
        }
        items.append(Item(str(n), sources, f"g{n // 2}", labels=("odd",) if n % 2 else ("even", "round")))
    return tuple(items), Collection.open(items, SPECS, folder / "cache")


def loader(
    world: tuple[tuple[Item, ...], Collection],
    batch: int = 5,
    seed: int = 0,
    index: int = 1,
    modalities: tuple[Modality, ...] = ("audio", "image", "text"),
    items: tuple[Item, ...] | None = None,
    tags: Sequence[str] = (),
) -> Loader:
    task = Task("t", index, world[0] if items is None else items, (), (), (("audio", "text"),))
    return Loader(task, world[1], PREPARE, modalities, batch, seed, AugmentConfig(gain_db=6), tags)


def same(a: Batch, b: Batch) -> bool:
    return (
        a.inputs.keys() == b.inputs.keys()
        and all(torch.equal(a.inputs[m], b.inputs[m]) and torch.equal(a.rows[m], b.rows[m]) for m in a.inputs)
        and torch.equal(a.group, b.group)
        and torch.equal(a.task, b.task)
    )


def which(batch: Batch) -> list[int]:
    """The items of a batch, read off their pictures."""
    return batch.inputs["image"][:, 0, 0, 0].tolist()


def test_a_batch_is_the_same_whatever_was_asked_before(world):
    busy, fresh = loader(world), loader(world)
    for step in (7, 0, 3, 2, 7, 1):
        busy.batch(step)
    busy.clean(1)
    assert all(same(busy.batch(s), loader(world).batch(s)) for s in (0, 1, 5, 2))
    assert same(fresh.batch(5), busy.batch(5))


def test_all_modalities_of_a_row_are_of_one_item(world):
    batch = loader(world).batch(0)
    numbers = which(batch)
    assert [int(chr(c)) for c in batch.inputs["text"][:, 0]] == numbers
    assert batch.group.tolist() == [group_number(f"g{n // 2}") for n in numbers]
    clean = loader(world).clean(0)
    assert torch.allclose(clean.inputs["audio"][:, 0], torch.tensor(which(clean)) / 20 + 150 / 8000, atol=1e-4)


def test_an_epoch_holds_every_item_once_and_another_epoch_another_order(world):
    batches = loader(world)
    assert len(batches) == 2
    epochs = [which(batches.batch(2 * e)) + which(batches.batch(2 * e + 1)) for e in range(3)]
    assert all(sorted(e) == list(range(COUNT)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3


def test_what_does_not_fill_a_batch_is_left_out_of_an_epoch_but_not_of_the_next_ones(world):
    batches = loader(world, batch=4)
    assert len(batches) == 2
    epochs = [which(batches.batch(2 * e)) + which(batches.batch(2 * e + 1)) for e in range(12)]
    assert all(len(set(e)) == 8 for e in epochs) and set().union(*epochs) == set(range(COUNT))


def test_a_task_smaller_than_a_batch_is_one_batch(world):
    batches = loader(world, batch=64)
    assert (len(batches), batches.clean_batches, len(batches.batch(0))) == (1, 1, COUNT)


@pytest.mark.parametrize("change", [{"seed": 1}, {"index": 2}])
def test_another_seed_or_task_draws_another_order_other_crops_and_captions(world, change: dict[str, int]):
    one, other = loader(world, batch=10).batch(0), loader(world, batch=10, **change).batch(0)
    assert which(one) != which(other)
    a, b = (batch.inputs["audio"][np.argsort(which(batch))] for batch in (one, other))
    assert not torch.equal(a, b)


def test_what_is_drawn_for_an_item_does_not_depend_on_the_rest_of_its_batch(world):
    (whole,), halves = [loader(world, batch=10).batch(3)], [loader(world, batch=5).batch(s) for s in (6, 7)]
    for m in ("audio", "text"):
        assert torch.equal(whole.inputs[m], torch.cat([h.inputs[m] for h in halves]))


def test_crops_gains_and_captions_change_from_epoch_to_epoch(world):
    batches = loader(world, batch=10)
    heard, read = set(), set()
    for epoch in range(20):
        batch = batches.batch(epoch)
        row = which(batch).index(3)
        heard.add(tuple(batch.inputs["audio"][row].tolist()))
        read.add(chr(int(batch.inputs["text"][row, 1])))
    assert len(heard) == 20 and read == {"a", "b", "c"}  # a caption is missed with chance 3 x (2/3)^20 < 0.1 %


def test_clean_batches_hold_every_item_once_in_the_order_of_the_first_epoch_with_a_smaller_last_one(world):
    batches = loader(world, batch=4)
    clean = Clean(batches, torch.device("cpu"))
    found = list(clean)
    assert [len(b) for b in found] == [4, 4, 2] and len(clean) == 3
    assert sorted(n for b in found for n in which(b)) == list(range(COUNT))
    assert which(found[0]) == which(batches.batch(0))
    assert all(same(a, b) for a, b in zip(found, clean, strict=True))  # it can be walked again


def test_clean_batches_are_centred_first_captions_at_full_gain(world):
    batch = loader(world, batch=10).clean(0)
    for row, n in enumerate(which(batch)):
        ramp = n / 20 + np.arange(150, 250) / 20 / 400  # the middle 100 of 400 samples
        assert np.abs(batch.inputs["audio"][row].numpy() - ramp).max() < 1 / 32767
    assert set(batch.inputs["text"][:, 1].tolist()) == {ord("a")}


def test_a_gain_stays_within_its_decibels(world):
    batch = loader(world, batch=10).batch(0)
    for row, n in enumerate(which(batch)):
        ratio = float(batch.inputs["audio"][row].mean()) / (n / 20 + 0.025)
        assert 10 ** (-6 / 20) * 0.4 < ratio < 10 ** (6 / 20) * 1.9  # beside the crop's own place on the ramp
    quiet = Loader(batch_task(world), world[1], PREPARE, ("audio", "image"), 10, 0, AugmentConfig())
    for row, n in enumerate(which(quiet.batch(0))):
        assert n / 20 - 1e-4 <= float(quiet.batch(0).inputs["audio"][row].min()) < (n + 1) / 20


def batch_task(world) -> Task:
    return Task("t", 1, world[0], (), (), (("audio", "text"),))


def test_a_stream_from_a_later_step_goes_on_as_if_it_had_begun_at_the_first(world):
    batches = loader(world, batch=4)
    whole = list(stream(batches, 0, 7, 0))
    assert len(whole) == 7
    assert all(same(a, b) for a, b in zip(whole[3:], stream(loader(world, batch=4), 3, 7, 0), strict=True))


def test_worker_processes_give_bit_identical_batches(world):
    batches = loader(world, batch=4)
    alone = list(stream(batches, 1, 6, 0))
    helped = list(stream(batches, 1, 6, 2))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_rows_say_which_items_have_a_modality(world):
    items = tuple(
        Item(i.id, {m: s for m, s in i.sources.items() if m != "text" or int(i.id) % 3 == 0}, i.group)
        for i in world[0]
    )
    batch = loader(world, batch=10, items=items).batch(0)
    numbers = which(batch)
    assert batch.rows["text"].tolist() == [row for row, n in enumerate(numbers) if n % 3 == 0]
    assert [int(chr(c)) for c in batch.inputs["text"][:, 0]] == [n for n in numbers if n % 3 == 0]
    assert batch.rows["audio"].tolist() == list(range(10)) and len(batch) == 10


def test_a_modality_that_no_item_of_the_batch_has_is_not_in_it(world):
    items = tuple(Item(i.id, {"image": i.sources["image"]}, i.group) for i in world[0])
    assert set(loader(world, items=items).batch(0).inputs) == {"image"}


def test_only_the_modalities_that_training_reads_are_decoded(world):
    assert set(loader(world, modalities=("image",)).batch(0).inputs) == {"image"}


def test_cached_vectors_stand_in_for_media_with_a_row_a_caption(world):
    items, collection = world
    values = np.arange(3 * COUNT, dtype=np.float32)[:, None]
    view = Collection(collection.specs, collection.audio, collection.images, _image_at=collection._image_at)
    view.use_vectors("text", Vectors({i.id: tuple(range(3 * n, 3 * n + 3)) for n, i in enumerate(items)}, values))
    made = Loader(batch_task(world), view, {**PREPARE, "text": stack}, ("image", "text"), 10, 0, AugmentConfig())
    drawn = made.batch(0)
    assert (drawn.inputs["text"][:, 0] // 3).tolist() == which(drawn)
    clean = made.clean(0)
    assert clean.inputs["text"][:, 0].tolist() == [3 * n for n in which(clean)]  # without chance the first caption


def test_tags_become_rows_of_zeros_and_ones(world):
    batch = loader(world, tags=["even", "odd", "square"]).batch(0)
    assert batch.labels is not None
    assert batch.labels.tolist() == [[float(n % 2 == 0), float(n % 2), 0.0] for n in which(batch)]
    assert loader(world).batch(0).labels is None


def test_a_group_has_the_same_number_everywhere():
    assert group_number("dogs") == group_number("do" + "gs") != group_number("cats")
    assert 0 <= group_number("x") < 2**63  # fits int64


# --- the joint run


def joint(world, batch: int = 2) -> tuple[Interleaved, list[Loader]]:
    loaders = [loader(world, batch, index=1, items=world[0][:6]), loader(world, batch, index=2, items=world[0][6:])]
    return Interleaved(loaders, 0), loaders


def test_an_interleaved_epoch_holds_every_batch_of_every_task_once(world):
    both, loaders = joint(world)
    assert len(both) == 5
    for epoch in range(3):
        found = [both.batch(5 * epoch + s) for s in range(5)]
        assert sorted(n for b in found for n in which(b)) == list(range(COUNT))
        wanted = [ld.batch(epoch * len(ld) + i) for ld in loaders for i in range(len(ld))]
        assert all(sum(same(w, f) for f in found) == 1 for w in wanted)


def test_interleaved_tasks_are_mixed_and_a_batch_is_of_one_task(world):
    both, _ = joint(world)
    orders = {tuple(int(both.batch(5 * e + s).task[0]) for s in range(5)) for e in range(8)}
    assert len(orders) > 2 and all(sorted(o) == [1, 1, 1, 2, 2] for o in orders)
    assert all(len(set(both.batch(s).task.tolist())) == 1 for s in range(5))


def test_interleaved_batches_are_the_same_whatever_was_asked_before(world):
    both, _ = joint(world)
    before = [both.batch(s) for s in (9, 0, 4)]
    assert all(same(a, joint(world)[0].batch(s)) for a, s in zip(before, (9, 0, 4), strict=True))


def test_interleaved_clean_batches_hold_every_item_once(world):
    both, _ = joint(world, batch=4)
    assert both.clean_batches == 3  # 4 + 2, and 4
    assert sorted(n for i in range(3) for n in which(both.clean(i))) == list(range(COUNT))


def test_an_epoch_of_pairs_holds_each_caption_of_each_item_once(
    world: tuple[tuple[Item, ...], Collection],
) -> None:
    items, collection = world
    task = Task("t", 1, items, (), (), (("audio", "text"),))
    made = Loader(task, collection, PREPARE, ("audio", "text"), 6, 0, AugmentConfig(captions="pairs"))
    assert (len(made), made.clean_batches) == (5, 2)  # 10 items with 3 captions each; a clean pass is one of items
    said = ["".join(map(chr, row)) for step in range(5) for row in made.batch(step).inputs["text"].tolist()]
    assert sorted(said) == sorted(f"{n}{c}" for n in range(COUNT) for c in "abc")
    again = [made.batch(step).inputs["text"].tolist() for step in range(5, 10)]
    assert sorted(map(str, sum(again, []))) == sorted(str([ord(c) for c in text]) for text in said)
    assert ["".join(map(chr, row)) for row in sum(again, [])] != said  # another order
    groups = {group_number(i.group): i.id for i in items[::2]}
    first = made.batch(0)
    for text, group in zip(first.inputs["text"].tolist(), first.group.tolist(), strict=True):
        assert int(groups[group]) // 2 == int(chr(text[0])) // 2  # the caption is that of the row's own item


def test_pairs_are_for_tasks_that_read_texts(world: tuple[tuple[Item, ...], Collection]) -> None:
    items, collection = world
    task = Task("t", 1, items, (), (), (("audio", "image"),))
    made = Loader(task, collection, PREPARE, ("audio", "image"), 5, 0, AugmentConfig(captions="pairs"))
    assert len(made) == 2


def test_a_cached_caption_of_a_pair_is_its_own_row(world: tuple[tuple[Item, ...], Collection]) -> None:
    items, collection = world
    rows = {item.id: (3 * n, 3 * n + 1, 3 * n + 2) for n, item in enumerate(items)}
    vectors = Vectors(rows, np.arange(30, dtype=np.float32)[:, None])
    view = Collection(SPECS, collection.audio, collection.images, {"text": vectors}, {}, collection._audio_at)
    task = Task("t", 1, items, (), (), (("audio", "text"),))
    made = Loader(task, view, {**PREPARE, "text": stack}, ("audio", "text"), 30, 0, AugmentConfig(captions="pairs"))
    assert sorted(made.batch(0).inputs["text"][:, 0].tolist()) == list(range(30))


def test_a_short_clip_is_followed_by_silence_or_by_itself(
    world: tuple[tuple[Item, ...], Collection], tmp_path: Path
) -> None:
    wave = np.array([0.5, -0.25, 0.125], dtype=np.float32)
    soundfile.write(tmp_path / "short.wav", wave, RATE, subtype="FLOAT")
    item = Item("short", {"audio": AudioFile(tmp_path / "short.wav")}, "g")
    collection = Collection.open([item], {"audio": AudioSpec(RATE, 0.008)}, tmp_path / "cache")
    zero = collection.train_raw(item, "audio", AugmentConfig(), np.random.default_rng(0))[0]
    tile = collection.train_raw(item, "audio", AugmentConfig(fill="tile"), np.random.default_rng(0))[0]
    assert np.allclose(zero, [0.5, -0.25, 0.125, 0, 0, 0, 0, 0], atol=1e-4)
    assert np.allclose(tile, [0.5, -0.25, 0.125, 0.5, -0.25, 0.125, 0.5, -0.25], atol=1e-4)
    assert np.allclose(collection.clip(item), zero)  # evaluation is never tiled
