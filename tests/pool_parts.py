"""Miniatures of the methods that keep pools of prompts, and what blocks of a tower see."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from prompt_miniatures import task
from test_lpi_parts import array, shaken
from test_prompt_methods import features, made
from torch import Tensor, nn

from polymnia.continual.method import AbstractMethod
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.types import Modality

EVERY = ("l2p", "dualprompt", "coda")
SMALL: dict[str, dict[str, Any]] = {
    "l2p": {"length": 2, "pool": 5, "top_n": 2},
    "dualprompt": {"length": 3, "length_general": 2},
    "coda": {"length": 4, "per_task": 2},
}
PAIRS = (("audio", "image"), ("audio", "text"), ("image", "text"))


def small(use: str, of: Model, tasks: int = 3, **settings: Any) -> AbstractMethod:
    return made(use, of, tasks, **{**SMALL[use], **settings})


def learn(method: AbstractMethod, of: Model, upto: int, begin_next: bool = False) -> None:
    """Tasks of all pairs, whose weights end up somewhere; the last one may be left in the middle."""
    for index in range(1, upto + 1 + begin_next):
        method.begin_task(of, task(index, *PAIRS))
        moved = [p for p in method.parameters() if p.requires_grad]
        shaken(nn.ParameterList(moved), index)
        if index <= upto:
            method.end_task(of, task(index, *PAIRS), [])


def cos(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of every row of a with every row of b, by the definition."""
    return np.array([[x @ y / np.sqrt((x @ x) * (y @ y)) for y in b] for x in a])


def plain(of: Model, m: Modality, x: Tensor) -> np.ndarray:
    """Queries: un-prompted features, kept in single precision."""
    return of.features(m, x).detach().float().double().numpy()


class Prefixes:
    """Keys and values that each block of a tower sees besides its own."""

    def __init__(self, tower: AbstractTower):
        self.seen: list[tuple[np.ndarray, np.ndarray] | None] = []
        for block in (tower if hasattr(tower, "blocks") else tower.body).blocks:
            block.register_forward_pre_hook(self._note)

    def _note(self, _: nn.Module, args: tuple) -> None:
        self.seen.append(None if args[2] is None else (array(args[2][0]), array(args[2][1])))


def aim(keys: nn.Parameter | nn.ParameterList, query: np.ndarray) -> None:
    """Put keys near some of the queries, off their mean, so that rows choose differently."""
    g, off = torch.Generator().manual_seed(0), torch.tensor(query - query.mean(0))
    with torch.no_grad():
        for n, key in enumerate(keys):
            key.copy_(off[n % len(off)] + 0.01 * torch.randn(key.shape, generator=g, dtype=key.dtype))


def sees(method: AbstractMethod, of: Model, m: Modality, x: Tensor, rows: list[int] | None) -> list:
    seen = Prefixes(of.tower(m))
    features(method, of, m, x, rows)
    return seen.seen[-of.tower(m).depth :]
