"""S-Prompts: every task learns prompts of its own, alone; at inference the nearest centre says whose serve an input.

Tokens P^m_s for task s and tower m;  h = f_m([CLS, P^m_s, x]),  s = task of arg min_c |unit(f_m(x)) - c|_1 over the
k-means centres c that every finished task left of its un-prompted features.

Wang et al.: *S-Prompts learning with pre-trained transformers*, NeurIPS 2022, S-liPrompts (prompts for both towers),
adapted to retrieval as LPI does it: a router a modality, so that a query and its match may choose different tasks.
Projection heads and temperatures are common to all tasks, and so do not train by default: a shared head would forget
what the prompts were kept for. The public code picks the parameters of task 1 by a prefix that those of tasks 10, 11,
... share; here a task's tokens are modules of their own. Its image prompts start as the rows of a linear layer; here
all tokens are drawn from N(0, 0.02^2), as its text prompts are.
"""

from __future__ import annotations

from jaxtyping import Float, Int, Shaped
from pydantic import PositiveInt
from torch import Tensor, nn

from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.prompts import Gates, PromptConfig, asked, begin, prompted, refuse_idle, routed
from polymnia.continual.select import SelectConfig, Selector
from polymnia.continual.tasktokens import TaskTokens, features_by_kind
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt
from polymnia.types import Batches, Known, Modality, Task

DEVIATION = 0.02


class Config(PromptConfig):
    """``length`` tokens for sounds and pictures, ``context`` tokens for texts; at the input, or (``deep``) anew at
    every block. ``select``: how a task is chosen."""

    length: PositiveInt = 10
    context: PositiveInt = 16
    heads: bool = False
    scale: bool = False
    deep: bool = False
    select: SelectConfig = SelectConfig()


class Method(AbstractMethod):
    """Tokens, gates and a router for each prompted tower: of each task its own."""

    keeps_towers = True

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg, self.asks = cfg, True
        towers = {m: setup.model.tower(m) for m in prompted(setup, cfg)}
        widths = {m: t.widths if cfg.deep else t.widths[:1] for m, t in towers.items()}
        lengths = {m: cfg.context if m == "text" else cfg.length for m in towers}
        self.bank = TaskTokens(setup.tasks, widths, lengths, DEVIATION)
        gates = [nn.ModuleDict({m: Gates(t.depth, cfg.gate) for m, t in towers.items()}) for _ in range(setup.tasks)]
        self.gates = nn.ModuleList(gates)
        self.routers = nn.ModuleDict(
            {m: Selector(cfg.select, m, setup.tasks, t.out_dim, setup.seed) for m, t in towers.items()}
        )
        self.now: tuple[Modality, ...] = ()

    def begin_task(self, model: Model, task: Task) -> None:
        begin(model, self.cfg)
        refuse_idle(self.cfg, list(self.routers), task)
        self.now = tuple(m for m in self.routers if any(m in pair for pair in task.pairs))
        self.bank.begin(task.index)
        for number, gates in enumerate(self.gates, start=1):
            gates.requires_grad_(number == task.index)
        for m in self.now:
            self.routers[m].start(task)

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if modality not in self.routers:
            return model.features(modality, x)
        tasks = routed(self.routers[modality], model, modality, x, known, self.training)

        def prompt(rows: Int[Tensor, " n"]) -> Prompt:
            own = tasks[rows]
            gate = () if self.cfg.gate is None else self.gates[int(own[0]) - 1][modality]()
            return Prompt(front=self.bank(modality, own), gate=gate)

        # Rows of no task pass without prompts; a gate is the same for a whole batch, so that each task goes alone.
        kinds = tasks.clamp(max=1) if self.cfg.gate is None else tasks
        return features_by_kind(model, modality, x, kinds, prompt)

    def end_task(self, model: Model, task: Task, batches: Batches) -> None:
        for m in self.now:
            self.routers[m].learn(task.index, asked(model, m, batches))
