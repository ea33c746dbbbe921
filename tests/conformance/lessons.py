"""Three made-up tasks for miniature towers, and a few steps of learning them: no run, no files."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from handmade import Fixed
from torch import Tensor, nn

from polymnia.config import find, parse_part
from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup, embed_batch
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.models.heads import HeadConfig
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.types import MODALITIES, AudioSpec, Batch, ImageSpec, Known, Modality, Pair, Task, Terms, TextSpec

TASKS, ROWS, STEPS, DIM = 3, 6, 2, 8
NAMES = ("rain", "a dog", "barks")
WORDS = (("rain", "a"), ("dog", "barks"), ("slowly", "on"))  # of each task
# The tiny form of a method: these keys, where its Config has them.
SMALL: dict[str, Any] = {"length": 4, "context": 4, "select": {"centres": 3}}
Towers = Mapping[Modality, AbstractTower]


def build(
    parts: Sequence[str | dict[str, Any]],
    towers: Towers,
    seed: int = 0,
    tasks: int = TASKS,
    frozen: tuple[Modality, ...] = (),
) -> tuple[Model, Chain]:
    """A model on copies of the towers and a chain of methods in tiny form, both in eval mode."""
    towers = {m: copy.deepcopy(towers[m]) for m in MODALITIES if m in towers}
    torch.manual_seed(seed)
    heads: dict[Modality, HeadConfig] = {m: HeadConfig(kind="linear") for m in towers}
    model = Model(towers, heads, DIM, frozenset(towers) - {*frozen}, tasks, seed)
    setup = Setup(model, Objective(ObjectiveConfig(), pairs(towers)), tasks, 0, NAMES[:tasks])
    return model.eval(), Chain([parse_part("methods", small(p)) for p in parts], setup).eval()


def small(part: str | dict[str, Any]) -> dict[str, Any]:
    """A part with the keys of SMALL, unless it says otherwise."""
    part = {"use": part} if isinstance(part, str) else part
    fields = find("methods", part["use"]).Config.model_fields
    return {k: v for k, v in SMALL.items() if k in fields} | part


def pairs(towers: Towers) -> tuple[Pair, ...]:
    here = [m for m in MODALITIES if m in towers]
    return tuple((a, b) for i, a in enumerate(here) for b in here[i + 1 :])


def task(index: int, of: tuple[Pair, ...]) -> Task:
    return Task(NAMES[index - 1], index, (), (), (), of)


def media(tower: AbstractTower, index: int, count: int, seed: int = 0) -> list[Any]:
    """Different media of a task, that differ from those of the others more than from each other."""
    r, spec = np.random.default_rng([index, seed]), tower.spec
    if isinstance(spec, TextSpec):
        return [" ".join(r.choice(WORDS[index - 1], 1 + n % 4)) for n in range(count)]
    if isinstance(spec, AudioSpec):
        tone = np.sin(np.arange(spec.samples) * 0.02 * 5 ** (index - 1))
        noise = r.normal(0, 1, (count, spec.samples)) * np.linspace(0.1, 0.3, count)[:, None]
        return list((0.3 * tone + 0.5 * noise).clip(-1, 1).astype(np.float32))
    if isinstance(spec, ImageSpec):
        noise = r.integers(0, 80, (count, spec.channels, spec.size, spec.size))
        noise[:, index % spec.channels] += 80 * index - 70
        return list(noise.astype(np.uint8))
    return list((r.normal(0, 1, (count, spec.dim)) + 3 * np.eye(spec.dim)[index]).astype(np.float32))


def batch(towers: Towers, index: int, seed: int = 0, count: int = ROWS) -> Batch:
    """Rows of a task that have all modalities."""
    inputs = {m: t.prepare(media(t, index, count, seed)) for m, t in towers.items()}
    pad: dict[Modality, int] = {m: t.spec.pad_id for m, t in towers.items() if isinstance(t.spec, TextSpec)}
    every = torch.arange(count)
    group = every + 1000 * index + 100 * seed
    return Batch(inputs, dict.fromkeys(inputs, every), group, torch.full((count,), index), pad=pad)


def batches(towers: Towers, index: int) -> Fixed:
    return Fixed([batch(towers, index, seed) for seed in range(STEPS)])


def losses(model: Model, chain: Chain, rows: Batch) -> Terms:
    """What the loop would sum up for a batch."""
    out = embed_batch(chain, model, rows)
    contrast = Objective(ObjectiveConfig(), pairs(model.towers))(model, rows, out)
    return {k: chain.share * v for k, v in contrast.items()} | chain.loss(model, rows, out)


def learning(model: Model, chain: Chain) -> dict[str, nn.Parameter]:
    """What trains now, by name."""
    both = {"model": model, "method": chain}
    return {f"{n}.{k}": p for n, m in both.items() for k, p in m.named_parameters() if p.requires_grad}


def learn(
    model: Model, chain: Chain, towers: Towers, index: int, of: tuple[Pair, ...] = (), optimizer: str = "adamw"
) -> list[Terms]:
    """A task from beginning to end. Gives the terms of each step."""
    now = task(index, of or pairs(towers))
    chain.begin_task(model, now)
    used = {m: t for m, t in towers.items() if any(m in pair for pair in now.pairs)}
    trained = list(learning(model, chain).values())
    steps = {
        "adamw": lambda: torch.optim.AdamW(trained, lr=0.02, weight_decay=0.1),
        "sgd": lambda: torch.optim.SGD(trained, lr=0.5, momentum=0.9, weight_decay=0.1),
    }[optimizer]()
    done = []
    for rows in batches(used, index):
        model.train(), chain.train()
        terms = losses(model, chain, chain.mix(rows))
        steps.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        chain.after_backward(model)
        steps.step()
        done.append({k: v.detach() for k, v in terms.items()})
    chain.end_task(model, now, batches(used, index))
    return done


@torch.no_grad()
def features(model: Model, chain: Chain, m: Modality, x: Tensor, **known: Tensor) -> Tensor:
    return chain.features(model, m, x, Known(**known))


def mixed(towers: Towers, m: Modality, count: int = 2) -> tuple[Tensor, Tensor]:
    """Unseen rows of all three tasks in turn, and their tasks."""
    raw = [media(towers[m], index, count, seed=9) for index in range(1, TASKS + 1)]
    rows = [raw[n][i] for i in range(count) for n in range(TASKS)]
    return towers[m].prepare(rows), torch.arange(1, TASKS + 1).repeat(count)


def asked_before(model: Model, rows: Batch) -> Batch:
    """The batch with what the towers say of it without prompts."""
    with torch.no_grad():
        return replace(rows, queries={m: model.features(m, x) for m, x in rows.inputs.items()})
