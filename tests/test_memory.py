"""Rehearsal: what a memory keeps and gives back, within how many bytes, and what ER and DER do with it."""

from __future__ import annotations

import pytest
import torch
from handmade import Fixed, batch, model, part, setup, shake, task
from torch import Tensor

from polymnia.continual.chain import Chain
from polymnia.continual.memory import Memory
from polymnia.continual.method import embed_batch
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.types import AudioSpec, Batch, ImageSpec, Modality, Spec, TextSpec, UserError

SAMPLES = 40
SPECS: dict[Modality, Spec] = {"audio": AudioSpec(1000, 0.04), "image": ImageSpec(4, 3), "text": TextSpec(6)}
ROW = 2 * SAMPLES + 3 * 4 * 4 + 8 * 6  # bytes of the media of a row: int16, uint8, int64


class Eater(AbstractTower):
    """A tower that is only asked what it eats."""

    def __init__(self, modality: Modality):
        super().__init__()
        self.modality, self.spec, self.out_dim = modality, SPECS[modality], 2

    def forward(self, x: Tensor, prompt: Tensor | None = None) -> Tensor:
        return x.flatten(1)[:, :2].float()


def memory(rows: int, tasks: int = 2) -> Memory:
    of = Model({m: Eater(m) for m in SPECS}, {}, 2, frozenset(SPECS))
    return Memory(of, (ROW + 3 + 16) * rows + 8, seed=0, tasks=tasks)


def media(number: int, count: int, samples: int = SAMPLES, other: Modality = "text") -> Batch:
    """Sounds and one other modality of task ``number``; group 100 * task + row."""
    g = torch.Generator().manual_seed(number)
    x: dict[Modality, Tensor] = {"audio": torch.rand(count, samples, generator=g) * 2 - 1}
    shape, highest = ((count, 3, 4, 4), 256) if other == "image" else ((count, 4), 9)
    x[other] = torch.randint(1, highest, shape, generator=g, dtype=torch.uint8 if other == "image" else torch.long)
    every = torch.arange(count)
    return Batch(x, dict.fromkeys(x, every), 100 * number + every, torch.full((count,), number))


def everything(of: Memory) -> Batch:
    drawn = of.sample(len(of))
    assert drawn is not None
    return drawn[0]


def test_what_comes_out_is_what_went_in_and_sounds_are_exact_to_half_a_sixteen_bit_step() -> None:
    kept, given = memory(8), media(1, 8, other="image")
    kept.add_task(Fixed([given]))
    out = everything(kept)
    order = out.group - 100
    assert sorted(order.tolist()) == list(range(8))
    assert (out.inputs["audio"] - given.inputs["audio"][order]).abs().max() <= 0.5 / 32767 + 1e-7
    assert torch.equal(out.inputs["image"], given.inputs["image"][order])
    assert out.task.tolist() == [1] * 8
    assert kept.get_buffer("x_audio").dtype == torch.int16 and kept.get_buffer("x_image").dtype == torch.uint8


def test_a_stored_sound_is_stored_again_without_further_loss() -> None:
    kept, again = memory(8), memory(8)
    kept.add_task(Fixed([media(1, 8)]))
    again.add_task(Fixed([everything(kept)]))
    first, second = everything(kept), everything(again)
    assert torch.equal(first.inputs["audio"][first.group.argsort()], second.inputs["audio"][second.group.argsort()])


def test_samples_beyond_full_scale_are_clipped_and_do_not_wrap_round() -> None:
    given = media(1, 2)
    given.inputs["audio"][:] = torch.tensor([[1.5], [-1.5]])
    kept = memory(2)
    kept.add_task(Fixed([given]))
    assert sorted(everything(kept).inputs["audio"][:, 0].tolist()) == [-1.0, 1.0]


@pytest.mark.parametrize("samples", [7, SAMPLES, 100])
def test_shorter_sounds_are_filled_up_with_silence_and_longer_ones_cut(samples: int) -> None:
    kept, given = memory(4), media(1, 3, samples)
    kept.add_task(Fixed([given]))
    out = everything(kept)
    n = min(samples, SAMPLES)
    assert out.inputs["audio"].shape == (3, SAMPLES)
    assert torch.allclose(out.inputs["audio"][:, :n], given.inputs["audio"][out.group - 100, :n], atol=1e-4)
    assert (out.inputs["audio"][:, n:] == 0).all()


def test_a_shorter_sound_in_the_place_of_a_longer_one_leaves_nothing_of_it() -> None:
    kept = memory(6)
    kept.add_task(Fixed([media(1, 6)]))
    kept.add_task(Fixed([media(2, 6, samples=5)]))
    out = everything(kept)
    assert (out.inputs["audio"][out.task == 2, 5:] == 0).all() and (out.task == 2).sum() == 3


def test_a_row_without_a_modality_comes_back_without_it() -> None:
    kept, pictures, texts = memory(8), media(1, 4, other="image"), media(2, 4, other="text")
    kept.add_task(Fixed([pictures]))
    kept.add_task(Fixed([texts]))
    out = everything(kept)
    assert len(out) == 8 and out.rows["audio"].tolist() == list(range(8))
    for m, of, number in (("image", pictures, 1), ("text", texts, 2)):
        owners = out.group[out.rows[m]]  # type: ignore[index]
        assert out.task[out.rows[m]].tolist() == [number] * 4  # type: ignore[index]
        assert torch.equal(out.inputs[m][:, :4], of.inputs[m][owners - 100 * number])  # type: ignore[index]


@pytest.mark.parametrize("budget", [600, 1000, 4321])
@pytest.mark.parametrize("extra", [0, 5])
def test_all_that_is_kept_fits_the_budget_and_one_more_row_would_not(budget: int, extra: int) -> None:
    kept = Memory(Model({m: Eater(m) for m in SPECS}, {}, 2, frozenset(SPECS)), budget, seed=0, extra=extra)
    used = sum(b.nbytes for b in kept.buffers())
    assert used <= budget < used + ROW + 3 * 4 * extra + 3 + 16
    shapes = {k: v.shape for k, v in kept.state_dict().items()}
    kept.add_task(Fixed([media(1, 9)]), {m: [torch.zeros(9, extra)] for m in SPECS} if extra else None)
    assert shapes == {k: v.shape for k, v in kept.state_dict().items()}


def test_tasks_share_the_memory_evenly_and_old_rows_are_a_subset_of_what_was_kept() -> None:
    kept, before = memory(13, tasks=4), set[int]()
    for number, share in ((1, 13), (2, 6), (3, 4), (4, 3)):
        kept.add_task(Fixed([media(number, 9), media(number, 11)]))
        tasks = kept.task[kept.task >= 0].tolist()
        assert {t: tasks.count(t) for t in set(tasks)} == dict.fromkeys(range(1, number + 1), share)
        now = {int(g) for g in everything(kept).group}
        assert {g for g in now if g < 100 * number} <= before
        before = now


def test_a_small_task_leaves_its_places_free() -> None:
    kept = memory(10)
    kept.add_task(Fixed([media(1, 3)]))
    assert len(kept) == 3 and len(everything(kept)) == 3


def test_a_budget_that_holds_no_row_of_each_task_is_refused_before_anything_is_trained() -> None:
    memory(3, tasks=3)
    with pytest.raises(UserError, match="no row for each of 4 tasks; give it 788 or more"):
        memory(3, tasks=4)


def test_draws_differ_from_step_to_step_and_go_on_where_a_saved_memory_stopped() -> None:
    kept, other = memory(30), memory(30)
    kept.add_task(Fixed([media(1, 30)]))
    assert not torch.equal(kept.sample(5)[0].group, kept.sample(5)[0].group)  # type: ignore[index]
    other.load_state_dict(kept.state_dict())
    for _ in range(3):
        assert torch.equal(kept.sample(5)[0].group, other.sample(5)[0].group)  # type: ignore[index]


def test_er_puts_stored_rows_behind_the_batch_once_a_task_is_finished() -> None:
    m = model()
    method = Chain([part("er", budget=2000, rows=3)], setup(m))
    first = batch(1)
    assert method.mix(first) is first
    method.end_task(m, task(1), Fixed([batch(1)]))
    mixed = method.mix(batch(2, task=2))
    assert mixed.task.tolist() == [2] * 8 + [1] * 3
    for m_, x in mixed.inputs.items():
        assert torch.equal(x[:8], batch(2).inputs[m_])
        assert torch.allclose(x[8:], batch(1).inputs[m_][mixed.group[8:] - 100].float().double())


def test_der_keeps_the_embeddings_of_the_moment_of_storing_and_measures_how_far_they_moved() -> None:
    m = model(norm=True, dropout=0.5)
    method = Chain([part("der", budget=4000, rows=6, alpha=0.7), part("er", budget=2000, rows=2)], setup(m))
    method.begin_task(m, task(1))
    m.train(), method.train()
    stored = [batch(1), batch(2, modalities=("audio",)), batch(3)]
    method.end_task(m, task(1), Fixed(stored))
    statistics = m.towers["audio"].norm.running_mean.clone()
    assert not statistics.any()  # storing is no training: batch norm saw nothing
    m.eval(), method.eval()
    with torch.no_grad():
        rows = [zip(of.group.tolist(), m.encode("audio", of.inputs["audio"]), strict=True) for of in stored]
        then = {group: z for pairs in rows for group, z in pairs}
        mixed = method.mix(batch(4, task=2))
        assert len(mixed) == 8 + 6 + 2
        same = method.loss(m, mixed, embed_batch(method, m, mixed))
        assert list(same) == ["der/audio"] and float(same["der/audio"]) < 1e-10  # kept as float32
        shake(m, 7)
        now = m.encode("audio", mixed.inputs["audio"])[8:14]
        was = torch.stack([then[int(g)] for g in mixed.group[8:14]])
        moved = method.loss(m, mixed, embed_batch(method, m, mixed))["der/audio"]
    assert float(moved) == pytest.approx(0.7 * float(((now - was) ** 2).sum(1).mean()), rel=1e-5)
