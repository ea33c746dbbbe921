"""A chain of methods is a method: terms are joined, batches go through each, at most one may carry prompts."""

import math
from collections.abc import Sequence
from typing import cast

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from polymnia.config import Part
from polymnia.continual.method import AbstractMethod, Balance, Setup
from polymnia.models.model import Model
from polymnia.types import Batch, Batches, Modality, Outputs, Task, Terms, UserError


class Chain(AbstractMethod):
    """Methods in order. An empty chain is plain fine-tuning."""

    def __init__(self, parts: Sequence[Part], setup: Setup):
        super().__init__()
        names = [p.use.rpartition(".")[2] for p in parts]
        if len(set(names)) < len(names):
            raise UserError(f"method: {', '.join(names)}: each method once")
        self.names = names
        self.balances: dict[str, Balance] = {
            n: p.config.balance for n, p in zip(names, parts, strict=True) if p.config.balance is not None
        }
        self.methods = nn.ModuleList(p.module.Method(p.config, setup) for p in parts)
        prompting = [n for n, m in zip(names, self._all, strict=True) if _overrides_features(m)]
        if len(prompting) > 1:
            raise UserError(f"method: {' and '.join(prompting)} both change the features; a chain may hold one such")
        self._prompting = names.index(prompting[0]) if prompting else None

    @property
    def prompting(self) -> bool:
        """Whether a method of the chain changes the features, so that an encoder needs the method too."""
        return self._prompting is not None

    @property
    def _all(self) -> list[AbstractMethod]:
        return cast(list[AbstractMethod], list(self.methods))

    def begin_task(self, model: Model, task: Task) -> None:
        model.thaw()
        for method in self._all:
            method.begin_task(model, task)
        self.share = math.prod(m.share for m in self._all)

    def mix(self, batch: Batch) -> Batch:
        for method in self._all:
            batch = method.mix(batch)
        return batch

    def features(self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b o"]:
        if self._prompting is None:
            return model.features(modality, x)
        return self._all[self._prompting].features(model, modality, x)

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        terms: Terms = {}
        self.facts = {}
        for name, method in zip(self.names, self._all, strict=True):
            for key, term in method.loss(model, batch, out).items():
                terms[name if not key else f"{name}/{key}"] = term
            self.facts.update({f"{name}/{k}": v for k, v in method.facts.items()})
        return terms

    def after_backward(self, model: Model) -> None:
        for method in self._all:
            method.after_backward(model)

    def end_task(self, model: Model, task: Task, batches: Batches) -> None:
        # What is kept (importance, embeddings) is a function of the weights: no dropout, batch norm as evaluated.
        model.eval(), self.eval()
        for method in self._all:
            method.end_task(model, task, batches)


def _overrides_features(method: AbstractMethod) -> bool:
    return type(method).features is not AbstractMethod.features


def sequential(parts: Sequence[Part]) -> bool:
    """Whether the chain learns tasks one after another (False for the joint run)."""
    return all(p.module.Method.sequential for p in parts)
