"""Every file in eval/evaluators keeps the contract of an evaluator."""

import ast
import copy
import inspect
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from polymnia.config import Frozen, find, names
from polymnia.types import AudioFile, Captions, EvalData, ImageFile, Item, Modality, Table, UserError, What

EVALUATORS = names("eval.evaluators")
TOPICS = ("dog_bark", "rain", "sea_waves")
SEEN_BY_AN_EVALUATOR = ("polymnia.config", "polymnia.types", "polymnia.ops", "polymnia.eval", "polymnia.embed")


def item(n: int, part: str) -> Item:
    topic = TOPICS[n % 3]
    return Item(
        id=f"{part}{n}",
        sources={
            "audio": AudioFile(Path(f"{n}.wav")),
            "image": ImageFile(Path(f"{n}.png")),
            "text": Captions(tuple(f"{part}{n} caption {k}" for k in range(1 + n % 3))),
        },
        group=f"{part}{n}",
        topic=topic,
        split=part,  # type: ignore[arg-type]
        labels=(topic, "outdoors") if n % 2 else (topic,),
        fold=n % 4,
    )


def fake_embed(items: Sequence[Item], modality: Modality, what: What = "embedding") -> Table:
    """Random rows that depend on nothing but what is asked: item, modality, kind, number of the caption."""
    rows, owners = [], []
    for owner in items:
        source = owner.sources[modality]
        for k in range(len(source.texts) if isinstance(source, Captions) else 1):
            rng = np.random.default_rng(zlib.crc32(f"{owner.id} {modality} {what} {k}".encode()))
            rows.append(rng.normal(size=len(TOPICS) if what == "scores" else 6))
            owners.append(owner)
    vectors = torch.tensor(np.array(rows), dtype=torch.float32)
    columns = [tuple(getattr(i, name) for i in owners) for name in ("id", "group", "topic")]
    return Table(columns[0], normalize(vectors, dim=1) if what == "embedding" else vectors, columns[1], columns[2])


@pytest.fixture
def data() -> EvalData:
    train, valid, test = (
        tuple(item(n, part) for n in range(size)) for part, size in (("train", 24), ("valid", 9), ("test", 13))
    )
    earlier = tuple(item(n, "test") for n in range(50, 57))
    pairs = (("audio", "text"), ("audio", "image"))
    return EvalData(train, valid, test, seen=earlier + test, pairs=pairs, names={"audio": TOPICS})


@pytest.mark.parametrize("name", EVALUATORS)
def test_it_says_what_it_measures_and_has_a_frozen_config(name: str) -> None:
    module = find("eval.evaluators", name)
    assert module.__doc__ and "Keys" in module.__doc__
    assert module.Config.__doc__ and module.evaluate.__doc__
    cfg = module.Config()
    assert isinstance(cfg, Frozen)
    with pytest.raises(ValidationError):
        setattr(cfg, next(iter(type(cfg).model_fields)), None)
    with pytest.raises(ValidationError, match="unknown key"):
        module.Config(no_such_key=1)
    assert module.Config(**cfg.model_dump(mode="json")) == cfg


@pytest.mark.parametrize("name", EVALUATORS)
def test_it_sees_a_function_and_never_a_model(name: str) -> None:
    module = find("eval.evaluators", name)
    assert list(inspect.signature(module.evaluate).parameters) == ["cfg", "embed", "data"]
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for used in imported:
            assert not used.startswith("polymnia") or used.startswith(SEEN_BY_AN_EVALUATOR)
            assert not used.startswith("polymnia.eval.evaluators")  # nor its siblings


@pytest.mark.parametrize("name", EVALUATORS)
def test_it_returns_finite_named_floats_always_the_same_and_leaves_no_trace(name: str, data: EvalData) -> None:
    module = find("eval.evaluators", name)
    before, states = copy.deepcopy(data), (torch.get_rng_state(), np.random.get_state()[1].copy())
    first = module.evaluate(module.Config(), fake_embed, data)
    assert len(first) > 1
    assert all(type(key) is str and type(value) is float and math.isfinite(value) for key, value in first.items())
    assert module.evaluate(module.Config(), fake_embed, data) == first
    assert data == before
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()


@pytest.mark.parametrize("name", EVALUATORS)
def test_scores_are_percentages(name: str, data: EvalData) -> None:
    module = find("eval.evaluators", name)
    got = module.evaluate(module.Config(), fake_embed, data)
    counts = ("/N", "/M", "/MedR", "/classes")
    scores = [value for key, value in got.items() if not key.endswith(counts)]
    assert scores and all(0 <= value <= 100 for value in scores)
    assert any(value > 1 for value in scores)  # shares would all be below


@pytest.mark.parametrize("name", EVALUATORS)
def test_a_task_with_nothing_to_score_counts_zero(name: str, data: EvalData) -> None:
    module = find("eval.evaluators", name)

    def refuse(items: Sequence[Item], modality: Modality, what: What = "embedding") -> Table:
        raise UserError("nothing to embed")

    empty = EvalData((), (), (), pairs=data.pairs, names=data.names)
    got = module.evaluate(module.Config(), refuse, empty)
    assert got and all(value == 0 for value in got.values())
