"""PTAT as a method: where its tokens stand, its two terms by hand, and what weights of zero leave as it is."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import kl, softmax
from prompt_miniatures import PROMPTED, batch, model
from pydantic import ValidationError
from safetensors.torch import load_file
from test_lpi_parts import array, shaken
from tiny import tiny
from torch import Tensor, nn

from polymnia.continual.method import Setup, embed_batch
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.methods.ptat import Config, Method
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.runs.life import Session
from polymnia.types import Batch, Known, Outputs, Pair, Task, Terms, UserError

PAIR: Pair = ("audio", "text")


def made(of: Model, **settings: Any) -> Method:
    torch.manual_seed(1)
    goal = Objective(ObjectiveConfig(), (PAIR,))
    return Method(Config(**settings), Setup(of, goal, 3, 0)).double().eval()


def two(**changes: Any) -> Model:
    return model(*PAIR, **changes)


def task(index: int, *pairs: Pair) -> Task:
    return Task(f"task {index}", index, (), (), (), pairs or (PAIR,))


def later(of: Model, **settings: Any) -> tuple[Method, Method, Model]:
    """PTAT in the middle of its second task; method and model as they were when it began."""
    method = made(of, **settings)
    method.begin_task(of, task(1))
    shaken(method.prompts, 1), shaken(of.heads, 2)
    method.begin_task(of, task(2))
    before = copy.deepcopy(method), copy.deepcopy(of)
    for p, q in ((method.prompts, 3), (of.heads, 4)):
        moved(p, q, 0.1)
    of.train(), method.train()
    return method, *before


def moved(module: nn.Module, seed: int, by: float) -> None:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(by * torch.randn(p.shape, generator=g, dtype=p.dtype))


def terms(method: Method, of: Model, sides: Batch) -> Terms:
    return method.loss(of, sides, embed_batch(method, of, sides))


def values(found: Terms) -> dict[str, float]:
    return {name: float(term.detach()) for name, term in found.items()}


def reached(term: Tensor, *modules: nn.Module) -> set[str]:
    """The parameters that the term has a gradient for."""
    every = [(n, p) for module in modules for n, p in module.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(term, [p for _, p in every], allow_unused=True, retain_graph=True)
    return {n for (n, _), g in zip(every, grads, strict=True) if g is not None and g.abs().sum() > 0}


# Towers


class Watch:
    """The sequences of the text tower before and after each of its blocks."""

    def __init__(self, of: Model):
        self.before: list[np.ndarray] = []
        self.after: list[np.ndarray] = []
        for block in of.tower("text").blocks:
            block.register_forward_pre_hook(lambda _, args: self.before.append(array(args[0])))
            block.register_forward_hook(lambda _, args, out: self.after.append(array(out)))


@pytest.mark.parametrize("depth", [None, 1, 2])
def test_tokens_stand_around_the_words_of_every_block_of_the_depth_and_then_go_on(depth: int | None) -> None:
    of = two()
    method = made(of, depth=depth, length=2)
    method.begin_task(of, task(1))
    shaken(method.prompts)
    seen, ids = Watch(of), batch(of).inputs["text"]
    method.features(of, "text", ids, Known())
    prompt, new = method.prompts("text", len(ids)), depth or 3
    for block in range(3):
        front, back = seen.before[block][:, 1:3], seen.before[block][:, -2:]
        assert seen.before[block].shape[1] == ids.shape[1] + 4
        if block < new:
            assert np.allclose(front, array(prompt.front[block])) and np.allclose(back, array(prompt.back[block]))
        else:
            assert np.allclose(front, seen.after[block - 1][:, 1:3])
            assert np.allclose(back, seen.after[block - 1][:, -2:])


@pytest.mark.parametrize("coupling", ["a->t", "t->a", "none"])
def test_the_gradient_of_a_follower_reaches_the_leader_through_the_maps(coupling: str) -> None:
    of = two()
    method = made(of, coupling=coupling)
    method.begin_task(of, task(1))
    sides, found = batch(of), {}
    for m in PAIR:
        h = method.features(of, m, sides.inputs[m], Known()).square().sum()
        found[m] = {".".join(n.split(".")[:2]) for n in reached(h, method.prompts, of)}
    expected = {
        "a->t": {"audio": {"front.audio"}, "text": {"front.audio", "to_front.text", "to_back.text"}},
        "t->a": {"audio": {"front.text", "to_front.audio"}, "text": {"front.text", "back.text"}},
        "none": {"audio": {"front.audio"}, "text": {"front.text", "back.text"}},
    }
    assert found == expected[coupling]  # and no tower's own weights


def test_before_the_first_task_the_towers_are_plain_and_a_loaded_state_says_whether_it_has_begun() -> None:
    of = two()
    fresh, method = made(of), made(of)
    method.begin_task(of, task(1))
    for m, x in batch(of).inputs.items():
        plain = of.features(m, x)
        assert torch.equal(fresh.features(of, m, x, Known()), plain)
        prompted = method.features(of, m, x, Known())
        assert (prompted - plain).abs().max() > 1e-3
        served = made(of)
        served.load_state_dict(method.state_dict())
        assert torch.equal(served.features(of, m, x, Known()), prompted)


def test_the_same_prompts_serve_every_task() -> None:
    of = two()
    method = made(of)
    method.begin_task(of, task(1))
    x = batch(of).inputs["audio"]
    one, other = (method.features(of, "audio", x, Known(torch.full((6,), t))) for t in (1, 3))
    assert torch.equal(one, other) and torch.equal(one, method.features(of, "audio", x, Known()))


def test_without_tokens_the_towers_are_as_they_are_and_only_heads_and_temperatures_train() -> None:
    of = two()
    method = made(of, length=0)
    method.begin_task(of, task(1))
    for m, x in batch(of).inputs.items():
        assert torch.equal(method.features(of, m, x, Known()), of.features(m, x))
    out = embed_batch(method, of, batch(of))
    loss = Objective(ObjectiveConfig(), (PAIR,))(of, batch(of), out)["contrast/audio-text"]
    parts = {n.split(".")[0] for n in reached(loss, of, method)}
    assert parts == {"heads", "log_scale"}


def test_prompts_alone_train_where_heads_and_scale_are_off() -> None:
    of = two()
    method = made(of, heads=False, scale=False)
    method.begin_task(of, task(1))
    assert not any(p.requires_grad for p in of.parameters())
    held = {n for n, p in method.named_parameters() if p.requires_grad}
    assert held == {n for n, _ in method.named_parameters() if n.startswith("prompts.")}


# Terms


def settings_by_hand(settings: dict[str, Any], new: Outputs, old: Outputs, group: np.ndarray) -> dict[str, float]:
    """The terms from the embeddings of the student and of the model as it was."""
    z, o = ({m: array(e) for m, e in side.embeddings.items()} for side in (new, old))
    t = settings.get("feature_temperature", 0.05)
    feature = sum(kl(softmax(o[m] / t), softmax(z[m] / t)).mean() for m in PAIR) / 2
    tau = settings.get("similarity_temperature", 0.1 if settings.get("similarity") == "contrast" else 0.07)
    s, before = z["audio"] @ z["text"].T, o["audio"] @ o["text"].T
    total, same = 0.0, group[:, None] == group[None]
    for new_rows, old_rows in ((s, before), (s.T, before.T)):
        if settings.get("similarity") == "contrast":
            logs = np.log(softmax(new_rows / tau))
            rows = -(logs * same / same.sum(1, keepdims=True)).sum(1)
        else:
            right = same[np.arange(len(s)), old_rows.argmax(1)]
            rows = kl(softmax(old_rows / tau), softmax(new_rows / tau)) * (right if settings.get("clean") else 1)
        total += rows.mean() / 2
    return {
        "feature": settings.get("feature", 1.0) * feature,
        "similarity": settings.get("similarity_weight", 1.0) * total,
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"feature": 0.3, "feature_temperature": 0.2, "similarity_weight": 2.0},
        {"similarity_temperature": 0.5, "coupling": "none"},
        {"clean": True},
        {"similarity": "contrast"},
        {"similarity": "contrast", "similarity_temperature": 0.5, "similarity_weight": 0.1},
    ],
)
def test_the_terms_are_those_of_the_formulas(settings: dict[str, Any]) -> None:
    of = two()
    method, then, was = later(of, **settings)
    sides = batch(of, 8, 2)
    sides = Batch(sides.inputs, sides.rows, torch.tensor([0, 1, 2, 2, 3, 4, 5, 5]), sides.task)
    new, old = embed_batch(method, of, sides), embed_batch(then, was, sides)
    expected = settings_by_hand(settings, new, old, sides.group.numpy())
    assert min(expected.values()) > 1e-5
    assert values(method.loss(of, sides, new)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("temperature", "within"), [(1.0, 0.02), (0.2, 0.1), (0.05, 0.5)])
def test_the_feature_term_is_about_the_squared_distance_over_twice_the_size_and_the_squared_temperature(
    temperature: float, within: float
) -> None:
    of = Model(dict(two().towers), dict.fromkeys(PAIR, HeadConfig(kind="linear")), 512, frozenset(PAIR), 3).double()
    method = made(of, similarity_weight=0, feature_temperature=temperature)
    method.begin_task(of, task(1))
    then = copy.deepcopy(of)
    method.begin_task(of, task(2))
    moved(of.heads, 5, 0.05)
    sides = batch(of, 8, 2)
    new, old = (embed_batch(method, at, sides).embeddings for at in (of, then))
    expected = np.mean([(array(new[m] - old[m]) ** 2).sum(1).mean() for m in PAIR]) / (2 * 512 * temperature**2)
    assert values(terms(method, of, sides))["feature"] == pytest.approx(expected, rel=within)


@pytest.mark.parametrize("bf16", [False, True])
def test_when_a_task_begins_both_terms_are_zero_and_pull_at_nothing(bf16: bool) -> None:
    of = two()
    method, sides = made(of), batch(of, index=2)
    if bf16:
        of.float(), method.float()
        inputs = {m: x.float() if x.is_floating_point() else x for m, x in sides.inputs.items()}
        sides = Batch(inputs, sides.rows, sides.group, sides.task)
    method.begin_task(of, task(1))
    shaken(method.prompts), shaken(of.heads)
    method.begin_task(of, task(2))
    of.train(), method.train()

    def now() -> Terms:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return terms(method, of, sides)

    found, near = now(), 1e-6 if bf16 else 1e-12
    assert {t.dtype for t in found.values()} == {torch.float if bf16 else torch.double}
    assert values(found) == pytest.approx({"feature": 0, "similarity": 0}, abs=near)
    for term in found.values():
        assert all(
            float(g.abs().max()) < 1e3 * near
            for g in torch.autograd.grad(term, list(method.prompts.parameters()), retain_graph=True)
        )
    moved(method.prompts, 3, 0.1)
    assert min(values(now()).values()) > 1e-5


def test_the_first_task_has_no_term_and_asks_no_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    of = two()
    for similarity in ("relation", "contrast"):
        method = made(of, similarity=similarity)
        monkeypatch.setattr(method.teacher, "embed", None)
        method.begin_task(of, task(1))
        assert terms(method, of, batch(of)) == {}


@pytest.mark.parametrize(
    ("settings", "left", "asks"),
    [
        ({"feature": 0}, {"similarity"}, True),
        ({"similarity_weight": 0}, {"feature"}, True),
        ({"feature": 0, "similarity_weight": 0}, set(), False),
        ({"feature": 0, "similarity": "contrast"}, {"similarity"}, False),
    ],
)
def test_a_term_of_weight_zero_is_not_computed(
    settings: dict, left: set, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = two()
    method, _, _ = later(of, **settings)
    asked, embed = [], method.teacher.embed
    monkeypatch.setattr(method.teacher, "embed", lambda *a: asked.append(1) or embed(*a))
    assert set(terms(method, of, batch(of, index=2))) == left
    assert bool(asked) is asks


def test_the_teacher_never_trains_and_stays_as_it_was_all_task_long() -> None:
    of = two()
    method, then, was = later(of)
    assert not any(part.training for part in method.teacher.modules())
    sum(terms(method, of, batch(of, index=2)).values()).backward()
    held = dict(method.teacher.named_parameters())
    assert held and not any(p.requires_grad or p.grad is not None for p in held.values())
    for n, p in [*then.prompts.named_parameters("prompts"), *was.heads.named_parameters("heads")]:
        assert torch.equal(held[n], p)


def test_the_gradient_of_the_terms_reaches_prompts_and_heads_alone() -> None:
    of = two()
    method, _, _ = later(of)
    for term in terms(method, of, batch(of, index=2)).values():
        found = {".".join(n.split(".")[:2]) for n in reached(term, of, method)}
        assert found == {"heads.audio", "heads.text", "prompts.front", "prompts.to_front", "prompts.to_back"}


def test_dropout_of_a_head_is_the_students_alone() -> None:
    of = two()
    head = HeadConfig(kind="mlp", hidden=7, dropout=0.5)
    of = Model(dict(of.towers), dict.fromkeys(PAIR, head), 4, frozenset(PAIR), 3).double()
    method, _, _ = later(of)
    sides = batch(of, index=2)
    out = embed_batch(method, of, sides)
    first, second = (method.teacher.embed(of, sides, out)["audio"] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(out.embeddings["audio"], embed_batch(method, of, sides).embeddings["audio"])


def test_the_share_of_kept_rows_is_logged_where_rows_are_cleaned() -> None:
    of = two()
    method, then, was = later(of, clean=True)
    sides = batch(of, 8, 2)
    old = {m: array(e) for m, e in embed_batch(then, was, sides).embeddings.items()}
    s, place = old["audio"] @ old["text"].T, np.arange(8)
    expected = np.mean([s.argmax(1) == place, s.argmax(0) == place])
    terms(method, of, sides)
    assert method.facts == {"kept/audio-text": pytest.approx(expected)}
    assert 0 < expected < 1
    method.begin_task(of, task(1))
    terms(method, of, sides)
    assert method.facts == {}  # nothing of the last batch is told again
    plain, _, _ = later(two())
    terms(plain, two(), sides)
    assert plain.facts == {}


def test_rehearsed_pairs_keep_their_similarities_but_only_the_pairs_of_the_task_are_contrasted() -> None:
    of = model("audio", "image", "text")
    whole = batch(of, 6, 2)
    inputs = {"audio": whole.inputs["audio"], "image": whole.inputs["image"][:3], "text": whole.inputs["text"][3:]}
    rows = {"audio": torch.arange(6), "image": torch.arange(3), "text": torch.arange(3, 6)}
    sides, found = Batch(inputs, rows, whole.group, whole.task), {}
    for similarity in ("relation", "contrast"):
        method, then, was = later(of, similarity=similarity, feature=0, similarity_temperature=0.5)
        method.pairs = {frozenset(PAIR)}
        z, o = (
            {m: array(e) for m, e in embed_batch(*s, sides).embeddings.items()} for s in ((method, of), (then, was))
        )
        by_pair = []
        for other, part in (("image", slice(0, 3)), ("text", slice(3, 6))):
            s, before = z["audio"][part] @ z[other].T / 0.5, o["audio"][part] @ o[other].T / 0.5
            if similarity == "relation":
                sums = [kl(softmax(b), softmax(n)).mean() / 2 for b, n in ((before, s), (before.T, s.T))]
            else:
                sums = [-np.log(softmax(n)).diagonal().mean() / 2 for n in (s, s.T)]
            by_pair.append(sum(sums))
        expected = np.mean(by_pair) if similarity == "relation" else by_pair[1]
        assert values(terms(method, of, sides)) == pytest.approx({"similarity": expected}, rel=1e-6)
        found[similarity] = expected
    assert found["relation"] > 1e-5


def test_a_tower_that_is_not_prompted_is_held_by_its_head_alone() -> None:
    of = model("audio", "image", "text")
    method, _, was = later(of, modalities=("audio", "text"), similarity_weight=0)
    sides = batch(of, index=2)
    out = embed_batch(method, of, sides)
    old = method.teacher.embed(of, sides, out)["image"]
    assert torch.allclose(old, was.project("image", of.features("image", sides.inputs["image"])))
    assert not torch.allclose(old, out.embeddings["image"])
    one = {
        m: kl(softmax(array(o) / 0.05), softmax(array(out.embeddings[m]) / 0.05)).mean()
        for m, o in method.teacher.embed(of, sides, out).items()
    }
    assert values(terms(method, of, sides)) == pytest.approx({"feature": np.mean(list(one.values()))}, rel=1e-6)


# Errors


def test_what_cannot_be_is_an_error_that_names_the_key() -> None:
    with pytest.raises(UserError, match="depth 4: towers.audio has 3 blocks"):
        made(two(), depth=4)
    with pytest.raises(UserError, match=r"coupling t->a: text leads, but only audio, image"):
        made(model("audio", "image"), coupling="t->a")
    with pytest.raises(UserError, match=r"2 tower.* but text can be prompted"):
        made(model("text"))
    assert made(model("text"), coupling="none").prompts.modalities == ("text",)
    with pytest.raises(ValidationError, match="clean"):
        Config(clean=True, similarity="contrast")
    with pytest.raises(ValidationError, match="nothing trains"):
        Config(length=0, heads=False, scale=False)


# Runs


def session(shared: Path, out: Path, *chain: dict[str, Any], **changes: Any) -> Session:
    return Session(tiny(shared, out, method=list(chain), examples=0, **{**PROMPTED, **changes}))


def kept(run: Any, after: int) -> dict[str, Tensor]:
    return load_file(run.folder / "encoders" / f"after-{after}.safetensors")


def digest(module: nn.Module) -> str:
    whole = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


@pytest.mark.parametrize("off", [{"feature": 0, "similarity_weight": 0}, {"feature": 0}, {"similarity_weight": 0}])
def test_a_weight_of_zero_is_the_run_without_the_term_bit_for_bit(
    off: dict, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = session(shared, tmp_path / "zero", {"use": "ptat", **off}).go()
    loss, names = Method.loss, {"feature": "feature", "similarity_weight": "similarity"}
    without = {names[k] for k in off}
    monkeypatch.setattr(Method, "loss", lambda *a: {k: v for k, v in loss(*a).items() if k not in without})
    bare = session(shared, tmp_path / "bare", {"use": "ptat"}).go()
    monkeypatch.undo()
    full = session(shared, tmp_path / "full", {"use": "ptat"}).go()
    one, other, third = (kept(run, 3) for run in (zero, bare, full))
    assert one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())
    assert zero.matrix == bare.matrix
    assert any(not torch.equal(v, third[k]) for k, v in one.items())  # but the term does pull


def test_three_tasks_leave_the_towers_as_they_were_and_go_on_training_the_same_prompts(
    shared: Path, tmp_path: Path
) -> None:
    learns = session(shared, tmp_path, {"use": "ptat", "clean": True, "gate": -1.0}, {"use": "er", "rows": 4})
    before = {m: digest(t) for m, t in learns.towers.items()}
    run = learns.go()
    assert {m: digest(t) for m, t in learns.towers.items()} == before
    after = [kept(run, n) for n in range(4)]
    prompts = [k for k in after[0] if "prompts.front" in k or "prompts.to_" in k]
    assert prompts
    for one, other in zip(after, after[1:], strict=False):
        assert any(not torch.equal(one[k], other[k]) for k in prompts)
    assert [int(state["method.begun"]) for state in after] == [0, 1, 1, 1]
    assert run.matrix["rows"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "part",
    [
        {"coupling": "t->a", "shared_linear": False, "depth": 1},
        {"coupling": "none", "post": False, "similarity": "contrast", "heads": False},
    ],
    ids=["t->a", "none"],
)
def test_other_settings_learn_a_sequence(part: dict, shared: Path, tmp_path: Path) -> None:
    run = session(shared, tmp_path, {"use": "ptat", **part}).go()
    assert run.matrix["rows"] == [0, 1, 2, 3]


def test_row_zero_is_that_of_the_towers_alone(shared: Path, tmp_path: Path) -> None:
    ours = session(shared, tmp_path / "ptat", {"use": "ptat"}).go()
    plain = session(shared, tmp_path / "frozen", {"use": "frozen"}).go()
    assert ours.matrix["score"]["latest"][0] == plain.matrix["score"]["latest"][0]
