"""S-Prompts, CoOp, IVLP, MaPLe, DGL: what they count, what stands before each block, whom it serves, what learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prompt_miniatures import PROMPTED, SWIN, Dummy, batch, dummies, model, setup, task
from pydantic import ValidationError
from safetensors.torch import load_file
from test_lpi_parts import array, shaken
from tiny import tiny
from torch import Tensor, nn

from polymnia.config import find
from polymnia.continual.method import AbstractMethod, embed_batch
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.models.blocks import Block
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt, run_blocks
from polymnia.models.tower import AbstractTower
from polymnia.models.towers import tiny_audio, tiny_image, tiny_text
from polymnia.runs.life import Session
from polymnia.types import MODALITIES, Batch, Known, Modality, UserError, VectorSpec

SHARED = ("coop", "ivlp", "maple", "dgl")
EVERY = ("sprompts", *SHARED)
ROUTED = {"length": 2, "context": 3, "select": {"centres": 2}}  # S-Prompts for small batches


def made(use: str, of: Model, tasks: int = 3, **settings: Any) -> AbstractMethod:
    torch.manual_seed(1)
    module = find("methods", use)
    return module.Method(module.Config(**settings), setup(of, tasks)).double().eval()


def begun(use: str, of: Model, **settings: Any) -> AbstractMethod:
    """A method in its first task, its prompts far from where they began."""
    method = made(use, of, **settings)
    method.begin_task(of, task(1, ("audio", "image"), ("audio", "text"), ("image", "text")))
    shaken(method)
    return method


def features(method: AbstractMethod, of: Model, m: Modality, x: Tensor, rows: list[int] | None = None) -> Tensor:
    return method.features(of, m, x, Known(None if rows is None else torch.tensor(rows)))


class Seen:
    """What each block of a tower got and gave."""

    def __init__(self, tower: AbstractTower):
        self.before: list[np.ndarray] = []
        self.after: list[np.ndarray] = []
        for block in (tower if hasattr(tower, "blocks") else tower.body).blocks:
            block.register_forward_pre_hook(lambda _, args: self.before.append(array(args[0])))
            block.register_forward_hook(lambda _, args, out: self.after.append(array(out)))


def normed(rows: np.ndarray, norm: nn.LayerNorm) -> np.ndarray:
    centred = rows - rows.mean(-1, keepdims=True)
    return array(norm.weight) * centred / np.sqrt(rows.var(-1, keepdims=True) + norm.eps) + array(norm.bias)


def linear(rows: np.ndarray, layer: nn.Linear) -> np.ndarray:
    return rows @ array(layer.weight).T + array(layer.bias)


def everywhere(found: np.ndarray, tokens: np.ndarray) -> bool:
    """Whether every row of a batch has these tokens."""
    return found.shape[1:] == tokens.shape and np.allclose(found, tokens, atol=1e-12)


# Counts


@pytest.mark.parametrize(
    ("use", "settings", "expected"),
    [
        ("coop", {}, 16 * 512),
        ("coop", {"length": 4, "modalities": ["image", "text"]}, 4 * 512 + 4 * 768),
        ("ivlp", {}, 2 * 12 * 768 + 2 * 12 * 512),
        ("ivlp", {"depth": 3}, 2 * 3 * 768 + 2 * 3 * 512),
        ("maple", {}, 9 * 2 * 512 + 9 * (512 * 768 + 768)),  # 3,555,072: its 3.56 M
        ("maple", {"lead": "image", "depth": 3}, 3 * 2 * 768 + 3 * (768 * 512 + 512)),
        ("dgl", {}, 827_392),
        ("dgl", {"globals": 0}, 4 * 12 * 768 + 2 * (768 * 512 + 512)),
        ("sprompts", {}, 10 * 768 + 16 * 512),
        ("sprompts", {"deep": True}, 12 * (10 * 768 + 16 * 512)),
        ("ivlp", {"gate": -1.0}, 30_720 + 24),
        ("sprompts", {"gate": -1.0}, 15_872 + 24),
    ],
)
def test_a_task_trains_as_many_parameters_as_the_formulas_say(use: str, settings: dict, expected: int) -> None:
    of = dummies()
    method = made(use, of, 1, **{"heads": False, "scale": False, **settings})
    method.begin_task(of, task(1))
    trained = [p for module in (of, method) for p in module.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == expected == sum(p.numel() for p in method.parameters())


@pytest.mark.parametrize("use", EVERY)
def test_heads_and_temperatures_train_beside_shared_prompts_and_not_beside_those_of_tasks(use: str) -> None:
    of = model("audio", "image", "text")
    made(use, of).begin_task(of, task(1))
    beside = {n.split(".")[0] for n, p in of.named_parameters() if p.requires_grad}
    assert beside == (set() if use == "sprompts" else {"heads", "log_scale"})


def test_tokens_are_drawn_as_each_paper_says() -> None:
    for use in ("coop", "ivlp", "maple", "sprompts"):
        tokens = [p.flatten() for n, p in made(use, dummies(), 1).named_parameters() if "blocks" in n]
        assert float(torch.cat(tokens).detach().std()) == pytest.approx(0.02, rel=0.05)
    method = made("dgl", dummies(), 1)
    bound = (6 / (3 * 16 * 16 + 768)) ** 0.5
    for tokens in (*method.local.blocks, *method.whole.blocks):
        assert 0.98 * bound < float(tokens.detach().abs().max()) < bound
        assert float(tokens.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)


# What all of them have in common


@pytest.mark.parametrize("use", EVERY)
def test_before_the_first_task_towers_are_plain_and_in_it_they_are_prompted(use: str) -> None:
    of = model("audio", "image", "text")
    method, inputs = made(use, of), batch(of).inputs
    for m, x in inputs.items():
        assert torch.equal(features(method, of, m, x), of.features(m, x))
    method.begin_task(of, task(1, ("audio", "image"), ("audio", "text")))
    shaken(method)
    moved = {
        m for m, x in inputs.items() if not torch.allclose(features(method, of, m, x, [1] * 6), of.features(m, x))
    }
    assert moved == ({"text"} if use == "coop" else set(MODALITIES))


@pytest.mark.parametrize("pair", [("audio", "image"), ("audio", "text"), ("image", "text")], ids="-".join)
@pytest.mark.parametrize("use", EVERY)
def test_every_token_and_map_hears_from_the_objective_for_any_pair(use: str, pair: tuple[Modality, Modality]) -> None:
    of = model(*pair)
    settings: dict[str, Any] = {"coop": {"modalities": pair}, "maple": {"lead": pair[1]}}.get(use, {})
    method = made(use, of, 1, **settings)
    method.begin_task(of, task(1, pair))
    method.train()
    whole = batch(model(*MODALITIES))
    rows = Batch({m: whole.inputs[m] for m in pair}, {m: whole.rows[m] for m in pair}, whole.group, whole.task)
    Objective(ObjectiveConfig(), (pair,))(of, rows, embed_batch(method, of, rows))[
        f"contrast/{'-'.join(pair)}"
    ].backward()
    assert {n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()} == set()
    assert all(p.grad is None for p in of.towers.parameters())


@pytest.mark.parametrize("use", SHARED)
def test_the_state_alone_says_how_an_encoder_serves(use: str) -> None:
    of = model("audio", "image", "text")
    method, other = begun(use, of), made(use, of)
    other.load_state_dict(method.state_dict(), strict=True)
    for m, x in batch(of).inputs.items():
        assert torch.equal(features(other, of, m, x), features(method, of, m, x))
        alone = torch.cat([features(method, of, m, x[[i]]) for i in range(6)])
        assert torch.allclose(alone, features(method, of, m, x), atol=1e-10)  # no row depends on another


@pytest.mark.parametrize("use", ["coop", "ivlp", "maple", "sprompts"])
def test_a_gate_that_is_shut_hides_all_prompts(use: str) -> None:
    of = model("audio", "image", "text")
    method = begun(use, of, gate=-1.0)
    with torch.no_grad():
        for name, p in method.named_parameters():
            if name.startswith("gates"):
                p.fill_(-200.0)
    for m, x in batch(of).inputs.items():
        assert torch.allclose(features(method, of, m, x, [1] * 6), of.features(m, x), atol=1e-10)


# CoOp


@pytest.mark.parametrize("position", ["front", "back"])
def test_contexts_stand_beside_the_words_and_go_through_all_blocks(position: str) -> None:
    of = model()
    method = begun("coop", of, length=3, position=position)
    tower, x = of.tower("text"), batch(of).inputs["text"]
    plain, longest = Seen(tower), x.shape[1]
    of.features("text", x)
    seen = Seen(tower)
    got = features(method, of, "text", x)
    slots = np.arange(1, 4) if position == "front" else np.arange(longest, longest + 3)
    assert everywhere(seen.before[0][:, slots], array(method.tokens["text"].blocks[0]))
    assert np.allclose(np.delete(seen.before[0], slots, 1), plain.before[0])  # words keep their positions
    for block in (1, 2):
        assert np.array_equal(seen.before[block], seen.after[block - 1])
    own = normed(np.delete(seen.after[2], slots, 1), tower.norm)
    real = array(x != tiny_text.PAD)[:, :, None]
    assert np.allclose(array(got), linear((own * real).sum(1) / real.sum(1), tower.out), atol=1e-10)


# IVLP


def test_every_tower_has_tokens_of_its_own_up_to_the_depth_and_the_last_go_on() -> None:
    of = model("audio", "image", "text", layers=4)
    method = begun("ivlp", of, depth=3, length=2)
    for m, x in batch(of).inputs.items():
        seen, at = Seen(of.tower(m)), 1 if m == "text" else 0
        features(method, of, m, x)
        for block in range(4):
            found = seen.before[block]
            if block < 3:
                assert everywhere(found[:, at : at + 2], array(method.tokens[m].blocks[block]))
            else:
                assert np.array_equal(found, seen.after[2])
            if block:  # what stands around the slots goes on
                around = np.delete(seen.after[block - 1], [at, at + 1], 1)
                assert np.array_equal(np.delete(found, [at, at + 1], 1), around)


def test_without_a_depth_every_block_of_every_tower_has_tokens() -> None:
    method = made("ivlp", dummies(text=(512,) * 5), 1)
    assert {m: len(t.blocks) for m, t in method.tokens.items()} == {"image": 12, "text": 5}
    with pytest.raises(UserError, match="depth 6: towers.text has 5 blocks"):
        made("ivlp", dummies(text=(512,) * 5), 1, depth=6)


# MaPLe


@pytest.mark.parametrize("lead", MODALITIES)
def test_tokens_of_the_others_are_a_map_of_each_depth_applied_to_those_of_the_lead(lead: Modality) -> None:
    of = model("audio", "image", "text", layers=4)
    method = begun("maple", of, depth=3, lead=lead)
    for m, x in batch(of).inputs.items():
        seen, at = Seen(of.tower(m)), 1 if m == "text" else 0
        features(method, of, m, x)
        for block in range(3):
            own = array(method.tokens.blocks[block])
            expected = own if m == lead else linear(own, method.maps[m][block])
            assert everywhere(seen.before[block][:, at : at + 2], expected)
        assert np.array_equal(seen.before[3], seen.after[2])


def test_the_depth_of_maple_is_nine_or_that_of_the_shallowest_tower() -> None:
    assert len(made("maple", dummies(), 1).tokens.blocks) == 9
    assert len(made("maple", dummies(image=(768,) * 4), 1).tokens.blocks) == 4
    with pytest.raises(UserError, match="depth 10: towers.image has 4 blocks"):
        made("maple", dummies(image=(768,) * 4), 1, depth=10)


def test_pictures_alone_train_the_tokens_that_lead() -> None:
    of = model()
    method = begun("maple", of)
    features(method, of, "image", batch(of).inputs["image"]).sum().backward()
    assert all(t.grad is not None and t.grad.any() for t in method.tokens.blocks)


def test_maps_follow_a_tower_that_widens() -> None:
    method = made("maple", dummies(SWIN, (768,) * 12), 1)
    assert [(m.in_features, m.out_features) for m in method.maps["image"]] == [(768, w) for w in SWIN[:9]]
    assert [tuple(t.shape) for t in method._tokens("image")] == [(2, w) for w in SWIN[:9]]


def test_a_lead_that_cannot_be_prompted_is_an_error_that_names_it() -> None:
    of = model("audio", "image")
    with pytest.raises(UserError, match="lead: text, but the towers that are prompted are audio, image"):
        made("maple", of)
    assert list(made("maple", of, lead="image").maps) == ["audio"]


# DGL


def test_followers_get_one_pair_of_maps_of_the_leaders_tokens_in_front_and_behind() -> None:
    of = model("audio", "image", "text", layers=3)
    method = begun("dgl", of, length=2, depth=2)
    assert method.leader == "audio"
    for m in ("image", "text"):
        x = batch(of).inputs[m]
        seen, at = Seen(of.tower(m)), 1 if m == "text" else 0
        features(method, of, m, x)
        for block in range(2):
            local = array(method.local.blocks[block])
            assert everywhere(seen.before[block][:, at : at + 2], linear(local, method.maps[m].pre))
            assert everywhere(seen.before[block][:, -2:], linear(local, method.maps[m].post))
        assert np.array_equal(seen.before[2][:, at + 2 : -2], seen.after[1][:, at + 2 : -2])
        assert np.array_equal(seen.before[2], seen.after[1])


@pytest.mark.parametrize("read", ["tower", "prompts"])
def test_the_leader_gets_local_tokens_anew_at_every_block_and_global_ones_once(read: str) -> None:
    of = model("image", "text", layers=3)
    method = begun("dgl", of, length=2, globals=3, read=read)
    tower, x = of.tower("image"), batch(of).inputs["image"]
    seen = Seen(tower)
    got = features(method, of, "image", x)
    assert everywhere(seen.before[0][:, :3], array(method.whole.blocks[0]))
    for block in range(3):
        assert everywhere(seen.before[block][:, -2:], array(method.local.blocks[block]))
        if block:
            assert np.array_equal(seen.before[block][:, :-2], seen.after[block - 1][:, :-2])
    last = seen.after[2]
    if read == "prompts":
        expected = linear(normed(last[:, :3].mean(1), tower.body.norm), tower.out)
    else:
        expected = linear(normed(last[:, 3:-2], tower.body.norm).mean(1), tower.out)
    assert np.allclose(array(got), expected, atol=1e-10)


def test_only_the_leader_is_read_at_its_global_tokens() -> None:
    of = model()
    x = batch(of).inputs["text"]
    ways = [features(begun("dgl", of, read=read), of, "text", x) for read in ("tower", "prompts")]
    assert torch.equal(*ways)


def test_the_layers_of_dgl_are_those_of_the_shallower_tower() -> None:
    assert len(made("dgl", dummies(text=(512,) * 5), 1).local.blocks) == 5
    with pytest.raises(UserError, match="depth 6: towers.text has 5 blocks"):
        made("dgl", dummies(text=(512,) * 5), 1, depth=6)


def test_local_tokens_are_folded_for_a_tower_that_widens() -> None:
    method = made("dgl", dummies(SWIN, (768,) * 12), 1, length=8)
    back = method._prompt("image", 2).back
    assert [tuple(t.shape) for t in back] == [(2, 8 * 96 // w, w) for w in SWIN]
    assert [tuple(t.shape) for t in method._prompt("text", 2).front] == [(2, 8, 768)] * 12
    with pytest.raises(UserError, match="4 prompt tokens of 96 numbers cannot be folded into tokens of 768"):
        made("dgl", dummies(SWIN, (768,) * 12), 1)


class Causal(AbstractTower):
    """Numbers as texts: a token sees only what stands before it, and 1 ends a text, where it is read."""

    modality = "text"

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.out_dim, self.depth, self.width = VectorSpec(6), 4, 3, 16
        self.words = nn.Embedding(10, 16)
        self.blocks = nn.ModuleList(Block(16, 4) for _ in range(3))
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor, prompt: Prompt | None = None) -> Tensor:
        end = (x == 1).long().argmax(1)
        seen = run_blocks(self.blocks, self.words(x), prompt, at=1, end=end)
        return self.out(seen[torch.arange(len(x)), end])


@pytest.mark.parametrize(("use", "settings"), [("dgl", {}), ("coop", {"position": "back"})], ids=["dgl", "coop"])
def test_tokens_behind_a_text_reach_the_end_token_of_a_causal_tower_and_padding_does_not(
    use: str, settings: dict
) -> None:
    torch.manual_seed(0)
    image = tiny_image.Tower(tiny_image.Config(arch="vit", size=16, width=8, layers=3, out_dim=4))
    of = Model({"image": image, "text": Causal()}, {}, 4, frozenset({"image", "text"}), 3).double().eval()
    method = begun(use, of, **settings)
    short, padded = torch.tensor([[0, 4, 5, 1]]), torch.tensor([[0, 4, 5, 1, 7, 8]])
    got = features(method, of, "text", short)
    assert torch.allclose(features(method, of, "text", padded), got, atol=1e-10)
    got.sum().backward()
    behind = method.maps["text"].post.weight if use == "dgl" else method.tokens["text"].blocks[0]
    assert behind.grad.abs().min() > 0


# S-Prompts


def finish(method: AbstractMethod, of: Model, upto: int) -> None:
    for index in range(1, upto + 1):
        method.begin_task(of, task(index))
        shaken(method.bank.tasks[index - 1], index)
        method.end_task(of, task(index), [lesson(of, index)])


def lesson(of: Model, index: int) -> Batch:
    """Eight pictures and texts of a task, whose words no other task has."""
    whole = batch(of, 8, index, seed=index)
    words = of.tower("text").prepare([f"{index} {index}{row}" for row in range(8)])
    return Batch({**whole.inputs, "text": words}, whole.rows, whole.group, whole.task)


def own_tokens(method: AbstractMethod, tasks: list[int], m: str, block: int = 0) -> np.ndarray:
    return np.stack([array(method.bank.tasks[t - 1][m].blocks[block]) for t in tasks])


@pytest.mark.parametrize("deep", [False, True])
def test_in_training_each_row_gets_the_tokens_of_its_own_task(deep: bool) -> None:
    of = model()
    method = made("sprompts", of, deep=deep, **ROUTED)
    finish(method, of, 2)
    method.begin_task(of, task(3))
    shaken(method.bank.tasks[2], 3)
    method.train()
    tasks = [3, 1, 3, 2, 3, 1]
    for m, length in (("image", 2), ("text", 3)):
        x, at = batch(of).inputs[m], 1 if m == "text" else 0
        seen = Seen(of.tower(m))
        features(method, of, m, x, tasks)
        assert np.allclose(seen.before[0][:, at : at + length], own_tokens(method, tasks, m))
        for block in (1, 2):
            expected = seen.after[block - 1].copy()
            if deep:
                expected[:, at : at + length] = own_tokens(method, tasks, m, block)
            assert np.allclose(seen.before[block], expected)


def test_in_evaluation_the_nearest_centre_in_l1_says_whose_tokens_each_row_gets() -> None:
    of = model()
    method = made("sprompts", of, **ROUTED)
    finish(method, of, 3)
    for m in ("image", "text"):
        x = torch.cat([lesson(of, index).inputs[m] for index in (1, 2, 3)])
        query = array(of.features(m, x))
        query /= np.linalg.norm(query, axis=1, keepdims=True)
        centres = array(method.routers[m].centres)  # (task, centre, number)
        far = np.abs(query[:, None, None] - centres).sum(-1).min(-1)
        tasks = (far.argmin(1) + 1).tolist()
        assert set(tasks) == {1, 2, 3}
        seen, at = Seen(of.tower(m)), 1 if m == "text" else 0
        got = features(method, of, m, x, [2] * 24)  # what is known is not looked at
        own = own_tokens(method, tasks, m)
        assert np.allclose(seen.before[-3][:, at : at + own.shape[1]], own)  # the last three: the first are queries
        backwards = features(method, of, m, x.flip(0)).flip(0)
        alone = torch.cat([features(method, of, m, x[[i]]) for i in range(24)])
        assert torch.allclose(backwards, got, atol=1e-10) and torch.allclose(alone, got, atol=1e-10)


def test_a_task_leaves_the_centres_of_its_unprompted_features() -> None:
    of = model()
    method = made("sprompts", of, select={"centres": 1})
    batches = [batch(of, 5, seed=1), batch(of, 3, seed=2)]
    method.begin_task(of, task(1))
    shaken(method)
    method.end_task(of, task(1), batches)
    for m in ("image", "text"):
        rows = np.concatenate([array(of.features(m, b.inputs[m])) for b in batches])
        mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
        assert np.allclose(array(method.routers[m].centres[0, 0]), mean, atol=1e-6)


def test_a_cached_query_chooses_without_a_second_pass() -> None:
    of = model()
    method = made("sprompts", of, **ROUTED)
    finish(method, of, 2)
    one, two = (lesson(of, index).inputs["image"] for index in (1, 2))
    query = of.features("image", two)
    chosen = method.routers["image"].choose(query)
    assert 2 in chosen.tolist()
    seen = Seen(of.tower("image"))
    method.features(of, "image", one, Known(query=query))
    assert len(seen.before) == 3
    assert np.allclose(seen.before[0][:, :2], own_tokens(method, chosen.tolist(), "image"))


def test_only_the_current_task_trains_with_ten_tasks_and_more() -> None:
    of = dummies()
    method = made("sprompts", of, 12, gate=-1.0)
    assert not any(p.requires_grad for p in method.bank.parameters())
    for index in (1, 2, 12):
        method.begin_task(of, task(1)._replace(index=index))
        trains = {n.split(".")[1 + n.startswith("bank")] for n, p in method.named_parameters() if p.requires_grad}
        assert trains == {str(index - 1)}  # and not 10 and 11 along with 1


def test_only_the_tokens_of_tasks_that_occur_are_touched() -> None:
    of = model()
    method = made("sprompts", of, **ROUTED).train()
    method.requires_grad_(True)
    features(method, of, "image", batch(of).inputs["image"], [3, 1, 3, 3, 1, 1]).sum().backward()
    assert [own["image"].blocks[0].grad is not None for own in method.bank.tasks] == [True, False, True]


def test_rows_of_no_task_pass_plainly_beside_others_also_under_gates() -> None:
    of = model()
    x, tasks = batch(of).inputs["image"], [2, 0, 1, 2, 0, 1]
    for gate in (None, -1.0):
        method = made("sprompts", of, gate=gate, **ROUTED).train()
        shaken(method)
        together = features(method, of, "image", x, tasks)
        alone = torch.cat([features(method, of, "image", x[[i]], tasks[i : i + 1]) for i in range(6)])
        assert torch.allclose(together, alone, atol=1e-10)
        assert torch.allclose(together[[1, 4]], of.features("image", x)[[1, 4]], atol=1e-10)


def test_a_row_meets_the_gates_of_its_own_task() -> None:
    of = model()
    x = batch(of).inputs["image"]
    method = made("sprompts", of, gate=-1.0, **ROUTED).train()
    shaken(method)
    with torch.no_grad():
        for shut in method.gates[1]["image"].logits:
            shut.fill_(-200.0)
    got, plain = features(method, of, "image", x, [1, 2, 3, 1, 2, 3]), of.features("image", x)
    assert [torch.allclose(a, b, atol=1e-6) for a, b in zip(got, plain, strict=True)] == [False, True, False] * 2


def test_the_task_that_is_being_learned_is_validated_with_its_own_tokens() -> None:
    of = model()
    method = made("sprompts", of, **ROUTED)
    finish(method, of, 1)
    method.begin_task(of, task(2))
    seen = Seen(of.tower("text"))
    features(method, of, "text", batch(of).inputs["text"], [2] * 6)
    assert np.allclose(seen.before[-3][:, 1:4], own_tokens(method, [2] * 6, "text"))


def test_a_task_without_a_modality_teaches_its_router_nothing() -> None:
    of = model("audio", "image", "text")
    method = made("sprompts", of, **ROUTED)
    for index, pair in enumerate((("audio", "image"), ("audio", "text")), start=1):
        method.begin_task(of, task(index, pair))
        whole = batch(of, 8, index, seed=index)
        part = Batch({m: whole.inputs[m] for m in pair}, {m: whole.rows[m] for m in pair}, whole.group, whole.task)
        method.end_task(of, task(index, pair), [part])
    left = {m: router.left.int().tolist() for m, router in method.routers.items()}
    assert left == {"audio": [1, 1, 0], "image": [1, 0, 0], "text": [0, 1, 0]}


def test_deep_tokens_of_a_task_have_the_width_of_each_block() -> None:
    method = made("sprompts", dummies(SWIN, (768,) * 12), 2, deep=True)
    shapes = [tuple(t.shape) for t in method.bank("image", torch.tensor([1, 2, 1]))]
    assert shapes == [(3, 10, w) for w in SWIN]


def test_a_joint_run_is_one_task_to_the_prompts() -> None:
    of = model()
    method = made("sprompts", of, **ROUTED)
    method.begin_task(of, task(1))
    shaken(method)
    x = batch(of).inputs["image"]
    for training in (True, False):
        method.train(training)
        seen = Seen(of.tower("image"))
        features(method, of, "image", x, [1, 2, 3, 1, 2, 3])
        assert np.allclose(seen.before[-3][:, :2], own_tokens(method, [1] * 6, "image"))


# Errors


def test_a_task_that_trains_nothing_is_an_error_that_says_so() -> None:
    of = model("audio", "image", "text")
    for use in ("coop", "sprompts"):
        method = made(use, of, heads=False, scale=False, modalities=["text"])
        with pytest.raises(
            UserError, match=r"task 'small_cats' \(audio-image\) trains nothing: only text is prompted"
        ):
            method.begin_task(of, task(1, ("audio", "image")))
        method.begin_task(of, task(1, ("audio", "text")))
        made(use, of, heads=True, modalities=["text"]).begin_task(of, task(1, ("audio", "image")))


@pytest.mark.parametrize("use", EVERY)
def test_a_tower_that_is_frozen_or_takes_no_prompts_is_an_error_that_names_it(use: str) -> None:
    towers: dict[Modality, AbstractTower] = {m: Dummy(m, (16,) * 2) for m in ("image", "text")}
    still = Model(towers, {}, 4, frozenset({"image"}), 3)
    with pytest.raises(UserError, match="towers.text is frozen"):
        made(use, still, modalities=["text"])
    conv = {"audio": tiny_audio.Tower(tiny_audio.Config(arch="conv", out_dim=4)), **towers}
    with pytest.raises(UserError, match=r"towers.audio \(polymnia.models.towers.tiny_audio\) takes no prompts"):
        made(use, Model(conv, {}, 4, frozenset(conv), 3), modalities=["audio", "image", "text"])


def test_coop_wants_a_text_tower_and_the_coupled_ones_two() -> None:
    towers: dict[Modality, AbstractTower] = {m: Dummy(m, (16,) * 2) for m in ("image", "text")}
    still = Model(towers, {}, 4, frozenset({"image"}), 3)
    with pytest.raises(UserError, match="towers.text is frozen"):
        made("coop", still)
    with pytest.raises(UserError, match="this model has no text tower"):
        made("coop", model("audio", "image"))
    for use in ("maple", "dgl"):
        with pytest.raises(UserError, match=r"2 tower\(s\) or more, but image can be prompted"):
            made(use, still)


def test_a_gate_where_tokens_stand_behind_and_a_read_out_of_nothing_are_errors() -> None:
    for use, settings in (("coop", {"gate": -1.0, "position": "back"}), ("dgl", {"gate": -1.0})):
        with pytest.raises(ValidationError, match="gate"):
            find("methods", use).Config(**settings)
    with pytest.raises(ValidationError, match="globals is 0"):
        find("methods", "dgl").Config(read="prompts", globals=0)


# Runs


def kept(folder: Path, after: int) -> dict[str, Tensor]:
    return load_file(folder / "encoders" / f"after-{after}.safetensors")


def test_prompts_of_finished_tasks_stay_to_the_bit_under_weight_decay_rehearsal_and_a_gate(
    shared: Path, tmp_path: Path
) -> None:
    method = [{"use": "sprompts", "gate": -1.0}, {"use": "er", "rows": 4}]
    run = Session(tiny(shared, tmp_path, method=method, examples=0, train__weight_decay=0.5, **PROMPTED)).go()
    states = [kept(run.folder, after) for after in range(4)]
    for index in range(3):
        own = [k for k in states[0] if k.startswith((f"method.bank.tasks.{index}.", f"method.gates.{index}."))]
        assert len(own) == 3 + 6  # tokens of three towers, gates of two blocks each
        moved = [[k for k in own if not torch.equal(a[k], b[k])] for a, b in zip(states, states[1:], strict=False)]
        assert moved[index] and not any(m for at, m in enumerate(moved) if at != index)
    heads = [k for k in states[0] if k.startswith(("model.heads", "heads"))]
    assert heads and all(torch.equal(states[0][k], states[3][k]) for k in heads)


@pytest.mark.parametrize(
    "part",
    [
        {"use": "coop", "position": "back", "modalities": ["audio", "text"]},
        {"use": "ivlp", "depth": 1, "heads": False, "gate": -2.0},
        {"use": "maple", "lead": "audio", "heads": False, "scale": False},
        {"use": "dgl", "read": "prompts", "globals": 2},
        {"use": "sprompts", "deep": True, "heads": True, "select": {"centres": 2, "distance": "l2"}},
    ],
    ids=lambda part: part["use"],
)
def test_other_settings_learn_a_sequence(part: dict, shared: Path, tmp_path: Path) -> None:
    run = Session(tiny(shared, tmp_path, method=[part], examples=0, **PROMPTED)).go()
    assert run.matrix["rows"] == [0, 1, 2, 3]
    first, last = kept(run.folder, 0), kept(run.folder, 3)
    moved = {k for k, v in last.items() if k.startswith("method.") and not torch.equal(v, first[k])}
    assert {k.split(".")[1] for k in moved} >= {"bank" if part["use"] == "sprompts" else "begun"}
    assert any("blocks" in k for k in moved)


def test_s_prompts_of_a_joint_run_are_those_of_one_task(shared: Path, tmp_path: Path) -> None:
    method = ["joint", {"use": "sprompts", "select": {"centres": 2}}]
    run = Session(tiny(shared, tmp_path, method=method, examples=0, **PROMPTED)).go()
    first, last = kept(run.folder, 0), kept(run.folder, 3)
    moved = {k.split(".")[3] for k in last if k.startswith("method.bank") and not torch.equal(last[k], first[k])}
    assert moved == {"0"}
