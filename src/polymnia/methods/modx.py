"""Mod-X: keep the off-diagonal of the contrastive matrix, where the old model was right.

M = cosines of the current model on the batch, O = those of the old one; row i of O counts only if its arg-max is the
true partner.  L_kd = 1/2 sum_dir sum_i m_i KL(softmax(O_i / tau) || softmax(M_i / tau));  L = (1 - lambda) L_c +
lambda s L_kd.

Ni et al., ICML 2023; as *Multi-modal continual pre-training for audio encoders* adapts it: where the supervision
encoder is frozen, both matrices use its current embeddings, and in the first task, whose teacher has no head, the old
features pass through the *current* head without gradient (``teacher_proj``).
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from polymnia.continual.method import AbstractMethod, MethodConfig, Setup
from polymnia.continual.objective import shared_rows
from polymnia.continual.snapshot import Snapshot
from polymnia.models.model import Model
from polymnia.ops.distill import kept_rows, relation_kl
from polymnia.types import Batch, Modality, Outputs, Task, Terms


class Config(MethodConfig):
    """``tau``: a number, or ``logit_scale`` for the learned temperature. ``rows``: what counts as the old model being
    right: the very partner (``pair``), or any row of the right group (``group``). ``block``: rows of the matrices that
    are held at a time."""

    weight: float = Field(0.3, ge=0, le=1)
    kd_scale: NonNegativeFloat = 1.0
    tau: PositiveFloat | Literal["logit_scale"] = 1.0
    reduction: Literal["sum", "batchmean"] = "sum"
    align: bool = True
    rows: Literal["pair", "group"] = "pair"
    exclude_diagonal: bool = False
    teacher_proj: Literal["current_stopgrad", "init_copy"] = "current_stopgrad"
    first: int = 1
    block: PositiveInt | None = None


class Method(AbstractMethod):
    """Distils the similarity matrix of every pair that a batch holds."""

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg = cfg
        self.teacher = Snapshot(setup)
        self.task = 0

    def begin_task(self, model: Model, task: Task) -> None:
        self.task = task.index
        self.share = 1 - self.cfg.weight if task.index >= self.cfg.first else 1.0
        self.teacher.take(model)

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        self.facts = {}
        if self.task < self.cfg.first:
            return {}
        old = {m: self._old(model, m, batch, out) for m in out.embeddings}
        terms: Terms = {}
        modalities = list(out.embeddings)
        for n, a in enumerate(modalities):
            for b in modalities[n + 1 :]:
                i, j = shared_rows(batch, a, b)
                if len(i) < 2:
                    continue
                tau = float(1 / model.scale((a, b)).detach()) if self.cfg.tau == "logit_scale" else self.cfg.tau
                group = batch.group[batch.rows[a][i]] if self.cfg.rows == "group" else None
                loss = relation_kl(
                    out.embeddings[a][i],
                    out.embeddings[b][j],
                    old[a][i],
                    old[b][j],
                    temperature=tau,
                    align=self.cfg.align,
                    reduction=self.cfg.reduction,
                    exclude_diagonal=self.cfg.exclude_diagonal,
                    group=group,
                    block=self.cfg.block,
                )
                terms[f"{a}-{b}"] = self.cfg.weight * self.cfg.kd_scale * loss
                self.facts[f"kept/{a}-{b}"] = float(kept_rows(old[a][i], old[b][j], group, self.cfg.block))
        return terms

    @torch.no_grad()
    def _old(self, model: Model, m: Modality, batch: Batch, out: Outputs) -> Float[Tensor, "n d"]:
        """The old model's embedding; for a tower that never trains that is the current one."""
        if m not in self.teacher.moving:
            return out.embeddings[m].detach()
        h = self.teacher.features(m, batch.inputs[m], batch.known(m))
        if self.task > 1 or self.cfg.teacher_proj == "init_copy":
            return F.normalize(self.teacher.head(m, h), dim=-1)
        head = model.heads[m]
        training = head.training
        head.eval()  # a target without dropout, whatever the head does for the student
        target = model.project(m, h)
        head.train(training)
        return target
