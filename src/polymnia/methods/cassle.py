"""CaSSLe: a predictor maps the new embedding to the old one, so that the new may be richer than the old.

L_kd = KLD(p(g_k(f_k(x))), g_{k-1}(f_{k-1}(x)));  L = (1 - lambda) L_c + lambda L_kd.

Fini et al., CVPR 2022; in the form of *Multi-modal continual pre-training for audio encoders* ("a simple linear
function" p, new for each task, not used afterwards). Gradient reaches encoder, head and predictor.
"""

from typing import Literal

from pydantic import PositiveInt
from torch import nn

from polymnia.continual.distillation import KLConfig
from polymnia.continual.method import AbstractMethod, Setup, generator
from polymnia.continual.snapshot import Snapshot
from polymnia.models.heads import reset
from polymnia.models.model import Model
from polymnia.types import Batch, Outputs, Task, Terms


class Config(KLConfig):
    """``predictor``: ``linear`` (the paper's words), or ``mlp`` with batch norm (CaSSLe's own)."""

    predictor: Literal["linear", "mlp"] = "linear"
    hidden: PositiveInt = 2048


class Method(AbstractMethod):
    """The predictors of the first task lead to raw features (g_0 is the identity), the later ones to embeddings."""

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg, self.seed = cfg, setup.seed
        self.teacher = Snapshot(setup)
        dim = setup.model.dim
        learned = {m: setup.model.tower(m).out_dim for m in self.teacher.moving}
        self.first_predictors = nn.ModuleDict({m: _predictor(cfg, dim, out) for m, out in learned.items()})
        self.predictors = nn.ModuleDict({m: _predictor(cfg, dim, dim) for m in learned})
        self.task = 0

    @property
    def _active(self) -> nn.ModuleDict:
        return self.first_predictors if self.task <= 1 else self.predictors

    def begin_task(self, model: Model, task: Task) -> None:
        self.task = task.index
        self.share = self.cfg.share(task.index)
        self.teacher.take(model)
        self.first_predictors.requires_grad_(False)
        self.predictors.requires_grad_(False)
        self._active.requires_grad_(task.index >= self.cfg.first)
        # Their own generator: with lambda = 0 the run must be the plain one, draw for draw.
        reset(self._active, generator(self.seed, task.index))
        for layer in self._active.modules():
            if isinstance(layer, nn.BatchNorm1d):
                layer.reset_parameters()

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        if self.task < self.cfg.first:
            return {}
        terms: Terms = {}
        for m, h, old in self.teacher.compare(batch, out):
            teacher = old if self.task <= 1 else self.teacher.head(m, old)
            student = self._active[m](model.head(m, h))
            terms[m] = self.cfg.term(student, teacher)
        return terms


def _predictor(cfg: Config, inside: int, outside: int) -> nn.Module:
    if cfg.predictor == "linear":
        return nn.Linear(inside, outside)
    return nn.Sequential(
        nn.Linear(inside, cfg.hidden), nn.BatchNorm1d(cfg.hidden), nn.ReLU(), nn.Linear(cfg.hidden, outside)
    )
