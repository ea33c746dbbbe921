"""A chain of methods is a method: terms are joined, batches go through each, at most one may carry prompts."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from polymnia.config import Part
from polymnia.continual.method import AbstractMethod, Balance, Setup, embed_batch
from polymnia.models.model import Model
from polymnia.types import Batch, Batches, Known, Modality, Outputs, Task, Terms, UserError


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
        prompting = [i for i, p in enumerate(parts) if prompts(p)]
        if len(prompting) > 1:
            both = " and ".join(names[i] for i in prompting)
            raise UserError(f"method: {both} both change the features; a chain may hold one such")
        self._prompting = prompting[0] if prompting else None
        setup = replace(setup, embed=lambda model, batch: embed_batch(self, model, batch))
        built: dict[int, AbstractMethod] = {}
        for i in sorted(range(len(parts)), key=lambda i: i not in prompting):  # others may copy what prompts
            built[i] = parts[i].module.Method(parts[i].config, setup)
            if i in prompting:
                setup = replace(setup, prompts=built[i])
        self.methods = nn.ModuleList(built[i] for i in range(len(parts)))
        self.asks = any(m.asks for m in self._all)

    @property
    def prompting(self) -> bool:
        """Whether a method of the chain changes the features, so that an encoder needs the method too."""
        return self._prompting is not None

    @property
    def prompter(self) -> AbstractMethod | None:
        """The method that changes the features."""
        return None if self._prompting is None else self._all[self._prompting]

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

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if self._prompting is None:
            return model.features(modality, x)
        return self._all[self._prompting].features(model, modality, x, known)

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

    @property
    def backward_maps(self) -> dict[Modality, dict[str, Tensor]]:
        return {m: tensors for method in self._all for m, tensors in method.backward_maps.items()}


def prompts(part: Part) -> bool:
    """Whether a method changes the features, so that an encoder needs it too."""
    return part.module.Method.features is not AbstractMethod.features


def keeps_towers(parts: Sequence[Part]) -> bool:
    """Whether no tower ever trains under the chain."""
    return any(p.module.Method.keeps_towers for p in parts)


def sequential(parts: Sequence[Part]) -> bool:
    """Whether the chain learns tasks one after another (False for the joint run)."""
    return all(p.module.Method.sequential for p in parts)
