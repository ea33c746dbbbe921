"""Learning without Forgetting on features: the new encoder under the old head stays near the old output.

L_kd = KLD(g_{k-1}(f_k(x)), g_{k-1}(f_{k-1}(x)));  L = (1 - lambda) L_c + lambda L_kd.

Li & Hoiem, 2016; in the form of *Multi-modal continual pre-training for audio encoders* (its Eq. 2). Gradient of the
term reaches the encoder only: the old head is frozen in both branches.
"""

from typing import Literal

from polymnia.continual.distillation import KLConfig
from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.snapshot import Snapshot
from polymnia.models.model import Model
from polymnia.types import Batch, Outputs, Task, Terms


class Config(KLConfig):
    """``g0``: what stands for the head before the first task: the ``identity``, or the tower's own ``classifier``."""

    g0: Literal["identity", "classifier"] = "identity"


class Method(AbstractMethod):
    """Distils the features of every tower that trains."""

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg = cfg
        self.teacher = Snapshot(setup)
        self.task = 0

    def begin_task(self, model: Model, task: Task) -> None:
        self.task = task.index
        self.share = self.cfg.share(task.index)
        self.teacher.take(model)

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        if self.task < self.cfg.first:
            return {}
        terms: Terms = {}
        for m, h, old in self.teacher.compare(batch, out):
            student, teacher = h, old
            if self.task > 1:
                student, teacher = self.teacher.head(m, h), self.teacher.head(m, old)
            elif self.cfg.g0 == "classifier":
                tower = self.teacher.towers[m] if m in self.teacher.towers else model.tower(m)
                student, teacher = tower.classify(h), tower.classify(old)
            terms[m] = self.cfg.term(student, teacher)
        return terms
