"""What a task asks of the model: matching pairs near, others far; or, in a supervised first stage, the right tags."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, PositiveInt, model_serializer
from torch import Tensor
from torch.nn import functional as F

from polymnia.config import Frozen
from polymnia.models.heads import CrossHead
from polymnia.models.model import MAX_SCALE, TEMPERATURE, Model
from polymnia.ops.contrastive import clip_loss
from polymnia.types import Batch, Modality, Outputs, Pair, Terms, UserError

Side = tuple[Modality, Int[Tensor, " n"]]
Group = Int[Tensor, " n"] | None


class ObjectiveConfig(Frozen):
    """``contrast`` over the pairs that a batch holds, or ``tags`` (multi-label cross-entropy over item labels).

    ``multi_positive``: rows of one group are positives of each other instead of negatives. ``weights`` by pair, such
    as ``audio-text: 0.5``; the terms are averaged by weight over the pairs present, so that rehearsal rows of another
    pair count as much as the task's own. ``loss``: ``clip``, or ``cx``: Wav2CLIP's cross-projection,
    1/2 [ l(a, h_b(b)) + l(h_a(a), b) ], for a head of kind ``cross``. ``block``: rows of the logits that are held at a
    time (for batches whose square does not fit). ``temperature``: what similarities are divided by when the first task
    begins, exp(log_scale) = 1 / temperature; where temperatures do not train, it stays so. There is one for all tasks,
    the recipe's own: an ``objective`` of a task or stage does not change it, and stages begin at 0.07. 0.01 is CLIP's
    after its training, and the least: the scale is held at 100.
    """

    kind: Literal["contrast", "tags"] = "contrast"
    loss: Literal["clip", "cx"] = "clip"
    multi_positive: bool = False
    weights: Mapping[str, NonNegativeFloat] = {}
    block: PositiveInt | None = None
    temperature: float = Field(TEMPERATURE, ge=1 / MAX_SCALE)

    @model_serializer(mode="wrap")
    def _usual_temperature_unsaid(self, dump: Callable[["ObjectiveConfig"], dict[str, Any]]) -> dict[str, Any]:
        """Recipes without the key hash as they did before there was one, so that their runs are found again."""
        return {k: v for k, v in dump(self).items() if k != "temperature" or v != TEMPERATURE}


class Objective:
    """The objective over all pairs that the sequence trains."""

    def __init__(self, cfg: ObjectiveConfig, pairs: tuple[Pair, ...]):
        known = {f"{a}-{b}" for a, b in pairs}
        for name in cfg.weights:
            if name not in known:
                raise UserError(f"objective.weights: no pair '{name}' is trained; pairs: {', '.join(sorted(known))}")
        self.cfg, self.pairs = cfg, pairs

    def applies(self, batch: Batch) -> bool:
        """Whether a batch has something to be learned from: two rows or more of some pair, or labels."""
        if self.cfg.kind == "tags":
            return batch.labels is not None
        there = [(a, b) for a, b in self.pairs if a in batch.rows and b in batch.rows]
        return any(len(shared_rows(batch, a, b)[0]) > 1 for a, b in there)

    def __call__(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        """Named terms. Raises UserError when the batch holds none of the pairs."""
        if self.cfg.kind == "tags":
            return self._tags(model, batch, out)
        terms: Terms = {}
        total = 0.0
        for a, b in self.pairs:
            if a not in out.embeddings or b not in out.embeddings:
                continue
            i, j = shared_rows(batch, a, b)
            if len(i) < 2:
                continue
            group = batch.group[batch.rows[a][i]] if self.cfg.multi_positive else None
            weight = self.cfg.weights.get(f"{a}-{b}", 1.0)
            loss = clip_loss(out.embeddings[a][i], out.embeddings[b][j], model.scale((a, b)), group, self.cfg.block)
            if self.cfg.loss == "cx":
                loss = (loss + self._crossed(model, out, (a, i), (b, j), group)) / 2
            terms[f"contrast/{a}-{b}"] = weight * loss
            total += weight
        if not terms:
            raise UserError(f"a batch with {', '.join(batch.inputs)} holds none of the pairs {self.pairs}")
        return {name: term / total for name, term in terms.items()} if total else terms

    def _crossed(self, model: Model, out: Outputs, one: Side, other: Side, group: Group) -> Float[Tensor, ""]:
        """l(a, h_b(b)), a being the side whose head has a transform."""
        (a, i), (b, j) = (other, one) if isinstance(model.heads[other[0]], CrossHead) else (one, other)
        return clip_loss(*model.crossed(a, b, out.features[a][i], out.features[b][j]), group, self.cfg.block)

    def _tags(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        if batch.labels is None or model.tagger is None:
            raise UserError("objective tags: the items have no labels")
        learned = next(m for m in model.modalities if m in model.learn)
        logits = model.tagger(out.features[learned])
        return {"tags": F.binary_cross_entropy_with_logits(logits, batch.labels[batch.rows[learned]])}


def shared_rows(batch: Batch, a: Modality, b: Modality) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Positions, in the inputs of ``a`` and of ``b``, of the batch rows that have both."""
    where_a = torch.full((len(batch),), -1, device=batch.group.device)
    where_b = where_a.clone()
    where_a[batch.rows[a]] = torch.arange(len(batch.rows[a]), device=where_a.device)
    where_b[batch.rows[b]] = torch.arange(len(batch.rows[b]), device=where_a.device)
    both = (where_a >= 0) & (where_b >= 0)
    return where_a[both], where_b[both]
