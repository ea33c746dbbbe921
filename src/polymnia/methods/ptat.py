"""PTAT as we read it: coupled prompts that all tasks share and go on training, held by the model of the last task.

Tokens of the audio tower make those of the text tower through linear maps (``continual/coupled.py``); beside the
objective, from the second task on, with "old" for the prompts and heads as they were when the task began:

L = L_c + lambda_f L_f + lambda_s L_s;
L_f = 1/2 sum_{m in a,t} mean_i KL(softmax(z^old_mi / T) || softmax(z_mi / T))  over the coordinates of unit z;
L_s = 1/2 sum_dir mean_i KL(softmax(S^old_i / tau) || softmax(S_i / tau)),  S_ij = <z_ai, z_tj>.

*TAIL: Text-Audio Incremental Learning*, arXiv 2503.04258. Its text, tables and code were not to be had: what is
established and what is our reading is in docs/papers/ptat.md. Nobody says at inference which task an input is of, and
nothing depends on it.

Scale: L_f is about |z - z^old|^2 / (2 D T^2). At T = 1 and D = 512 it is below 2e-4 nats even at a cosine of 0.9, so
that no weight near 1 would do anything; 0.05 makes it 1e-3 to 1e-1.

Trainable share, counted on full-size architectures without weights (tests/test_ptat_share.py) with the defaults and
heads of 1024-1024 numbers, over the parameters of plain fine-tuning: AST and BERT-base 4.89 M of 198.75 M = 2.46 %;
HTSAT-tiny and BERT-base 5.91 M of 140.10 M = 4.22 %, or 4.89 M = 3.49 % if its tokens were 768 wide throughout. The
authors state 2.42 %, without saying of which encoders.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from pydantic import NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymnia.continual.coupled import Coupled, CoupledConfig
from polymnia.continual.method import AbstractMethod, Setup
from polymnia.continual.objective import shared_rows
from polymnia.continual.prompts import begin, prompted, refuse_idle
from polymnia.models.model import Model
from polymnia.ops.contrastive import clip_loss
from polymnia.ops.distill import feature_kl, kept_rows, relation_kl
from polymnia.types import Batch, Known, Modality, Outputs, Task, Terms

Embeddings = Mapping[Modality, Float[Tensor, "_ d"]]
Side = tuple[Modality, Int[Tensor, " n"]]


class Config(CoupledConfig):
    """``feature``: lambda_f, ``feature_temperature``: T. ``similarity_weight``: lambda_s; a weight of 0 leaves the
    term out, and a teacher that no term needs is not asked.

    ``similarity``: ``relation``: similarities follow the teacher's (L_s above); ``contrast``: no distillation, but the
    symmetric InfoNCE of the pair beside the objective's, rows of one group being positives.
    ``similarity_temperature``: tau (None: 0.07, or 0.1 for ``contrast``). ``clean``: rows where the teacher's nearest
    is not of the right group count for nothing (Mod-X).
    """

    feature: NonNegativeFloat = 1.0
    feature_temperature: PositiveFloat = 0.05
    similarity: Literal["relation", "contrast"] = "relation"
    similarity_weight: NonNegativeFloat = 1.0
    similarity_temperature: PositiveFloat | None = None
    clean: bool = False

    @model_validator(mode="after")
    def _does_something(self) -> Config:
        if self.clean and self.similarity == "contrast":
            raise ValueError(
                "clean leaves out rows that the teacher gets wrong, but similarity: contrast has no teacher"
            )
        if not (self.length or self.heads or self.scale):
            raise ValueError("length 0 without heads and scale: nothing trains")
        return self

    @property
    def tau(self) -> float:
        return self.similarity_temperature or {"relation": 0.07, "contrast": 0.1}[self.similarity]


class Method(AbstractMethod):
    """Coupled prompts, and a copy of them and of the heads as they were when the task began.

    ``begun``: 0 until the first task begins, and the towers are plain until then.
    """

    keeps_towers = True
    begun: Tensor

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.cfg, self.task = cfg, 0
        self.pairs: set[frozenset[Modality]] = set()
        chosen = prompted(setup, cfg, at_least=1 if cfg.coupling == "none" else 2)
        self.prompts = Coupled(cfg, {m: setup.model.tower(m).widths for m in chosen})
        self.teacher = _Teacher(self.prompts, setup.model.heads)
        self.register_buffer("begun", torch.zeros((), dtype=torch.long))

    def begin_task(self, model: Model, task: Task) -> None:
        begin(model, self.cfg)
        refuse_idle(self.cfg, self.prompts.modalities, task)
        self.begun.fill_(1)
        self.task, self.pairs = task.index, {frozenset(pair) for pair in task.pairs}
        self.teacher.take(self.prompts, model.heads)

    def features(
        self, model: Model, modality: Modality, x: Shaped[Tensor, "b ..."], known: Known
    ) -> Float[Tensor, "b o"]:
        if modality not in self.prompts.modalities or not int(self.begun):
            return model.features(modality, x)
        return model.features(modality, x, self.prompts(modality, x.shape[0]))

    def loss(self, model: Model, batch: Batch, out: Outputs) -> Terms:
        self.facts = {}
        if self.task < 2:
            return {}
        cfg, terms = self.cfg, {}
        relates = cfg.similarity == "relation" and cfg.similarity_weight > 0
        old = self.teacher.embed(model, batch, out) if cfg.feature or relates else {}
        with torch.autocast(batch.group.device.type, enabled=False):  # both compare what differs little
            new, old = _single(out.embeddings), _single(old)
            if cfg.feature:
                kls = [feature_kl(new[m], z, cfg.feature_temperature) for m, z in old.items()]
                terms["feature"] = cfg.feature * torch.stack(kls).mean()
            if cfg.similarity_weight and (found := list(self._similarities(batch, new, old))):
                terms["similarity"] = cfg.similarity_weight * torch.stack(found).mean()
        return terms

    def _similarities(self, batch: Batch, new: Embeddings, old: Embeddings) -> Iterator[Float[Tensor, ""]]:
        """L_s of every pair that the batch holds two rows of or more; a contrast, only of pairs that the task has."""
        for a, b in combinations(new, 2):
            i, j = shared_rows(batch, a, b)
            if len(i) < 2:
                continue
            group = batch.group[batch.rows[a][i]]
            if self.cfg.similarity == "relation":
                yield self._relation((a, i), (b, j), new, old, group)
            elif frozenset((a, b)) in self.pairs:
                yield clip_loss(new[a][i], new[b][j], 1 / self.cfg.tau, group)

    def _relation(
        self, one: Side, other: Side, new: Embeddings, old: Embeddings, group: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        (a, i), (b, j) = one, other
        if self.cfg.clean:
            self.facts[f"kept/{a}-{b}"] = float(kept_rows(old[a][i], old[b][j], group))
        sides = new[a][i], new[b][j], old[a][i], old[b][j]
        return relation_kl(*sides, self.cfg.tau, align=self.cfg.clean, reduction="batchmean", group=group)


class _Teacher(nn.Module):
    """Prompts and heads as they were, over the same frozen towers. Always in eval mode, never a gradient."""

    def __init__(self, prompts: Coupled, heads: nn.ModuleDict):
        super().__init__()
        self.prompts, self.heads = copy.deepcopy(prompts), copy.deepcopy(heads)
        self.requires_grad_(False)
        self.eval()

    def take(self, prompts: Coupled, heads: nn.ModuleDict) -> None:
        self.prompts.load_state_dict(prompts.state_dict())
        self.heads.load_state_dict(heads.state_dict())

    def train(self, mode: bool = True) -> _Teacher:
        return super().train(False)

    @torch.no_grad()
    def embed(self, model: Model, batch: Batch, out: Outputs) -> dict[Modality, Float[Tensor, "_ d"]]:
        """Unit embeddings of the inputs that the student saw; features that no prompt moves are the student's."""
        found: dict[Modality, Tensor] = {}
        for m, x in batch.inputs.items():
            prompts = m in self.prompts.modalities
            h = model.features(m, x, self.prompts(m, len(x))) if prompts else out.features[m]
            found[m] = normalize(self.heads[m](h), dim=-1)
        return found


def _single(embeddings: Embeddings) -> dict[Modality, Float[Tensor, "_ d"]]:
    """In single precision at least."""
    return {m: z.to(torch.promote_types(z.dtype, torch.float32)) for m, z in embeddings.items()}
