"""LPI as a method: what it counts, where its prompts enter, whom they serve, and what a task leaves as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prompt_miniatures import PROMPTED, SWIN, batch, dummies, model, pictures, setup, task
from pydantic import ValidationError
from safetensors.torch import load_file
from test_lpi_parts import array, cross_entropy, heard, matrix, normed, shaken, softplus, two_means
from tiny import tiny
from torch import Tensor

from polymnia.config import parse_part
from polymnia.continual.method import Setup, embed_batch
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.continual.taskdistance import task_map
from polymnia.methods.lpi import Config, Method
from polymnia.models.model import Model
from polymnia.runs.life import Session
from polymnia.types import MODALITIES, Batch, Known, Modality, UserError

PLAIN = {"align": 0, "contrast": 0}


def made(of: Model, tasks: int = 3, **settings: Any) -> Method:
    torch.manual_seed(1)
    return Method(Config(**{"length": 4, **settings}), setup(of, tasks)).double().eval()


def finish(method: Method, of: Model, upto: int) -> None:
    """Learn so many tasks, as far as prompts and routers go."""
    for index in range(1, upto + 1):
        method.begin_task(of, task(index))
        shaken(method.bank.tasks[index - 1], index)
        method.end_task(of, task(index), [batch(of, 8, index, seed=index)])


# Counts


@pytest.mark.parametrize(
    ("model_of", "settings", "expected"),
    [
        ("clip", {"interaction": None}, 5_284),
        ("clip", {}, 18_188),
        ("clip", {"share_layer_factor": False, "interaction": None}, 5_320),
        ("swin", {"interaction": None}, 3_620),
        ("swin", {}, 12_364),
        ("swin", {"share_layer_factor": False}, 12_400),
        ("clip", {"rank": None, "interaction": None}, 184_320),
        ("swin", {"rank": None, "interaction": None}, 124_416),
        ("swin", {"rank": None, "depth": 1}, 22_568),  # the release's DCP
        ("clip", {"rank": None, "depth": 1, "interaction": None}, 20_480),  # its S-Prompts
    ],
)
def test_a_task_has_as_many_parameters_as_the_formulas_say(model_of: str, settings: dict, expected: int) -> None:
    of = dummies() if model_of == "clip" else dummies(SWIN, (768,) * 12)
    method = Method(Config(**{"contrast": 0, **settings}), setup(of, 1))
    method.begin_task(of, task(1))
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == expected
    assert sum(p.numel() for p in method.parameters()) == expected


@pytest.mark.parametrize(
    ("rank", "clip", "swin"),
    [
        (1, 77_604, 52_644),
        (2, 124_488, 84_552),
        (4, 218_256, 148_368),
        (8, 405_792, 276_000),
        (16, 780_864, 531_264),
    ],
)
def test_twelve_tasks_count_as_the_table_by_rank_says(rank: int, clip: int, swin: int) -> None:
    for of, expected in ((dummies(), clip), (dummies(SWIN, (768,) * 12), swin)):
        cfg = Config(rank=rank, interaction={"rank": rank})
        method = Method(cfg, Setup(of, lambda *_: {}, 12, 0, tuple(map(str, range(12)))))
        assert sum(p.numel() for p in method.parameters()) == expected


def test_the_defaults_train_the_prompts_of_one_task_and_no_head_or_temperature() -> None:
    of = model()
    method = made(of, contrast=0)
    method.begin_task(of, task(2))
    assert not any(p.requires_grad for p in of.parameters())
    held = {n for n, p in method.named_parameters() if p.requires_grad}
    assert held == {
        n for n, _ in method.named_parameters() if n.startswith(("bank.tasks.1.", "interactions.tasks.1."))
    }


# Where prompts enter


class Watch:
    """What stands in the slots behind the class token before and after each block of the text tower."""

    def __init__(self, of: Model, slots: int):
        self.before: list[np.ndarray] = []
        self.after: list[np.ndarray] = []
        for block in of.tower("text").blocks:
            block.register_forward_pre_hook(lambda _, args: self.before.append(array(args[0][:, 1 : 1 + slots])))
            block.register_forward_hook(lambda _, args, out: self.after.append(array(out[:, 1 : 1 + slots])))


def prompts_by_hand(method: Method, index: int, m: str = "text") -> np.ndarray:
    own = method.bank.tasks[index - 1]
    a, b, c = array(own.layers["common"]), array(own.tokens[m]), array(own.channels[m])
    return np.einsum("lk,pk,dk->lpd", a, b, c) / 4


@pytest.mark.parametrize("deep", ["add", "replace", "none"])
def test_prompts_reach_every_block_below_the_depth_in_the_way_that_deep_says(deep: str) -> None:
    of = model(layers=4)
    method = made(of, deep=deep, depth=3, interaction=None, contrast=0).train()
    shaken(method.bank)
    ids = batch(of).inputs["text"]
    seen = Watch(of, 4)
    method.features(of, "text", ids, Known(torch.full((6,), 2)))
    p = prompts_by_hand(method, 2)
    assert np.allclose(seen.before[0], p[0])
    for block in (1, 2):
        added, new = seen.after[block - 1] + p[block], np.broadcast_to(p[block], seen.before[block].shape)
        expected = {"add": added, "replace": new, "none": seen.after[block - 1]}[deep]
        assert np.allclose(seen.before[block], expected)
        assert np.abs(p[block]).max() > 0.1
    assert np.allclose(seen.before[3], seen.after[2])  # behind the depth slots go on as they are


def test_the_interaction_is_at_work_before_every_block_from_its_first_to_its_depth() -> None:
    of = model(layers=4)
    method = made(of, depth=3, interaction={"mix": 0.4, "depth": 4}, contrast=0).train()
    shaken(method.bank), shaken(method.interactions)
    seen = Watch(of, 4)
    method.features(of, "text", batch(of).inputs["text"], Known(torch.full((6,), 2)))
    own, partner = prompts_by_hand(method, 2), prompts_by_hand(method, 2, "image")
    maps, norm = method.interactions.tasks[1].maps["text"], method.interactions.tasks[1].norms["text"]
    assert np.allclose(seen.before[0], own[0])
    for block in (1, 2, 3):
        slots = seen.after[block - 1] + (own[block] if block < 3 else 0)
        spoken = heard(partner[min(block, 2)], matrix(maps)[block])
        assert np.allclose(seen.before[block], normed(0.6 * slots + 0.4 * spoken, norm))


def test_every_layer_of_the_prompts_gets_a_gradient_from_the_objective_alone() -> None:
    of = model()
    method = made(of, interaction=None, **PLAIN).train()
    method.begin_task(of, task(1))
    sides = batch(of)
    out = embed_batch(method, of, sides)
    Objective(ObjectiveConfig(), (("image", "text"),))(of, sides, out)["contrast/image-text"].backward()
    grad = method.bank.tasks[0].layers["common"].grad
    assert grad.shape == (3, 4) and (grad.abs() > 1e-12).all()


def test_the_depth_is_nine_or_what_the_smallest_tower_has() -> None:
    assert made(dummies(), 1, contrast=0).depth == 9
    assert made(dummies(text=(512,) * 5), 1, contrast=0).depth == 5
    with pytest.raises(UserError, match="depth 6: towers.text has 5 blocks"):
        made(dummies(text=(512,) * 5), 1, depth=6)


def test_prompts_are_folded_for_a_tower_that_widens() -> None:
    of = dummies(SWIN, (768,) * 12)
    method = Method(Config(contrast=0), setup(of, 1))
    front = method._prompt("image", torch.tensor([1, 1])).front
    assert [tuple(t.shape) for t in front] == [(2, 16 * 96 // w, w) for w in SWIN[:9]]
    assert torch.equal(front[3].flatten(1)[0], method.bank("image", [1])[0, 3].flatten())


# Whom prompts serve


def test_before_the_first_task_the_towers_are_plain() -> None:
    of = model()
    method, x = made(of), pictures(4)
    for known in (Known(), Known(torch.tensor([1, 2, 3, 0]))):
        assert torch.equal(method.features(of, "image", x, known), of.features("image", x))


@pytest.mark.parametrize("gate", [None, -1.0])
def test_each_row_is_served_by_its_own_task_and_one_of_none_by_the_plain_tower(gate: float | None) -> None:
    of = model()
    method = made(of, gate=gate, contrast=0)
    shaken(method)
    method.train()
    x, tasks = pictures(5), torch.tensor([3, 0, 1, 3, 2])
    together = method.features(of, "image", x, Known(tasks))
    alone = torch.cat([method.features(of, "image", x[[i]], Known(tasks[[i]])) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-10)
    assert torch.allclose(together[1], of.features("image", x)[1], atol=1e-10)
    every = torch.stack([method.features(of, "image", x[[4]], Known(torch.tensor([t])))[0] for t in range(4)])
    assert torch.pdist(every).min() > 1e-3  # the prompts of other tasks, or of none, serve otherwise


def test_only_the_prompts_that_a_batch_uses_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    of = model()
    method = made(of, contrast=0).train()
    asked: list[int] = []
    for number, own in enumerate(method.bank.tasks, start=1):
        own.register_forward_pre_hook(lambda *_, number=number: asked.append(number))
    method.features(of, "image", pictures(4), Known(torch.tensor([3, 1, 3, 3])))
    assert set(asked) == {1, 3}


def test_in_evaluation_the_nearest_centre_chooses_and_only_an_oracle_is_told() -> None:
    of = model()
    for oracle in (False, True):
        method = made(of, select={"oracle": oracle, "centres": 3})
        finish(method, of, 2)
        x = batch(of, 8, seed=1).inputs["image"]  # what task 1 was learned from
        one, two = (torch.full((8,), t) for t in (1, 2))
        method.train()
        true, other = method.features(of, "image", x, Known(one)), method.features(of, "image", x, Known(two))
        assert not torch.allclose(true, other, atol=1e-3)
        method.eval()
        assert torch.allclose(method.features(of, "image", x, Known(two)), other if oracle else true, atol=1e-10)
        assert torch.allclose(method.features(of, "image", x, Known()), true, atol=1e-10)
        query = of.features("image", batch(of, 8, seed=2).inputs["image"])  # a query that was computed before
        if not oracle:
            assert torch.allclose(method.features(of, "image", x, Known(one, query)), other, atol=1e-10)


def test_a_task_without_a_modality_teaches_its_router_nothing() -> None:
    of = model("audio", "image", "text")
    method = made(of, contrast=0, select={"centres": 3})
    for index, pair in enumerate((("audio", "image"), ("audio", "text"), ("audio", "image")), start=1):
        method.begin_task(of, task(index, pair))
        whole = batch(of, 8, index, seed=index)
        part = Batch({m: whole.inputs[m] for m in pair}, {m: whole.rows[m] for m in pair}, whole.group, whole.task)
        method.end_task(of, task(index, pair), [part])
    left = {m: router.left.int().tolist() for m, router in method.routers.items()}
    assert left == {"audio": [1, 1, 1], "image": [1, 0, 1], "text": [0, 1, 0]}
    chosen = method.routers["text"].choose(torch.randn(4, 5).double(), torch.tensor([1, 2, 3, 3]))
    assert chosen.tolist() == [2, 2, 2, 2]  # also for items of task 3: nobody learned their texts
    found = task_map(method)
    assert bool(found["prompts/image"][0, 2].isfinite()) and bool(found["prompts/image"][0, 1].isnan())


# Losses


def learned(**settings: Any) -> tuple[Model, Method, dict[str, float]]:
    """LPI in the middle of its third task, and the terms of its loss."""
    of = model()
    method = made(of, select={"centres": 3}, **settings)
    finish(method, of, 2)
    method.begin_task(of, task(3))
    shaken(method.bank.tasks[2], 9)
    method.train()
    sides = batch(of, index=3)
    terms = method.loss(of, sides, embed_batch(method, of, sides))
    return of, method, {k: float(v.detach()) for k, v in terms.items()}


def cosine_square(rows: np.ndarray) -> np.ndarray:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def names_by_hand(of: Model) -> np.ndarray:
    tower = of.tower("text")
    texts = ["small cats", "big dogs", "rain"]
    return cosine_square(np.concatenate([array(tower(tower.prepare([t]))) for t in texts]))


def flat(method: Method, m: str) -> np.ndarray:
    return np.stack([prompts_by_hand(method, t, m).ravel() for t in (1, 2, 3)])


@pytest.mark.parametrize("form", ["raw", "cosine"])
def test_the_terms_by_hand(form: str) -> None:
    of, method, terms = learned(align_form=form, align_temperature=0.3, contrast_temperature=0.2)
    v, t = (prompts_by_hand(method, 3, m).mean(2) for m in ("image", "text"))
    if form == "cosine":
        v, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, t))
    g = v @ t.T / (0.3 if form == "cosine" else 0.09)
    assert set(terms) == {"align", "contrast"}
    assert terms["align"] == pytest.approx(0.1 * (cross_entropy(g) + cross_entropy(g.T)) / 2, rel=1e-6)
    s = names_by_hand(of)
    y = s > np.quantile([s[0, 1], s[0, 2], s[1, 2]], 0.75)
    assert y[~np.eye(3, dtype=bool)].sum() == 2
    sides = []
    for m in ("image", "text"):
        z = cosine_square(flat(method, m)) / 0.2
        sides.append(two_means(np.where(y, softplus(-z), softplus(z)), y, ~np.eye(3, dtype=bool)))
    assert terms["contrast"] == pytest.approx(0.1 * np.mean(sides), rel=1e-6)


def test_soft_and_released_forms_of_the_task_contrast_by_hand() -> None:
    given = ((1.0, 0.6, 0.1), (0.6, 1.0, 0.5), (0.1, 0.5, 1.0))
    _, method, terms = learned(align=0, soft=True, similarities=given)
    off, y = ~np.eye(3, dtype=bool), np.array(given)
    sides = []
    for m in ("image", "text"):
        z = cosine_square(flat(method, m)) / 0.1
        sides.append((y * softplus(-z) + (1 - y) * softplus(z))[off].mean())
    assert terms == {"contrast": pytest.approx(0.1 * np.mean(sides), rel=1e-6)}
    _, method, terms = learned(align=0, released=True, threshold=0.4, similarities=given)
    y, sides = np.array(given) > 0.4, []
    for m in ("image", "text"):
        z = 1 / (1 + np.exp(-(cosine_square(flat(method, m)) - np.eye(3)) / 0.001))
        z[np.eye(3, dtype=bool)] = 1
        sides.append(two_means(np.where(y, softplus(-z), softplus(z)), y, np.ones((3, 3), dtype=bool)))
    assert terms == {"contrast": pytest.approx(0.1 * np.mean(sides), rel=1e-5)}


def test_the_first_task_has_no_task_contrast_and_weights_of_zero_leave_no_term() -> None:
    of = model()
    method = made(of)
    method.begin_task(of, task(1))
    sides = batch(of)
    assert set(method.loss(of, sides, embed_batch(method, of, sides))) == {"align"}
    assert learned(**PLAIN)[2] == {}


def test_the_gradient_of_both_terms_reaches_the_prompts_of_the_current_task_alone() -> None:
    of = model()
    method = made(of, select={"centres": 3})
    finish(method, of, 2)
    method.begin_task(of, task(3))
    sides = batch(of, index=3)
    method.requires_grad_(True)  # even if older ones were free
    for term in method.loss(of, sides, embed_batch(method, of, sides)).values():
        term.backward()
    assert {n.split(".")[2] for n, p in method.named_parameters() if p.grad is not None and p.grad.any()} == {"2"}


def test_of_three_towers_the_first_of_the_task_is_aligned_with_each_of_its_others() -> None:
    of = model("audio", "image", "text")
    method = made(of, align_temperature=0.3, contrast=0)
    means = {m: prompts_by_hand(method, 1, m).mean(2) / 0.3 for m in MODALITIES}

    def term(*pairs: tuple[Modality, Modality]) -> float:
        method.begin_task(of, task(1, *pairs))
        return float(method.loss(of, batch(of), embed_batch(method, of, batch(of)))["align"].detach())

    def by_hand(one: str, other: str) -> float:
        g = means[one] @ means[other].T
        return 0.1 * (cross_entropy(g) + cross_entropy(g.T)) / 2

    assert term(("image", "text")) == pytest.approx(by_hand("image", "text"))
    both = (by_hand("audio", "image") + by_hand("audio", "text")) / 2
    assert term(("audio", "image"), ("audio", "text")) == pytest.approx(both)


def test_only_finished_tasks_that_had_the_modality_are_contrasted_with() -> None:
    of = model("audio", "image", "text")
    given = ((1.0, 0.9, 0.2), (0.9, 1.0, 0.1), (0.2, 0.1, 1.0))
    method = made(of, align=0, soft=True, similarities=given, select={"centres": 3})
    for index, pair in enumerate((("audio", "image"), ("audio", "text"), ("image", "text")), start=1):
        method.begin_task(of, task(index, pair))
        if index < 3:
            whole = batch(of, 8, index, seed=index)
            part = Batch({m: whole.inputs[m] for m in pair}, {m: whole.rows[m] for m in pair}, whole.group, whole.task)
            method.end_task(of, task(index, pair), [part])
    sides = []
    for m, before, y in (("image", 1, 0.2), ("text", 2, 0.1)):
        z = cosine_square(np.stack([prompts_by_hand(method, t, m).ravel() for t in (before, 3)]))[0, 1] / 0.1
        sides.append(y * softplus(-z) + (1 - y) * softplus(z))
    terms = method.loss(of, batch(of), embed_batch(method, of, batch(of)))
    assert float(terms["contrast"].detach()) == pytest.approx(0.1 * np.mean(sides), rel=1e-6)


# Errors


def test_what_cannot_be_is_an_error_that_names_the_key() -> None:
    with pytest.raises(UserError, match="rank 9 is above the 8 numbers of a token of towers.image"):
        made(model(), rank=9)
    with pytest.raises(UserError, match=r"2 tower.* but text can be prompted"):
        made(model("text"))
    alone = made(model("text"), align=0, interaction=None)
    assert alone.bank.modalities == ("text",)
    with pytest.raises(ValidationError, match="released and soft"):
        Config(released=True, soft=True)
    unread = made(dummies(), 2)
    with pytest.raises(UserError, match=r"similarities: \[\[1, ...\], ...\]"):
        unread.begin_task(dummies(), task(1))
    with pytest.raises(UserError, match="2 tasks need 2 rows"):
        made(dummies(), 2, similarities=((1.0,),))


# Runs


def old_tasks(folder: Path, after: int, finished: int) -> dict[str, Tensor]:
    kept = load_file(folder / "encoders" / f"after-{after}.safetensors")
    parts = tuple(f"method.{p}.{n}." for p in ("bank.tasks", "interactions.tasks", "gates") for n in range(finished))
    return {k: v for k, v in kept.items() if k.startswith(parts)}


def test_finished_tasks_stay_to_the_bit_under_weight_decay_rehearsal_and_a_gate(shared: Path, tmp_path: Path) -> None:
    method = [{"use": "lpi", "gate": -1.0}, {"use": "er", "rows": 4}]
    run = Session(tiny(shared, tmp_path, method=method, examples=0, train__weight_decay=0.5, **PROMPTED)).go()
    first = old_tasks(run.folder, 1, 1)
    assert len(first) == 7 + 9 + 6 + 6  # factors, maps, norms, gates
    for after in (2, 3):
        later = old_tasks(run.folder, after, 1)
        assert all(torch.equal(v, later[k]) for k, v in first.items())
    second, last = old_tasks(run.folder, 2, 2), old_tasks(run.folder, 3, 2)
    assert all(torch.equal(v, last[k]) for k, v in second.items())
    unused = old_tasks(run.folder, 1, 2)
    assert any(not torch.equal(v, second[k]) for k, v in unused.items())  # the second task did learn


@pytest.mark.parametrize(
    "part",
    [
        {"rank": None, "depth": 1, "interaction": {"rank": None}, "align": 0, "contrast": 0},  # like DCP
        {"deep": "none", "interaction": None, "released": True, "threshold": 0.4},  # as released
        {"deep": "replace", "soft": True, "align_form": "cosine", "share_layer_factor": False},
    ],
    ids=["dcp", "released", "replace"],
)
def test_other_settings_learn_a_sequence(part: dict, shared: Path, tmp_path: Path) -> None:
    run = Session(tiny(shared, tmp_path, method=[{"use": "lpi", **part}], examples=0, **PROMPTED)).go()
    assert run.matrix["rows"] == [0, 1, 2, 3]
    state = load_file(run.folder / "encoders" / "after-3.safetensors")
    started = load_file(run.folder / "encoders" / "after-0.safetensors")
    moved = {k.split(".")[3] for k, v in state.items() if "tasks" in k and not torch.equal(v, started[k])}
    assert moved >= {"0", "1", "2"}
    begun = load_file(run.folder / "encoders" / "after-1.safetensors")["method.similarity.matrix"]
    assert torch.equal(state["method.similarity.matrix"], begun)  # read when the first task begins, and kept
    assert begun.diagonal().tolist() == [1, 1, 1]


def test_the_rows_of_a_joint_run_are_all_of_its_only_task(shared: Path, tmp_path: Path) -> None:
    method = ["joint", {"use": "lpi", "select": {"centres": 2}, "align": 0, "contrast": 0}]
    run = Session(tiny(shared, tmp_path, method=method, examples=0, **PROMPTED)).go()
    first, last = (load_file(run.folder / "encoders" / f"after-{n}.safetensors") for n in (0, 3))
    banks = [k for k in last if k.startswith("method.bank.tasks.")]
    moved = {k.split(".")[3] for k in banks if not torch.equal(last[k], first[k])}
    assert moved == {"0"} and {k.split(".")[3] for k in banks} == {"0", "1", "2"}


@pytest.mark.parametrize("use", ["ptat", "lpi"])
def test_a_task_that_neither_prompts_nor_trains_anything_is_refused(use: str) -> None:
    of = model("audio", "image", "text")
    settings = {"ptat": {"coupling": "none"}, "lpi": {"align": 0, "contrast": 0, "interaction": None}}[use]
    chosen = parse_part("methods", {"use": use, "modalities": ["text"], "heads": False, "scale": False, **settings})
    method = chosen.module.Method(chosen.config, setup(of))
    with pytest.raises(UserError, match=r"\(audio-image\) trains nothing"):
        method.begin_task(of, task(1, ("audio", "image")))
