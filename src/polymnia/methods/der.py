"""Dark experience replay: rehearsed rows must also keep the embedding that they had when they were stored.

L = L_c + alpha mean ||z - z_stored||^2 over rehearsed rows (Buzzega et al., NeurIPS 2020, with embeddings in the place
of logits; rehearsed rows also take part in the contrast: DER++).
"""

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from polymnia.continual.memory import Memory
from polymnia.continual.method import AbstractMethod, MethodConfig, Setup
from polymnia.models.model import Model
from polymnia.types import Batch, Batches, Modality, Outputs, Task, Terms


class Config(MethodConfig):
    """``budget`` in bytes, stored embeddings included; ``rows`` rehearsed a step; ``alpha`` weighs the term."""

    budget: PositiveInt = 4_000_000
    rows: PositiveInt = 32
    alpha: NonNegativeFloat = 1.0


class Method(AbstractMethod):
    """Keeps the embedding of every modality whose tower trains."""

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg = cfg
        self._embed = setup.embed
        self.memory = Memory(setup.model, cfg.budget, setup.seed, setup.model.dim, setup.tasks)
        self._slots: Tensor | None = None
        self._first = 0  # number of the first rehearsed row in the mixed batch

    def mix(self, batch: Batch) -> Batch:
        self._first = len(batch)
        mixed, self._slots = self.memory.rehearse(batch, self.cfg.rows)
        return mixed

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        if self._slots is None:
            return {}
        terms: Terms = {}
        for m in out.embeddings:
            number = batch.rows[m] - self._first
            ours = (number >= 0) & (number < len(self._slots))  # another method's rows may stand behind ours
            if m in model.learn and bool(ours.any()):
                then = self.memory.extra(m, self._slots[number[ours]])
                terms[m] = self.cfg.alpha * (out.embeddings[m][ours] - then).square().sum(-1).mean()
        return terms

    def end_task(self, model: Model, task: Task, batches: Batches) -> None:
        kept: dict[Modality, list[Tensor]] = {m: [] for m in model.learn}
        with torch.no_grad():
            for batch in batches:
                out = self._embed(model, batch)
                for m, embeddings in kept.items():
                    embeddings.append(out.embeddings.get(m, torch.empty(0)).cpu())
        self.memory.add_task(batches, kept)
