"""Elastic weight consolidation: weights that mattered for finished tasks are held near their old values.

L = L_c + lambda / 2 sum_i F_i (theta_i - theta*_i)^2, F the running mean of squared gradients of the contrast over
batches, clipped (Kirkpatrick et al., 2017; online form of Schwarz et al., 2018: one F, one theta*).
"""

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn

from polymnia.continual.method import AbstractMethod, MethodConfig, Setup
from polymnia.models.model import Model
from polymnia.types import Batch, Batches, Outputs, Task, Terms


class Config(MethodConfig):
    """``decay`` of the old importance when a task's own is added; ``batches`` at most to estimate it from."""

    weight: NonNegativeFloat = 1000.0
    decay: float = Field(1.0, ge=0, le=1)
    clip: PositiveFloat = 1e-4
    batches: PositiveInt = 32


class Method(AbstractMethod):
    """Importance of every tower parameter that may train, or of the prompts that stand in for them; heads are free
    (their old copies are stored)."""

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg, self.objective, self._embed = cfg, setup.objective, setup.embed
        self._prompts = (setup.prompts,)  # in a tuple: no part of the state
        parameters = self._held(setup.model)
        self.names = list(parameters)
        # By name and not by place: where more tasks bring more prompts, those of the first keep theirs.
        keys = [n.replace(".", "/") for n in self.names]
        held = dict(zip(keys, parameters.values(), strict=True))
        self.importances = nn.ParameterDict({k: torch.zeros_like(p) for k, p in held.items()})
        self.anchors = nn.ParameterDict({k: p.detach().clone() for k, p in held.items()})
        self.requires_grad_(False)
        self.register_buffer("finished", torch.zeros((), dtype=torch.long))

    @property
    def importance(self) -> list[nn.Parameter]:
        """Of each parameter, in the order of ``names``."""
        return [self.importances[n.replace(".", "/")] for n in self.names]

    @property
    def anchor(self) -> list[nn.Parameter]:
        """What each parameter was when the last task ended, in the order of ``names``."""
        return [self.anchors[n.replace(".", "/")] for n in self.names]

    def _held(self, model: Model) -> dict[str, nn.Parameter]:
        (prompts,) = self._prompts
        if prompts is not None:
            return dict(prompts.named_parameters())
        return {n: p for n, p in model.towers.named_parameters() if n.split(".")[0] in model.learn}

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        if not int(self.finished):
            return {}
        parameters = self._held(model)
        penalty = sum(
            (f * (parameters[n] - a).square()).sum()
            for n, f, a in zip(self.names, self.importance, self.anchor, strict=True)
        )
        return {"": 0.5 * self.cfg.weight * penalty}

    def end_task(self, model: Model, task: Task, batches: Batches) -> None:
        parameters = self._held(model)
        trained = [(n, f) for n, f in zip(self.names, self.importance, strict=True) if parameters[n].requires_grad]
        sums = [torch.zeros_like(f) for _, f in trained]
        count = 0
        for number, batch in enumerate(batches):
            if number == self.cfg.batches:
                break
            terms = self.objective(model, batch, self._embed(model, batch))
            grads = torch.autograd.grad(sum(terms.values()), [parameters[n] for n, _ in trained], allow_unused=True)
            for total, grad in zip(sums, grads, strict=True):
                total += 0 if grad is None else grad.square()
            count += 1
        for (_, importance), total in zip(trained, sums, strict=True):
            importance.mul_(self.cfg.decay).add_((total / max(count, 1)).clamp(max=self.cfg.clip))
        for name, anchor in zip(self.names, self.anchor, strict=True):
            anchor.copy_(parameters[name].detach())
        self.finished += 1
