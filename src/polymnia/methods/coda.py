"""CODA-Prompt: an input's prompt is a weighted sum of components; every task adds some, and those of before stay.

alpha_i = cos(q * A_i, K_i)  (product number by number; no softmax, a weight may be negative),  q = f_m(x) without
prompts;  p = sum_i alpha_i P_i over the components of all tasks so far; one half of its tokens are keys, the other
values that the attention of a block sees besides.  L = L_c + ortho sum_l [o(K) + o(A) + o(P)],
o(X) = mean over entries of (X X^T - I)^2.

Smith et al.: *CODA-Prompt: continual decomposed attention-based prompting for rehearsal-free continual learning*, CVPR
2023. Each tower, and each block of it, has components P, keys K and attention vectors A of its own. A query counts by
its direction alone, and gets no gradient. No input is ever said to be of a task. Only the components of the current
task train; a finished task's are in parameters that no optimizer holds any more, and stay bit by bit.

New components start at unit norm, orthogonal to those of before and to each other. The authors' code takes away
projections on old ones one after another, which after training are not orthogonal themselves, so that something is
left; here it is their span. Where there are more components than numbers (feature sizes are small in small towers), a
new round begins, orthogonal only within itself. ``ortho`` is 0 as in the authors' shipped settings.

The authors have 100 components, split evenly over the tasks. Here every task has ``per_task`` of them, 10 by default,
so that what a task adds does not depend on how many there are: that is theirs for ten tasks, and for four it is
``per_task: 25``.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn

from polymnia.continual.method import AbstractMethod, Setup, generator
from polymnia.continual.pool import Blocks, attention, joined, orthogonal, within
from polymnia.continual.prompts import Gates, PromptConfig, ask, begin, prompted, refuse_idle
from polymnia.continual.select import Progress
from polymnia.continual.tasktokens import features_by_kind
from polymnia.models.model import Model
from polymnia.models.prompting import Prefix, Prompt
from polymnia.types import MODALITIES, Batch, Batches, Known, Modality, Outputs, Task, Terms

USUAL, SALT = 5, 3


class Config(PromptConfig):
    """``per_task`` components at each of ``blocks`` (numbers from 0; none given: the first five, as far as the tower
    goes); ``length`` of a component: half of it keys, half of it values. ``ortho``: weight of the penalty."""

    length: PositiveInt = 8
    per_task: PositiveInt = 10
    blocks: Blocks | None = Field(None, min_length=1)
    ortho: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _two_halves(self) -> Config:
        if self.length % 2:
            raise ValueError(f"length {self.length}: half of it are keys, half values; give an even number")
        return self


class Method(AbstractMethod):
    """Components of each prompted tower and task; gates that all tasks share."""

    keeps_towers = True

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg, self.asks, self.seed, self.now = cfg, True, setup.seed, tuple[Modality, ...]()
        towers = {m: setup.model.tower(m) for m in prompted(setup, cfg)}
        usual = {m: tuple(range(min(USUAL, t.depth))) for m, t in towers.items()}
        self.blocks = {m: within("blocks", cfg.blocks or usual[m], m, t.depth) for m, t in towers.items()}
        self.banks = nn.ModuleDict()
        for m, t in towers.items():
            widths = [t.widths[b] for b in self.blocks[m]]
            self.banks[m] = nn.ModuleList(
                nn.ModuleList(_Components(cfg.per_task, cfg.length, w, t.out_dim) for w in widths)
                for _ in range(setup.tasks)
            )
        self.gates = nn.ModuleDict({m: Gates(len(b), cfg.gate) for m, b in self.blocks.items()})
        self.progress = nn.ModuleDict({m: Progress(m, setup.tasks) for m in towers})
        self.banks.requires_grad_(False)

    def begin_task(self, model: Model, task: Task) -> None:
        begin(model, self.cfg)
        refuse_idle(self.cfg, list(self.banks), task)
        self.now = tuple(m for m in self.banks if any(m in pair for pair in task.pairs))
        for m, bank in self.banks.items():
            for number, components in enumerate(bank, start=1):
                components.requires_grad_(m in self.now and number == task.index)
        for m in self.now:
            self.progress[m].begin(task.index)
            self._draw(m, task.index)

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if modality not in self.banks:
            return model.features(modality, x)
        new = self._hears_new(modality, x, known)
        prompts = (new | self.progress[modality].left.any()).long()
        query = ask(model, modality, x, known)
        return features_by_kind(
            model, modality, x, prompts, lambda rows: self._prompt(modality, query[rows], new[rows])
        )

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        if not self.cfg.ortho:
            return {}
        terms: Terms = {}
        with torch.autocast(batch.group.device.type, enabled=False):
            for m in self.now:
                tasks, places = self._tasks(m, new=True), range(len(self.blocks[m]))
                found = [_penalty(x) for place in places for x in self._at(m, place, tasks)]
                terms[f"ortho/{m}"] = self.cfg.ortho * torch.stack(found).sum()
        return terms

    def end_task(self, model: Model, task: Task, batches: Batches) -> None:
        for m in self.now:
            self.progress[m].finish(task.index)

    def _hears_new(self, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known) -> Bool[Tensor, " b"]:
        """Rows that components of an unfinished task serve, too: all in training; else those known to be of it."""
        progress = self.progress[modality]
        none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if self.training:
            return none | (progress.current > progress.learned)
        return none if known.task is None else progress.told(progress.own(known.task))

    def _tasks(self, modality: Modality, new: bool) -> list[int]:
        """Numbers of the tasks that have components: the finished ones, and at the end the unfinished one, if any."""
        progress = self.progress[modality]
        finished = [n + 1 for n in progress.left.nonzero()[:, 0].tolist()]
        return [*finished, int(progress.current)] if new and progress.current > progress.learned else finished

    def _at(self, modality: Modality, place: int, tasks: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Components, keys and attention vectors of some tasks at one of the blocks, one task behind the other."""
        parts = [self.banks[modality][task - 1][place] for task in tasks]
        p, k, a = ([getattr(c, name) for c in parts] for name in ("prompts", "keys", "attention"))
        return torch.cat(p), torch.cat(k), torch.cat(a)

    def _prompt(self, modality: Modality, query: Float[Tensor, "b d"], new: Bool[Tensor, " b"]) -> Prompt:
        """The weighted sums, of an unfinished task's components only for rows that hear them."""
        late, prefix = bool(new.any()), dict[int, Prefix]()
        tasks = self._tasks(modality, late)
        for place, block in enumerate(self.blocks[modality]):
            p, k, a = self._at(modality, place, tasks)
            alpha = attention(query, k, a)
            if late:
                old = torch.arange(len(k), device=new.device) < len(k) - self.cfg.per_task
                alpha = alpha.where(old | new[:, None], 0)
            keys, values = torch.einsum("bm,mlw->blw", alpha, p).chunk(2, dim=1)
            prefix[block] = (keys, values)
        gates = dict(zip(self.blocks[modality], self.gates[modality](), strict=False))  # none without a gate
        whole = joined([prefix])
        return Prompt(prefix=whole, gate=tuple(gates.get(block) for block in range(len(whole))))

    @torch.no_grad()
    def _draw(self, modality: Modality, task: int) -> None:
        """Components of a new task: a function of the seed, the task and what is there."""
        bank, finished = self.banks[modality], self._tasks(modality, new=False)
        for place, components in enumerate(bank[task - 1]):
            old = [bank[t - 1][place] for t in finished]
            for number, (name, x) in enumerate(components.named_parameters()):
                before = torch.cat([x.new_zeros(0, *x.shape[1:]), *(getattr(c, name) for c in old)])
                g = generator(self.seed, SALT, task, MODALITIES.index(modality), place, number)
                x.copy_(orthogonal(before.flatten(1), len(x), g).view_as(x))


class _Components(nn.Module):
    """What one task has at one block: ``prompts`` (P), ``keys`` (K), ``attention`` (A); zero until they are drawn."""

    def __init__(self, count: int, length: int, width: int, dim: int):
        super().__init__()
        self.prompts = nn.Parameter(torch.zeros(count, length, width))
        self.keys = nn.Parameter(torch.zeros(count, dim))
        self.attention = nn.Parameter(torch.zeros(count, dim))


def _penalty(x: Float[Tensor, "m ..."]) -> Float[Tensor, ""]:
    """Mean over the entries of (X X^T - I)^2, a row a component."""
    x = x.flatten(1)
    return (x @ x.T - torch.eye(len(x), dtype=x.dtype, device=x.device)).square().mean()
