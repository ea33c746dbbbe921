"""Batches joined to one, and where what fills up their shorter rows comes from."""

import torch
from torch import Tensor

from polymnia.continual.memory import Memory
from polymnia.data.augment import AugmentConfig
from polymnia.data.collection import Collection
from polymnia.data.loader import Loader
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.types import AudioSpec, Batch, Captions, Item, Modality, Spec, Task, TextSpec

AUDIO, TEXT = AudioSpec(8000, 0.001), TextSpec(max_tokens=6, pad_id=1)


class Stub(AbstractTower):
    """A tower that is only asked what it eats."""

    def __init__(self, modality: Modality, spec: Spec):
        super().__init__()
        self.modality, self.spec, self.out_dim = modality, spec, 2

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        return x.float()[:, :2]


def batch(task: int, ids: list[list[int]], samples: int, pad: dict[Modality, int] | None = None) -> Batch:
    """Rows of ids, and a waveform of ones beside each."""
    n = len(ids)
    every = torch.arange(n)
    inputs: dict[Modality, Tensor] = {"text": torch.tensor(ids), "audio": torch.ones(n, samples)}
    return Batch(inputs, {"text": every, "audio": every}, every, torch.full((n,), task), pad=pad or {})


def test_short_rows_of_ids_are_filled_up_with_the_pad_id_and_waveforms_with_silence() -> None:
    narrow, wide = batch(0, [[5, 6]], 3, {"text": 1}), batch(1, [[7, 8, 9, 4], [7, 1, 1, 1]], 2, {"text": 1})
    joined = narrow.cat(wide)
    assert joined.inputs["text"].tolist() == [[5, 6, 1, 1], [7, 8, 9, 4], [7, 1, 1, 1]]
    assert joined.inputs["audio"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0]]
    assert wide.cat(narrow).inputs["text"].tolist() == [[7, 8, 9, 4], [7, 1, 1, 1], [5, 6, 1, 1]]
    assert joined.to("cpu").cat(batch(2, [[3] * 5], 3)).inputs["text"][0].tolist() == [5, 6, 1, 1, 1]


def test_without_a_pad_id_ids_are_filled_up_with_zero() -> None:
    assert batch(0, [[5]], 1).cat(batch(1, [[6, 7]], 1)).inputs["text"].tolist() == [[5, 0], [6, 7]]


def test_the_pad_id_of_either_batch_will_do() -> None:
    silent: Batch = Batch({}, {}, torch.tensor([0]), torch.tensor([0]))
    joined = silent.cat(batch(0, [[5, 6]], 1, {"text": 1})).cat(batch(1, [[7]], 1))
    assert joined.inputs["text"].tolist() == [[5, 6], [7, 1]]
    assert joined.rows["text"].tolist() == [1, 2]


def test_the_loader_takes_the_pad_id_from_the_text_tower() -> None:
    items = tuple(Item(str(n), {"text": Captions(("a " * (n + 1),))}, str(n)) for n in range(2))
    task = Task("t", 0, items, (), (), ())

    def prepare(texts: list[str]) -> Tensor:
        return torch.tensor([[len(t)] for t in texts])

    loader = Loader(task, Collection({"text": TEXT}), {"text": prepare}, ["text"], 2, 0, AugmentConfig())
    assert loader.batch(0).pad == {"text": 1}


def test_rehearsed_rows_are_padded_as_their_tower_wants_it() -> None:
    model = Model({"text": Stub("text", TEXT), "audio": Stub("audio", AUDIO)}, {}, 2, frozenset({"text"}))
    memory = Memory(model, budget=1000, seed=0)
    memory.add_task([batch(0, [[5, 6, 7], [8, 9, 1]], 8, {"text": 1})])
    mixed, slots = memory.rehearse(batch(1, [[3]], 8, {"text": 1}), 2)
    assert slots is not None
    assert mixed.inputs["text"][0].tolist() == [3, 1, 1]
    assert sorted(mixed.inputs["text"][1:].tolist()) == [[5, 6, 7], [8, 9, 1]]
    wide, _ = memory.rehearse(batch(1, [[2, 2, 2, 2]], 8, {"text": 1}), 2)
    assert sorted(wide.inputs["text"].tolist()) == [[2, 2, 2, 2], [5, 6, 7, 1], [8, 9, 1, 1]]
