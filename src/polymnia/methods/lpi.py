"""LPI: prompts for both towers from a few small factors a task, which look at each other on their way.

P^m[l, p, d] = 1/r sum_k A[l, k] B^m[p, k] C^m[d, k] is added to the slots before block l; before later blocks a slot
hears the other tower's prompt through a map of low rank (``continual/interaction.py``);
L = L_c + 0.1 L_align + 0.1 L_task: prompts of one layer belong together across towers (``ops/alignment.py``), prompts
of tasks with similar names are drawn together (``ops/taskcontrast.py``).

*Low-rank Prompt Interaction for Continual Vision-Language Retrieval*, ACM MM 2024. Every task has factors, maps and
norms of its own; nobody says at inference which task an input is of: the nearest centre does, a side each. The public
retrieval code has no interaction, prompts that never reach a second block, and a task term that cannot move. This is
the whole method with these put right; what differs, and the switches back, are in docs/papers/lpi.md.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from polymnia.continual.interaction import DEPTH, InteractionConfig, Interactions
from polymnia.continual.lowrank import Bank
from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.prompts import Gates, PromptConfig, asked, begin, prompted, refuse_idle, routed, spread
from polymnia.continual.select import SelectConfig, Selector
from polymnia.continual.taskdistance import TaskSimilarity, can_read
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt, fold
from polymnia.ops.alignment import Form, layer_contrast
from polymnia.ops.taskcontrast import released_task_contrast, similar, task_contrast
from polymnia.types import MODALITIES, Batch, Batches, Known, Modality, Outputs, Task, Terms, UserError


class Config(PromptConfig):
    """``rank`` of the prompts (None: dense ones); ``depth``: blocks that they reach (None: 9, or those of the smallest
    tower); ``share_layer_factor``: one A for all towers. ``deep``: what becomes of the slots in the next block (none:
    as released, only the first block gets tokens). ``interaction``: null for none. ``select``: how a task is chosen.

    ``align``, ``contrast``: weights of L_align and L_task. ``align_form``: ``raw`` (the retrieval code) or ``cosine``
    (the grounding code) over ``align_temperature``. L_task: cosines over ``contrast_temperature`` (None: 0.1, or 0.001
    as ``released``); tasks are similar above a ``threshold``, or above a ``quantile`` of all pairs; ``soft``: towards
    the similarities themselves; ``released``: with the sigmoid applied twice, which does not move. ``similarities``:
    cosines between the tasks, in the order they are learned in (none given: of their names in the text tower).
    """

    length: PositiveInt = 16
    heads: bool = False
    scale: bool = False
    rank: PositiveInt | None = 4
    depth: PositiveInt | None = None
    share_layer_factor: bool = True
    deep: Literal["add", "replace", "none"] = "add"
    interaction: InteractionConfig | None = InteractionConfig()
    select: SelectConfig = SelectConfig()
    align: NonNegativeFloat = 0.1
    align_form: Form = "raw"
    align_temperature: PositiveFloat = 0.01
    contrast: NonNegativeFloat = 0.1
    contrast_temperature: PositiveFloat | None = None
    released: bool = False
    soft: bool = False
    threshold: float | None = None
    quantile: float = Field(0.75, ge=0, le=1)
    similarities: tuple[tuple[float, ...], ...] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Config:
        if self.released and self.soft:
            raise ValueError("released and soft are two forms of one term; set one of them")
        return self


class Method(AbstractMethod):
    """Prompts, maps, gates and a router: of each task its own."""

    keeps_towers = True

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg, self.asks, self.task = cfg, True, 0
        coupled = cfg.align > 0 or cfg.interaction is not None
        chosen = sorted(prompted(setup, cfg, at_least=2 if coupled else 1), key=MODALITIES.index)
        towers = {m: setup.model.tower(m) for m in chosen}
        self.widths = {m: t.widths for m, t in towers.items()}
        width, depths = {m: w[0] for m, w in self.widths.items()}, {m: t.depth for m, t in towers.items()}
        self.depth = _depth(cfg.depth, depths)
        self.bank = Bank(setup.tasks, width, self.depth, cfg.length, cfg.rank, cfg.share_layer_factor)
        whom = cfg.interaction
        self.interactions = None if whom is None else Interactions(whom, setup.tasks, width, depths)
        gates = [nn.ModuleDict({m: Gates(depths[m], cfg.gate) for m in chosen}) for _ in range(setup.tasks)]
        self.gates = nn.ModuleList(gates)
        self.routers = nn.ModuleDict(
            {m: Selector(cfg.select, m, setup.tasks, t.out_dim, setup.seed) for m, t in towers.items()}
        )
        names = setup.names or tuple(f"task {n}" for n in range(1, setup.tasks + 1))
        self.similarity = TaskSimilarity(names, cfg.similarities)
        self.now: tuple[Modality, ...] = ()

    def begin_task(self, model: Model, task: Task) -> None:
        begin(model, self.cfg)
        refuse_idle(self.cfg, self.bank.modalities, task)
        self.task = task.index
        self.now = tuple(m for m in self.bank.modalities if any(m in pair for pair in task.pairs))
        self.bank.begin(task.index)
        if self.interactions is not None:
            self.interactions.begin(task.index)
        for number, gates in enumerate(self.gates, start=1):
            gates.requires_grad_(number == task.index)
        for m in self.now:
            self.routers[m].start(task)
        if can_read(model) or (self.cfg.contrast and len(self.gates) > 1):
            self.similarity.learn(model)

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if modality not in self.routers:
            return model.features(modality, x)
        tasks = routed(self.routers[modality], model, modality, x, known, self.training)
        # Rows of no task pass without prompts; a gate is the same for a whole batch, so that each task goes alone.
        apart = tasks.clamp(max=1) if self.cfg.gate is None else tasks
        parts, order = [], []
        for kind in apart.unique().tolist():
            rows = (apart == kind).nonzero()[:, 0]
            prompt = self._prompt(modality, tasks[rows]) if kind else None
            parts.append(model.features(modality, x[rows], prompt))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        terms: Terms = {}
        with torch.autocast(batch.group.device.type, enabled=False):  # means over channels are a thirtieth of entries
            if self.cfg.align and len(self.now) > 1:
                terms["align"] = self.cfg.align * self._align()
            if self.cfg.contrast and (found := self._contrasts()):
                terms["contrast"] = self.cfg.contrast * torch.stack(found).mean()
        return terms

    def end_task(self, model: Model, task: Task, batches: Batches) -> None:
        for m in self.now:
            self.routers[m].learn(task.index, asked(model, m, batches))

    def _prompt(self, modality: Modality, tasks: Int[Tensor, " b"]) -> Prompt:
        """What the rows of these tasks bring along. Only the prompts of tasks that are there are made."""
        used, place = spread(tasks)
        own = self.bank(modality, used)
        front = [fold(own[:, n], w) for n, w in zip(range(self.depth), self.widths[modality], strict=False)]
        front = [t[place] if len(used) > 1 else t.expand(len(place), -1, -1) for t in front]
        mix = None
        if self.interactions is not None:
            mix = self.interactions(modality, self.bank(self.interactions.partner[modality], used), used, place)
        gate = self.gates[used[0] - 1][modality]() if self.cfg.gate is not None else ()
        if self.cfg.deep == "none":
            return Prompt(front=front[:1], gate=gate, mix=mix)
        return Prompt(front=front, gate=gate, deep=self.cfg.deep, mix=mix)

    def _align(self) -> Float[Tensor, ""]:
        """The mean over the first tower of the task with each of its others."""
        own = [self.bank(m, [self.task])[0] for m in self.now]
        pairs = [layer_contrast(own[0], p, self.cfg.align_form, self.cfg.align_temperature) for p in own[1:]]
        return torch.stack(pairs).mean()

    def _contrasts(self) -> list[Float[Tensor, ""]]:
        """L_task of each tower of the task that a finished task had, too."""
        cfg, found, matrix = self.cfg, [], self.similarity.matrix
        target = matrix if cfg.soft else similar(matrix, cfg.threshold, cfg.quantile)
        form, temperature = (released_task_contrast, 0.001) if cfg.released else (task_contrast, 0.1)
        for m in self.now:
            finished = [n + 1 for n in self.routers[m].left.nonzero()[:, 0].tolist() if n + 1 < self.task]
            if not finished:
                continue
            tasks = [*finished, self.task]
            at = torch.tensor(tasks, device=matrix.device) - 1
            rows = self.bank(m, tasks).flatten(1)
            found.append(form(rows, target[at][:, at], cfg.contrast_temperature or temperature))
        return found


def _depth(given: int | None, depths: dict[Modality, int]) -> int:
    shallow = min(depths, key=depths.__getitem__)
    if given is not None and given > depths[shallow]:
        raise UserError(f"depth {given}: towers.{shallow} has {depths[shallow]} blocks; lower it")
    return given or min(DEPTH, depths[shallow])
