"""A chain of methods is a method: what it joins, in which order, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from handmade import Fixed, batch, model, part, setup, shake, task

from polymnia.continual.chain import Chain, sequential
from polymnia.continual.method import embed_batch
from polymnia.types import Known, UserError

PROMPTING = '''"""Adds a number to every feature."""

from polymnia.continual.method import AbstractMethod, MethodConfig


class Config(MethodConfig):
    by: float = 1.0


class Method(AbstractMethod):
    keeps_towers = True

    def __init__(self, cfg, setup):
        super().__init__()
        self.by = cfg.by

    def features(self, model, modality, x, known):
        return model.features(modality, x) + self.by
'''


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules of a user, each a method that changes the features."""
    for name in ("chain_lab_a", "chain_lab_b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / f"{name[-1]}dder.py").write_text(PROMPTING)
    monkeypatch.syspath_prepend(tmp_path)


def test_terms_are_joined_under_the_names_of_their_methods() -> None:
    m = model()
    parts = [part("lwf"), part("ewc"), part("modx"), part("der", budget=4000, rows=3)]
    chain = Chain(parts, setup(m)).double()
    chain.begin_task(m, task(1))
    chain.end_task(m, task(1), Fixed([batch(1)]))
    chain.begin_task(m, task(2))
    shake(m, 1)
    mixed = chain.mix(batch(2, task=2))
    out = embed_batch(chain, m, mixed)
    joined = chain.loss(m, mixed, out)
    assert list(joined) == ["lwf/audio", "ewc", "modx/audio-text", "der/audio"]
    for method, name, key in zip(chain.methods, joined, ("audio", "", "audio-text", "audio"), strict=True):
        assert torch.equal(method.loss(m, mixed, out)[key], joined[name])
    assert set(chain.facts) == {"modx/kept/audio-text"}


def test_shares_multiply_as_each_method_leaves_its_part_to_the_objective() -> None:
    m = model()
    chain = Chain([part("lwf", weight=0.3), part("er", budget=4000), part("cassle", weight=0.5, first=2)], setup(m))
    assert chain.share == 1
    chain.begin_task(m, task(1))
    assert chain.share == pytest.approx(0.7)
    chain.begin_task(m, task(2))
    assert chain.share == pytest.approx(0.7 * 0.5)


def test_an_empty_chain_adds_nothing() -> None:
    m, x = model(), batch(1)
    chain = Chain([], setup(m))
    chain.begin_task(m, task(1))
    assert chain.mix(x) is x and chain.share == 1 and not chain.prompting
    assert chain.loss(m, x, embed_batch(chain, m, x)) == {}


def test_rows_of_every_memory_join_the_batch_in_order() -> None:
    m = model()
    chain = Chain([part("er", budget=4000, rows=2), part("der", budget=4000, rows=3)], setup(m))
    chain.end_task(m, task(1), Fixed([batch(1)]))
    mixed = chain.mix(batch(2, task=2))
    assert mixed.task.tolist() == [2] * 8 + [1] * 5
    assert mixed.rows["audio"].tolist() == list(range(13))


def test_one_method_may_change_the_features_for_all(lab: None) -> None:
    m, x = model(), batch(1)
    chain = Chain([part("lwf"), part("chain_lab_a.adder", by=2.0)], setup(m))
    assert chain.prompting
    for name, rows in x.inputs.items():
        assert torch.equal(chain.features(m, name, rows, Known()), m.features(name, rows) + 2.0)


def test_two_methods_that_change_the_features_are_refused_by_name(lab: None) -> None:
    with pytest.raises(UserError, match="adder and bdder both change the features"):
        Chain([part("chain_lab_a.adder"), part("lwf"), part("chain_lab_b.bdder")], setup(model()))


def test_a_method_twice_is_refused() -> None:
    with pytest.raises(UserError, match="each method once"):
        Chain([part("lwf"), part("er"), part("lwf", weight=0.5)], setup(model()))


def test_every_task_starts_with_all_that_may_learn_thawed_and_the_rest_frozen() -> None:
    m = model()
    still, chain = Chain([part("frozen", first=2)], setup(m)), Chain([], setup(m))
    for index, trains in ((1, True), (2, False)):
        still.begin_task(m, task(index))
        m.train()
        assert all(p.requires_grad is trains for p in m.towers["audio"].parameters())
        assert m.towers["audio"].training is trains
        assert all(p.requires_grad for p in m.heads.parameters())
    chain.begin_task(m, task(3))
    m.train()
    assert m.towers["audio"].training and all(p.requires_grad for p in m.towers["audio"].parameters())
    assert not m.towers["text"].training and not any(p.requires_grad for p in m.towers["text"].parameters())


def test_what_is_kept_at_the_end_of_a_task_is_computed_in_eval_mode() -> None:
    m = model(norm=True, dropout=0.5)
    chain = Chain([part("ewc"), part("der", budget=4000)], setup(m))
    before = {k: v.clone() for k, v in m.state_dict().items()}
    kept = []
    for _ in range(2):
        fresh = Chain([part("ewc"), part("der", budget=4000)], setup(m))
        m.train(), fresh.train()
        fresh.begin_task(m, task(1))
        fresh.end_task(m, task(1), Fixed([batch(1), batch(2)]))
        kept.append(fresh.state_dict())
    assert all(torch.equal(v, kept[1][k]) for k, v in kept[0].items())  # no dropout
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())  # and no statistics moved
    assert kept[0].keys() == chain.state_dict().keys()


def test_a_joint_run_is_one_that_any_method_asks_for() -> None:
    assert sequential([]) and sequential([part("lwf"), part("er")])
    assert not sequential([part("lwf"), part("joint")])
