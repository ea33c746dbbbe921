"""What every file in ``polymnia/models/towers`` must be and do; a new file is picked up by its name."""

from __future__ import annotations

import typing
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from polymnia.config import find, names
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt
from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.types import MODALITIES, AudioSpec, ImageSpec, TextSpec, UserError, VectorSpec

from .miniature_towers import MINIATURES

TOWERS = names("models.towers")
CASES = [(t, v) for t in TOWERS for v in MINIATURES.get(t, {"none": None})]
TEXTS = ("a dog barks", "rain", "a dog barks slowly on a dog on a dog", "rain on rain")
CAUSAL = ("clip_text",)  # their front tokens see no words: nothing to read out
KIND = {"audio": AudioSpec, "image": ImageSpec, "text": TextSpec}


class Case(NamedTuple):
    """A tower of random weights in eval mode, four rows for it, and a way to build one more."""

    tower: AbstractTower
    x: Tensor
    build: Callable[[int], AbstractTower]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: "-".join(c))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, variant = request.param
    if name not in MINIATURES:
        pytest.fail(
            f"the tower '{name}' has no miniature: in tests/conformance/miniature_towers.py, list in MINIATURES "
            "settings of its Config that build it in well under a second, one entry a variant of its architecture"
        )
    module = find("models.towers", name)
    settings = MINIATURES[name][variant](tmp_path_factory.mktemp(name))

    def build(seed: int) -> AbstractTower:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return module.Tower(module.Config(**settings)).eval()

    tower = build(0)
    settle(tower, rows(tower, 4))
    return Case(tower, rows(tower, 4), build)


def settle(tower: AbstractTower, x: Tensor) -> None:
    """Give batch norms the statistics of these rows: a deep tower's features would shrink to nothing without."""
    norms = [m for m in tower.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            tower.train()(x)
        tower.eval()


def rows(tower: AbstractTower, count: int) -> Tensor:
    """Different inputs of the kind that the tower declares, as the loader would hand them to ``prepare``."""
    g, spec = torch.Generator().manual_seed(7), tower.spec
    if isinstance(spec, TextSpec):
        return tower.prepare(TEXTS[:count])
    if isinstance(spec, AudioSpec):
        loud = torch.logspace(-0.5, -1.5, count)[:, None]
        return tower.prepare(list((torch.randn(count, spec.samples, generator=g) * loud).clamp(-1, 1).numpy()))
    if isinstance(spec, ImageSpec):
        shape = (count, spec.channels, spec.size, spec.size)
        return tower.prepare(list(torch.randint(0, 256, shape, generator=g, dtype=torch.uint8).numpy()))
    return tower.prepare(list(torch.randn(count, spec.dim, generator=g).numpy()))


def prompts(
    tower: AbstractTower, count: int = 4, tokens: int = 8, depth: int | None = None, wide: int = 0
) -> list[Tensor]:
    """Front tokens of each block, in the width of that block."""
    g = torch.Generator().manual_seed(3)
    widths = (*tower.widths, tower.widths[-1])[: tower.depth if depth is None else depth]
    return [torch.randn(count, tokens, w + wide, generator=g) for w in widths]


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_says_what_it_is_and_has_a_frozen_config(name: str) -> None:
    module: ModuleType = find("models.towers", name)
    assert module.__doc__ and len(module.__doc__.split()) > 9, f"{name}: what it is, and the paper"
    assert module.Tower.__doc__
    assert issubclass(module.Config, TowerConfig) and module.Config is not TowerConfig
    with pytest.raises(ValidationError, match="unknown key"):
        module.Config(no_such_key=1)


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_is_final_and_takes_what_every_tower_takes(name: str) -> None:
    tower = find("models.towers", name).Tower
    assert issubclass(tower, AbstractTower)
    assert list(typing.get_type_hints(tower.forward)) == ["x", "prompt", "return"]


def test_it_declares_its_modality_spec_and_sizes(case: Case) -> None:
    tower = case.tower
    assert tower.modality in MODALITIES
    assert isinstance(tower.spec, (KIND[tower.modality], VectorSpec))
    assert len(tower.widths) == tower.depth and all(width > 0 for width in tower.widths)
    assert (tower.depth > 0) == bool(tower.width)
    with torch.no_grad():
        features = tower(case.x)
    assert features.shape == (4, tower.out_dim)
    assert features.dtype == torch.float32 and features.isfinite().all()
    assert torch.pdist(features).min() > 1e-3  # other rows have other features


def test_the_features_of_a_row_depend_on_no_other_row(case: Case) -> None:
    tower, count = case.tower, len(case.x)
    alone = [case.x[i : i + 1] for i in range(count)]
    if isinstance(tower.spec, TextSpec):
        alone = [tower.prepare([t]) for t in TEXTS]  # not padded to the longest of the batch
    with torch.no_grad():
        assert torch.allclose(torch.cat([tower(x) for x in alone]), tower(case.x), atol=1e-5)


def test_eval_is_deterministic_and_leaves_no_trace(case: Case) -> None:
    state = {k: v.clone() for k, v in case.tower.state_dict().items()}
    rng = torch.get_rng_state()
    with torch.no_grad():
        assert torch.equal(case.tower(case.x), case.tower(case.x))
    assert all(torch.equal(v, state[k]) for k, v in case.tower.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


def test_gradients_reach_every_parameter_that_makes_features(case: Case) -> None:
    tower = case.tower
    parameters = {n: p for n, p in tower.named_parameters() if tower.split() is None or not n.startswith("front.")}
    if not parameters:
        return
    features = tower(case.x)
    other = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((features * other).sum(), list(parameters.values()), allow_unused=True)
    unused = [n for n, g in zip(parameters, grads, strict=True) if g is None]
    if tower.class_names:  # its own classifier is behind the features
        logits = tower.classify(features.detach())
        assert logits.shape == (4, len(tower.class_names))
        behind = torch.autograd.grad(logits.sum(), [parameters[n] for n in unused], allow_unused=True)
        unused = [n for n, g in zip(unused, behind, strict=True) if g is None]
    assert unused == []
    assert sum(float(g.abs().sum()) for g in grads if g is not None) > 0


def test_without_a_classifier_it_says_so(case: Case) -> None:
    if not case.tower.class_names:
        with pytest.raises(UserError, match="no classifier"):
            case.tower.classify(torch.zeros(1, case.tower.out_dim))


def test_no_prompts_are_bit_identical_to_prompts_of_no_tokens(case: Case) -> None:
    if case.tower.depth:
        with torch.no_grad():
            plain = case.tower(case.x)
            none = prompts(case.tower, tokens=0)
            assert torch.equal(case.tower(case.x, None), plain)
            assert torch.equal(case.tower(case.x, Prompt()), plain)
            assert torch.equal(case.tower(case.x, Prompt(front=none, back=none)), plain)
            assert torch.equal(case.tower(case.x, Prompt(prefix=[(k, k) for k in none])), plain)


def test_a_tower_without_depth_refuses_prompts(case: Case) -> None:
    if not case.tower.depth:
        with pytest.raises(UserError, match="no prompts"):
            case.tower(case.x, Prompt.of(torch.zeros(4, 1, 2, 8)))


def variants(tower: AbstractTower, depth: int) -> dict[str, Callable[[list[Tensor]], Prompt]]:
    """Every way in which tokens may enter."""
    made: dict[str, Callable[[list[Tensor]], Prompt]] = {
        "front": lambda t: Prompt(front=t),
        "add": lambda t: Prompt(front=t, deep="add"),
        "insert": lambda t: Prompt(front=t, deep="insert"),
        "prefix": lambda t: Prompt(prefix=[(k, k.flip(1)) for k in t]),
        "gated": lambda t: Prompt(front=t, gate=[torch.tensor(-0.5)] * depth),
    }
    if type(tower).__module__.rsplit(".", 1)[-1] not in CAUSAL:
        made["read"] = lambda t: Prompt(front=t, read="prompts")
    if tower.modality == "text":
        made["back"] = lambda t: Prompt(back=t)
    return made


def test_gradient_reaches_the_prompts_of_every_block_and_nothing_else(case: Case) -> None:
    case.tower.requires_grad_(False)
    for depth in range(1, case.tower.depth + 1):
        with torch.no_grad():
            plain = case.tower(case.x)
        for name, make in variants(case.tower, depth).items():
            tokens = [t.requires_grad_() for t in prompts(case.tower, depth=depth)]
            features = case.tower(case.x, make(tokens))
            assert features.shape == plain.shape, name
            assert not torch.allclose(features, plain, atol=1e-4), name
            other = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
            grads = torch.autograd.grad((features * other).sum(), tokens)
            for grad in grads:  # each prompted block, each row
                assert (grad.abs().amax((1, 2)) > 0).all(), name
    case.tower.requires_grad_(True)


def test_a_closed_gate_hides_front_tokens_and_prefixes(case: Case) -> None:
    if case.tower.depth:
        tokens = prompts(case.tower)
        shut = [torch.tensor(-1e4)] * case.tower.depth
        with torch.no_grad():
            plain = case.tower(case.x)
            front = case.tower(case.x, Prompt(front=tokens, gate=shut))
            prefix = case.tower(case.x, Prompt(prefix=[(t, t) for t in tokens], gate=shut))
        assert torch.allclose(front, plain, atol=1e-4) and torch.allclose(prefix, plain, atol=1e-4)


def test_the_prompt_of_a_row_changes_no_other_row(case: Case) -> None:
    if case.tower.depth:
        for make in variants(case.tower, case.tower.depth).values():
            tokens = prompts(case.tower)
            changed = [t.clone() for t in tokens]
            for t in changed:
                t[2] = t[2].flip(1)
            with torch.no_grad():
                apart = (case.tower(case.x, make(changed)) - case.tower(case.x, make(tokens))).abs().amax(1)
            assert apart[2] > 1e-4
            assert apart[[0, 1, 3]].max() < 1e-5


def test_rows_with_different_prompts_are_as_each_alone(case: Case) -> None:
    if case.tower.depth:
        whole = Prompt(front=prompts(case.tower))
        with torch.no_grad():
            together = case.tower(case.x, whole)
            alone = [case.tower(case.x[i : i + 1], whole.rows(torch.tensor([i]))) for i in range(4)]
        assert torch.allclose(torch.cat(alone), together, atol=1e-4)


def test_prompts_that_do_not_fit_are_refused(case: Case) -> None:
    if case.tower.depth:
        with pytest.raises(UserError, match=f"prompts for {case.tower.depth + 1} blocks"):
            case.tower(case.x, Prompt(front=prompts(case.tower, depth=case.tower.depth + 1)))
        with pytest.raises(UserError, match=f"width {case.tower.widths[0] + 1}"):
            case.tower(case.x, Prompt(front=prompts(case.tower, wide=1)))
        with pytest.raises(UserError, match="prompts for 3 rows"):
            case.tower(case.x, Prompt(front=prompts(case.tower, count=3)))


def test_its_state_loads_strictly_into_another_and_makes_it_the_same(case: Case) -> None:
    other = case.build(1)
    other.load_state_dict(case.tower.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(case.x), case.tower(case.x))


def test_audio_of_one_sample_and_of_thrice_the_crop_gives_features(case: Case) -> None:
    if isinstance(case.tower.spec, AudioSpec):
        for x in (torch.full((2, 1), 0.1), torch.cat([case.x] * 3, dim=1)):
            with torch.no_grad():
                features = case.tower(x)
            assert features.shape == (len(x), case.tower.out_dim)
            assert features.isfinite().all()


def test_a_frozen_tower_gets_no_gradient_and_moves_no_statistics(case: Case) -> None:
    tower, m = case.build(2), case.tower.modality
    model = Model({m: tower}, {m: HeadConfig(kind="linear")}, 6, frozenset())
    before = {k: v.clone() for k, v in tower.state_dict().items()}
    model.train()
    assert not any(layer.training for layer in tower.modules())
    embeddings = model.encode(m, case.x)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(4), atol=1e-5)
    embeddings[:, 0].sum().backward()
    assert all(p.grad is None for p in tower.parameters())
    assert any(p.grad is not None for p in model.heads.parameters())
    assert all(torch.equal(v, before[k]) for k, v in tower.state_dict().items())


def test_one_row_is_a_batch_too(case: Case) -> None:
    with torch.no_grad():
        assert case.tower(rows(case.tower, 1)).shape == (1, case.tower.out_dim)
