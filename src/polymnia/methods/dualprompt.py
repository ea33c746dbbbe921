"""DualPrompt: prompts that all tasks share in the first blocks, and behind them prompts of a task, found by its key.

Attention of block l sees [P_K; K] and [P_V; V], (P_K, P_V) = G^l for l in ``general``, E^l_t for l in ``expert``;
t = the row's own task in training, arg max_t cos(q, k_t) afterwards,  q = f_m(x) without prompts;
L = L_c + weight mean_x (1 - cos(q, k_t)).

Wang et al.: *DualPrompt: complementary prompting for rehearsal-free continual learning*, ECCV 2022, in the form of the
authors' code: keys and values are tensors of their own (the length counts each), one key a task for all blocks. Each
tower has prompts and keys of its own: a query and its match may choose different tasks. Cosines leave a query's length
out of it, and no gradient reaches it. What a finished task left, E and k, is in parameters that no optimizer holds any
more: it stays bit by bit, under weight decay, too. G, heads and temperatures are shared and go on training.

The key term is a mean over the rows of the task that is being learned (a port sums it over the batch): keys of
rehearsed rows are frozen, and would add a number without a gradient. Masks of other tasks' classes have no place here.
"""

from __future__ import annotations

from jaxtyping import Float, Int, Shaped
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.pool import Blocks, TaskKeys, draw_uniform, joined, within
from polymnia.continual.prompts import Gates, PromptConfig, Tokens, ask, begin, prompted, refuse_idle
from polymnia.continual.tasktokens import TaskTokens, features_by_kind
from polymnia.models.model import Model
from polymnia.models.prompting import Prompt
from polymnia.types import Batch, Batches, Known, Modality, Outputs, Task, Terms

GENERAL, EXPERT = (0, 1), (2, 3, 4)


class Config(PromptConfig):
    """``length`` keys, and as many values, of a task's prompts at the ``expert`` blocks; ``length_general`` of the
    shared ones at the ``general`` blocks. Blocks count from 0; none given: 0 and 1, and 2 to 4. In a tower of less
    than five: the first third (one at least), and up to three behind it (in a tower of one block, both share it).

    ``weight`` of the key term. ``init``: prompts and keys are drawn uniformly from [0, init), as the authors do.
    ``oracle``: the true task where it is known (for ablations).
    """

    length: PositiveInt = 20
    length_general: PositiveInt = 5
    general: Blocks | None = None
    expert: Blocks | None = Field(None, min_length=1)
    weight: NonNegativeFloat = 1.0
    init: PositiveFloat = 0.01
    oracle: bool = False


class Method(AbstractMethod):
    """Shared prompts of each prompted tower; prompts, gates and a key of each task."""

    keeps_towers = True

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg, self.asks, self.now = cfg, True, tuple[Modality, ...]()
        towers = {m: setup.model.tower(m) for m in prompted(setup, cfg)}
        self.general = {m: _general(cfg, m, t.depth) for m, t in towers.items()}
        self.expert = {m: _expert(cfg, m, t.depth) for m, t in towers.items()}
        widths = {m: [t.widths[b] for b in self.general[m]] for m, t in towers.items()}
        self.general_keys, self.general_values = (
            nn.ModuleDict({m: Tokens(w, cfg.length_general) for m, w in widths.items()}) for _ in range(2)
        )
        widths = {m: [t.widths[b] for b in self.expert[m]] for m, t in towers.items()}
        lengths = dict.fromkeys(towers, cfg.length)
        self.expert_keys, self.expert_values = (TaskTokens(setup.tasks, widths, lengths) for _ in range(2))
        draw_uniform(self, cfg.init)
        self.general_gates = nn.ModuleDict({m: Gates(len(b), cfg.gate) for m, b in self.general.items()})
        gated = {m: len(b) for m, b in self.expert.items()}
        self.expert_gates = nn.ModuleList(
            nn.ModuleDict({m: Gates(n, cfg.gate) for m, n in gated.items()}) for _ in range(setup.tasks)
        )
        self.routers = nn.ModuleDict({m: TaskKeys(m, setup.tasks, t.out_dim, cfg.init) for m, t in towers.items()})

    def begin_task(self, model: Model, task: Task) -> None:
        begin(model, self.cfg)
        refuse_idle(self.cfg, list(self.routers), task)
        self.now = tuple(m for m in self.routers if any(m in pair for pair in task.pairs))
        for number in range(len(self.expert_gates)):
            for m in self.routers:
                trains = number == task.index - 1 and m in self.now
                for part in (self.expert_keys.tasks, self.expert_values.tasks, self.expert_gates):
                    part[number][m].requires_grad_(trains)
                self.routers[m].keys[number].requires_grad_(trains)
        for m in self.now:
            self.routers[m].begin(task.index)

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if modality not in self.routers:
            return model.features(modality, x)
        tasks = self._choose(model, modality, x, known)
        # Rows of no task pass without prompts; a gate is the same for a whole batch, so that each task goes alone.
        kinds = tasks.clamp(max=1) if self.cfg.gate is None else tasks
        return features_by_kind(model, modality, x, kinds, lambda rows: self._prompt(modality, tasks[rows]))

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        terms: Terms = {}
        self.facts = {}
        for m in self.now:
            if m not in batch.inputs:
                continue
            router, known = self.routers[m], batch.known(m)
            mine = router.told(router.own(known.task))
            if not mine.any():
                continue
            similar = router.similar(ask(model, m, batch.inputs[m], known)[mine])
            own, others = similar[:, router.current - 1], similar[:, router.left]
            self.facts[f"found/{m}"] = float((own[:, None] > others).all(1).float().mean())
            if self.cfg.weight:
                terms[f"pull/{m}"] = self.cfg.weight * (1 - own).mean()
        return terms

    def end_task(self, model: Model, task: Task, batches: Batches) -> None:
        for m in self.now:
            self.routers[m].finish(task.index)

    def _choose(self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known) -> Int[Tensor, " b"]:
        """Each row's task, from 1; 0 for none."""
        router = self.routers[modality]
        task = None if known.task is None else router.own(known.task)
        return router.choose(ask(model, modality, x, known), task, oracle=self.training or self.cfg.oracle)

    def _prompt(self, modality: Modality, tasks: Int[Tensor, " b"]) -> Prompt:
        """What rows of these tasks bring along; under a gate they are of one task."""
        shared = (part[modality](len(tasks)) for part in (self.general_keys, self.general_values))
        own = (part(modality, tasks) for part in (self.expert_keys, self.expert_values))
        general, expert = self.general[modality], self.expert[modality]
        prefix = joined(
            [dict(zip(b, zip(*kv, strict=True), strict=True)) for b, kv in ((general, shared), (expert, own))]
        )
        gates = dict(zip(general, self.general_gates[modality](), strict=False))  # none without a gate
        if self.cfg.gate is not None:
            gates |= zip(expert, self.expert_gates[int(tasks[0]) - 1][modality](), strict=True)
        return Prompt(prefix=prefix, gate=tuple(gates.get(block) for block in range(len(prefix))))


def _general(cfg: Config, modality: Modality, depth: int) -> Blocks:
    if cfg.general is not None:
        return within("general", cfg.general, modality, depth)
    return GENERAL if depth > max(EXPERT) else tuple(range(max(1, depth // 3)))


def _expert(cfg: Config, modality: Modality, depth: int) -> Blocks:
    if cfg.expert is not None:
        return within("expert", cfg.expert, modality, depth)
    if depth > max(EXPERT):
        return EXPERT
    first = max(1, depth // 3)
    return tuple(range(first, min(depth, first + len(EXPERT)))) or (0,)
