"""What prompts cost: a prompted step beside transformers' own tower with as many more tokens; many tasks beside two.

    python benchmarks/prompted_step.py [rows] [rounds]

1. Forward and backward through frozen MiniLM with P prompt tokens a block, against transformers' BertModel on a text
   that is P tokens longer (``inputs_embeds`` that require a gradient). About 1 is what to look at.
2. The same with the un-prompted features that a router or a pool asks for: known beforehand, or computed in the step.
3. Inference with 2, 16 and 128 learned tasks: rows of a batch belong to two of them. Beyond the choice of a task
   nothing should grow.

Processor time of one thread, in turns, medians over the turns.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from polymnia.config import parse_part
from polymnia.continual.chain import Chain
from polymnia.continual.method import Setup
from polymnia.continual.objective import Objective, ObjectiveConfig
from polymnia.models.model import Model
from polymnia.models.towers import sentence
from polymnia.types import Known, Task

DIM, P, PAIR = 384, 8, ("image", "text")
TEXTS = ("a slow low drum dies down over a hum", "a recording of a shrill flute that swells", "rain")
Act = Callable[[], object]


def text_tower() -> sentence.Tower:
    return sentence.Tower(sentence.Config(frozen=False)).eval().requires_grad_(False)


def learner(tower: sentence.Tower, part: dict, tasks: int) -> tuple[Model, Chain]:
    model = Model({"text": tower}, {}, DIM, frozenset({"text"}), tasks)
    names = tuple(f"task {n}" for n in range(tasks))
    chain = Chain([parse_part("methods", part)], Setup(model, Objective(ObjectiveConfig(), (PAIR,)), tasks, 0, names))
    chain.begin_task(model, Task("a", 1, (), (), (), (PAIR,)))
    return model, chain


def backward(features: Tensor) -> None:
    features.square().sum().backward()


def plain(tower: sentence.Tower, ids: Tensor) -> Act:
    """transformers' model on a text that is P tokens longer."""
    words = tower.encoder.get_input_embeddings()(ids)
    more = torch.randn(len(ids), P, DIM).requires_grad_()
    mask = torch.cat([ids != tower.spec.pad_id, torch.ones(len(ids), P, dtype=torch.bool)], 1).long()

    def act() -> None:
        embeds = torch.cat([words, more], 1)
        backward(tower.encoder(inputs_embeds=embeds, attention_mask=mask).last_hidden_state.mean(1))

    return act


def prompted(tower: sentence.Tower, part: dict, ids: Tensor, cached: bool = True) -> Act:
    model, chain = learner(tower, part, 2)
    chain.train()
    task = torch.ones(len(ids), dtype=torch.long)
    with torch.no_grad():
        known = Known(task, tower(ids) if cached else None)
    return lambda: backward(chain.features(model, "text", ids, known))


def served(tower: sentence.Tower, ids: Tensor, tasks: int) -> Act:
    """Inference once ``tasks`` tasks were learned; the rows belong to two of them."""
    part = {"use": "lpi", "length": P, "interaction": None, "align": 0, "contrast": 0}
    model, chain = learner(tower, part, tasks)
    with torch.no_grad():
        query = tower(ids)
    router = chain.prompter.routers["text"]
    for n in range(1, tasks + 1):
        router.learn(n, query[:6] + n if n > 2 else query + 0.01 * n)
    chain.eval()

    def act() -> None:
        with torch.no_grad():
            chain.features(model, "text", ids, Known(None, query))

    return act


def compare(title: str, actions: dict[str, Act], rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 2):
        for name, act in actions.items():
            start = time.process_time()
            act()
            if turn >= 2:
                times[name].append(time.process_time() - start)
    first = times[next(iter(times))]
    table = Table("", "ms", "ratio to the first", title=title)
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, first, strict=True))
        table.add_row(name, f"{1000 * statistics.median(taken):.1f}", f"{ratio:.2f}")
    Console().print(table)


def main(rows: int = 32, rounds: int = 15) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tower = text_tower()
    ids = tower.prepare([TEXTS[n % len(TEXTS)] for n in range(rows)])
    vpt, l2p = {"use": "vpt", "length": P}, {"use": "l2p", "length": 2, "top_n": 4}
    lpi = {"use": "lpi", "length": P, "interaction": None, "align": 0, "contrast": 0}
    step = {f"BertModel with {P} more tokens": plain(tower, ids), "vpt, deep": prompted(tower, vpt, ids)}
    step |= {"lpi, low rank": prompted(tower, lpi, ids), "l2p": prompted(tower, l2p, ids)}
    compare(f"forward and backward of {rows} texts, {rounds} turns", step, rounds)
    queries = {"l2p, features known": prompted(tower, l2p, ids), "computed": prompted(tower, l2p, ids, False)}
    compare("the same, un-prompted features", queries, rounds)
    compare("inference, tasks learned", {str(t): served(tower, ids, t) for t in (2, 16, 128)}, rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
