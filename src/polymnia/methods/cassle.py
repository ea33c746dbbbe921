"""CaSSLe: a predictor maps the new embedding to the old one, so that the new may be richer than the old.

L_kd = KLD(p(g_k(f_k(x))), g_{k-1}(f_{k-1}(x)));  L = (1 - lambda) L_c + lambda L_kd.

Fini et al., CVPR 2022; in the form of *Multi-modal continual pre-training for audio encoders* ("a simple linear
function" p, new for each task). Gradient reaches encoder, head and predictor. The paper does not use a predictor
after its task; here it is left behind as a map from the new space to the old (``backward_maps``).
"""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from polymnia.continual.distillation import KLConfig
from polymnia.continual.method import AbstractMethod, Setup, generator
from polymnia.continual.snapshot import Snapshot
from polymnia.models.heads import reset
from polymnia.models.model import Model
from polymnia.types import Batch, Modality, Outputs, Task, Terms


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
        self.lengths: Tensor  # of the head's raw outputs in this task: their sum and count, by modality
        self.register_buffer("lengths", torch.zeros(len(learned), 2))
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
        self.lengths.zero_()

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        if self.task < self.cfg.first:
            return {}
        terms: Terms = {}
        for m, h, old in self.teacher.compare(batch, out):
            teacher = old if self.task <= 1 else self.teacher.head(m, old)
            raw = model.head(m, h)
            terms[m] = self.cfg.term(self._active[m](raw), teacher)
            with torch.no_grad():
                self.lengths[self._row(m)] += torch.stack([raw.norm(dim=1).sum(), raw.new_tensor(len(raw))])
        return terms

    @property
    def backward_maps(self) -> dict[Modality, dict[str, Tensor]]:
        """The predictors of the task just learned, for unit rows. The first task's lead to no embedding: none."""
        if self.task < max(2, self.cfg.first):
            return {}
        mean = self.lengths[:, 0] / self.lengths[:, 1]  # NaN for a modality that the task has not
        return {
            m: _for_unit_rows(predictor, float(mean[self._row(m)]), self.cfg.normalize)
            for m, predictor in self.predictors.items()
            if mean[self._row(m)] > 0
        }

    def _row(self, modality: Modality) -> int:
        return list(self.predictors).index(modality)


def _predictor(cfg: Config, inside: int, outside: int) -> nn.Module:
    if cfg.predictor == "linear":
        return nn.Linear(inside, outside)
    return nn.Sequential(
        nn.Linear(inside, cfg.hidden), nn.BatchNorm1d(cfg.hidden), nn.ReLU(), nn.Linear(cfg.hidden, outside)
    )


@torch.no_grad()
def _for_unit_rows(predictor: nn.Module, length: float, normalized: bool) -> dict[str, Tensor]:
    """A predictor of raw head outputs as one of unit rows, which had ``length`` on average; batch norm folded in.

    A softmax does not see what is added to all of a row's numbers, so that it was never learned: it is taken out.
    """
    first, last = (predictor, predictor) if isinstance(predictor, nn.Linear) else (predictor[0], predictor[-1])
    weight, bias = last.weight.T.clone(), last.bias.clone()
    if not normalized:
        weight, bias = weight - weight.mean(1, keepdim=True), bias - bias.mean()
    if first is last:
        return {"weight": weight * length, "bias": bias}
    norm = predictor[1]
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    inner_bias = (first.bias - norm.running_mean) * scale + norm.bias
    return {"inner": first.weight.T * length * scale, "inner_bias": inner_bias, "weight": weight, "bias": bias}
