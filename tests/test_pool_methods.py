"""What L2P, DualPrompt and CODA-Prompt have in common, and their runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pool_parts import EVERY, PAIRS, learn, plain, small
from prompt_miniatures import PROMPTED, Dummy, batch, model, setup, task
from test_lpi_parts import shaken
from test_prompt_methods import features, kept, made
from tiny import tiny
from torch import nn

from polymnia.continual.method import embed_batch
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.continual.snapshot import Snapshot
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.models.towers import tiny_audio
from polymnia.runs.life import Session
from polymnia.types import MODALITIES, Batch, Known, Modality, UserError


@pytest.mark.parametrize("use", EVERY)
def test_a_tower_is_plain_until_a_task_of_its_modality_is_learned_or_being_learned(use: str) -> None:
    of = model(*MODALITIES)
    method, inputs = small(use, of), batch(of).inputs
    for m, x in inputs.items():
        assert torch.equal(features(method, of, m, x, [1] * 6), of.features(m, x))
    method.begin_task(of, task(1, ("audio", "image")))
    shaken(method)
    moved = {
        m for m, x in inputs.items() if not torch.allclose(features(method, of, m, x, [1] * 6), of.features(m, x))
    }
    assert moved == {"audio", "image"}


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("use", EVERY)
def test_all_that_trains_hears_from_the_loss_for_any_pair_and_no_tower_does(
    use: str, pair: tuple[Modality, Modality]
) -> None:
    of = model(*pair)
    method = small(use, of, heads=False, scale=False, **({"pool": 2} if use == "l2p" else {}))
    learn(method, of, 1)
    method.begin_task(of, task(2, pair))
    method.train()
    rows = _only(batch(model(*MODALITIES), index=2), pair)
    out = embed_batch(method, of, rows)
    terms = {**Objective(ObjectiveConfig(), (pair,))(of, rows, out), **method.loss(of, rows, out)}
    torch.stack(list(terms.values())).sum().backward()
    trains = {n for n, p in method.named_parameters() if p.requires_grad}
    assert trains and trains == {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert not any(p.requires_grad or p.grad is not None for p in of.parameters())


def _only(whole: Batch, chosen: tuple[Modality, ...]) -> Batch:
    inputs = {m: whole.inputs[m] for m in chosen}
    return Batch(inputs, {m: whole.rows[m] for m in chosen}, whole.group, whole.task)


@pytest.mark.parametrize("use", EVERY)
def test_the_state_alone_says_how_an_encoder_serves_and_no_row_depends_on_another(use: str) -> None:
    of = model(*MODALITIES)
    method, other = small(use, of), small(use, of)
    learn(method, of, 2)
    other.load_state_dict(method.state_dict(), strict=True)
    for m, x in batch(of).inputs.items():
        got = features(method, of, m, x)
        assert torch.equal(features(other, of, m, x), got)
        assert torch.allclose(torch.cat([features(method, of, m, x[[i]]) for i in range(6)]), got, atol=1e-10)
        assert torch.equal(features(method, of, m, x, [1, 2, 3, 1, 2, 0]), got)  # what it is told changes nothing


@pytest.mark.parametrize("use", EVERY)
def test_a_query_that_is_known_is_not_asked_for_again_and_counts_by_its_direction(use: str) -> None:
    of = model(*MODALITIES)
    method, (m, x) = small(use, of), ("image", batch(of).inputs["image"])
    learn(method, of, 2)
    query = torch.tensor(plain(of, m, x)).float()
    runs: list[int] = []
    of.tower(m).register_forward_hook(lambda *_: runs.append(1))
    first = method.features(of, m, x, Known(query=query))
    assert len(runs) == 1 and method.asks
    assert torch.allclose(method.features(of, m, x, Known(query=7 * query)), first, atol=1e-6)
    assert not torch.allclose(method.features(of, m, x, Known(query=-query)), first, atol=1e-3)


@pytest.mark.parametrize("use", EVERY)
def test_a_gate_that_is_shut_hides_all_prompts(use: str) -> None:
    of = model(*MODALITIES)
    method = small(use, of, gate=-1.0)
    learn(method, of, 3)
    gates = [p for n, p in method.named_parameters() if "gates" in n]
    with torch.no_grad():
        for p in gates:
            p.fill_(-200.0)
    for m, x in batch(of).inputs.items():
        assert torch.allclose(features(method, of, m, x), of.features(m, x), atol=1e-10)


@pytest.mark.parametrize("use", EVERY)
def test_a_teacher_serves_as_the_last_task_left_it_while_the_next_one_is_learned(use: str) -> None:
    of = model(*MODALITIES)
    method = small(use, of)
    learn(method, of, 2)
    x = batch(of).inputs["image"]
    before = features(method, of, "image", x)
    method.begin_task(of, task(3, *PAIRS))
    teacher = Snapshot(replace(setup(of), prompts=method))
    teacher.take(of)
    shaken(nn.ParameterList(p for p in method.parameters() if p.requires_grad))
    assert torch.equal(teacher.features("image", x, Known(torch.full((6,), 3))), before)


@pytest.mark.parametrize(
    ("use", "whole", "a_task"),
    [
        ("l2p", 10 * 5 * 768 + 10 * 768, 10 * 5 * 768 + 10 * 768),
        # 5 keys and 5 values at 2 blocks; of each task 20 and 20 at 3 blocks, and a key
        ("dualprompt", 15_360 + 4 * (92_160 + 768), 15_360 + 92_160 + 768),
        ("coda", 4 * 384_000, 384_000),  # 100 components of the paper's size have 3.84 M
    ],
)
def test_it_has_as_many_parameters_as_the_formulas_say(use: str, whole: int, a_task: int) -> None:
    towers: dict[Modality, AbstractTower] = {m: Dummy(m, (768,) * 12) for m in ("audio", "text")}
    for tower in towers.values():
        tower.out_dim = 768
    of = Model(towers, {}, 768, frozenset(towers), 4)
    method = made(use, of, 4, heads=False, scale=False)
    assert sum(p.numel() for p in method.parameters()) == 2 * whole
    method.begin_task(of, task(1, ("audio", "text")))
    assert sum(p.numel() for part in (of, method) for p in part.parameters() if p.requires_grad) == 2 * a_task


@pytest.mark.parametrize("use", EVERY)
def test_a_task_that_trains_nothing_and_a_tower_that_takes_no_prompts_are_errors(use: str) -> None:
    of = model(*MODALITIES)
    method = small(use, of, heads=False, scale=False, modalities=["text"])
    with pytest.raises(UserError, match="trains nothing: only text is prompted"):
        method.begin_task(of, task(1, ("audio", "image")))
    conv = {"audio": tiny_audio.Tower(tiny_audio.Config(arch="conv", out_dim=4)), "text": Dummy("text", (16, 16))}
    with pytest.raises(UserError, match="towers.audio .* takes no prompts"):
        small(use, Model(conv, {}, 4, frozenset(conv), 3))


KEY = ("routers.{m}.keys.{t}",)


@pytest.mark.parametrize("use", ["dualprompt", "coda"])
def test_what_a_finished_task_left_stays_to_the_bit_under_weight_decay_rehearsal_and_a_gate(
    use: str, shared: Path, tmp_path: Path
) -> None:
    method = [{"use": use, "gate": -1.0}, {"use": "er", "rows": 4}]
    run = Session(tiny(shared, tmp_path, method=method, examples=0, train__weight_decay=0.5, **PROMPTED)).go()
    states = [kept(run.folder, after) for after in range(4)]
    parts = {
        "coda": ("banks.{m}.{t}.",),
        "dualprompt": ("expert_keys.tasks.{t}.{m}.", "expert_values.tasks.{t}.{m}.", "expert_gates.{t}.{m}.", *KEY),
    }[use]
    has = {"audio": (0, 1, 2), "image": (0, 2), "text": (1,)}
    for m in MODALITIES:
        for t in range(3):
            names = tuple("method." + part.format(m=m, t=t) for part in parts)
            own = [k for k in states[0] if k.startswith(names)]
            assert len(own) >= 4
            moved = [[k for k in own if not torch.equal(a[k], b[k])] for a, b in zip(states, states[1:], strict=False)]
            assert [bool(keys) for keys in moved] == [t == at and t in has[m] for at in range(3)]
            assert not moved[t] or moved[t] == own


@pytest.mark.parametrize(
    "method",
    [
        [{"use": "l2p", "vote": True, "read": "prompts", "weight": 0}],
        [{"use": "l2p", "gate": -2.0, "heads": False}, {"use": "er", "rows": 4}],
        [{"use": "l2p", "modalities": ["audio"], "top_n": 1}, "lwf"],
        [{"use": "dualprompt", "general": [], "expert": [0], "weight": 0}, "lwf"],
        [{"use": "dualprompt", "general": [0, 1], "expert": [0, 1], "heads": False, "scale": False}],
        [{"use": "coda", "ortho": 0.1, "per_task": 3, "blocks": [1]}, {"use": "er", "rows": 4}],
        ["lwf", {"use": "coda", "heads": False, "scale": False}],
        *([["joint", use] for use in EVERY]),
    ],
    ids=str,
)
def test_other_settings_and_chains_learn_a_sequence(method: list, shared: Path, tmp_path: Path) -> None:
    run = Session(tiny(shared, tmp_path, method=method, examples=0, **PROMPTED)).go()
    assert run.matrix["rows"] == ([0, 3] if "joint" in method else [0, 1, 2, 3])
    first, last = kept(run.folder, 0), kept(run.folder, 3)
    assert any(k.startswith("method.") and not torch.equal(v, first[k]) for k, v in last.items())


@pytest.mark.parametrize("use", EVERY)
def test_the_first_row_of_a_run_is_the_plain_model(use: str, shared: Path, tmp_path: Path) -> None:
    row = [
        Session(tiny(shared, tmp_path / name, method=[name], examples=0, **PROMPTED)).go().matrix["score"]["latest"][0]
        for name in (use, "finetune")
    ]
    assert row[0] == row[1]


def test_prompts_of_a_joint_run_are_those_of_one_task(shared: Path, tmp_path: Path) -> None:
    run = Session(tiny(shared, tmp_path, method=["joint", "dualprompt"], examples=0, **PROMPTED)).go()
    first, last = kept(run.folder, 0), kept(run.folder, 3)
    moved = {
        k.split(".")[3] for k in last if k.startswith("method.expert_keys") and not torch.equal(last[k], first[k])
    }
    assert moved == {"0"}


def test_a_choice_by_keys_is_scored_as_routing_and_is_a_share_of_the_task_s_items(
    shared: Path, tmp_path: Path
) -> None:
    run = Session(tiny(shared, tmp_path, method=["dualprompt"], examples=0, **PROMPTED)).go()
    values = run.matrix["values"]["latest"]
    first = values[run.matrix["tasks"][0]]
    assert first["routing/audio"][0] is None  # nothing was learned yet
    assert first["routing/audio"][1] == 100  # there is one task to choose
    assert all(0 <= score <= 100 for score in first["routing/audio"][2:])
