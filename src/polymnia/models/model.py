"""Towers, heads and temperatures. A model knows no tasks; it keeps one copy of its heads per finished task."""

import copy
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from polymnia.models.heads import CrossHead, HeadConfig, build_head, mlp, reset
from polymnia.models.prompting import Prompt
from polymnia.models.tower import AbstractTower
from polymnia.types import MODALITIES, Modality, Pair, Spec, UserError

MAX_SCALE = 100.0  # CLIP's clamp on the logit scale
TEMPERATURE = 0.07  # where CLIP's training began


class Model(nn.Module):
    """One space for several modalities.

    ``learn`` names the towers that train; the others never get a gradient and always stay in eval mode. ``tags`` > 0
    adds a linear tagger over the features of the learning tower (for supervised first stages). ``cross`` adds what the
    cross-projection loss needs: a transform of each modality whose head is not of kind ``cross``, and a second scale.
    """

    def __init__(
        self,
        towers: Mapping[Modality, AbstractTower],
        heads: Mapping[Modality, HeadConfig],
        dim: int,
        learn: frozenset[Modality],
        tasks: int = 1,
        seed: int = 0,
        tags: int = 0,
        cross: bool = False,
    ):
        super().__init__()
        self.dim, self.learn = dim, learn
        self.towers = nn.ModuleDict({m: towers[m] for m in MODALITIES if m in towers})
        generator = torch.Generator().manual_seed(seed)
        self.heads = nn.ModuleDict(
            {m: build_head(heads.get(m, HeadConfig()), towers[m].out_dim, dim, generator) for m in self.towers}
        )
        self._head_configs, self._seed = {m: heads.get(m, HeadConfig()) for m in self.towers}, seed
        self.stored = nn.ModuleList(copy.deepcopy(self.heads) for _ in range(tasks))
        self.stored.requires_grad_(False)
        self.log_scale = nn.ParameterDict({_key(p): torch.tensor(1 / TEMPERATURE).log() for p in _pairs(self.towers)})
        self.cross, self.cross_log_scale = nn.ModuleDict(), nn.ParameterDict()
        if cross:
            partners = [m for m in self.towers if not isinstance(self.heads[m], CrossHead)]
            self.cross = nn.ModuleDict({m: mlp(dim, dim, dim, 0.1) for m in partners})
            reset(self.cross, generator)
            self.cross_log_scale = nn.ParameterDict({m: torch.tensor(1 / TEMPERATURE).log() for m in partners})
        tagged = next((m for m in self.towers if m in learn), None)
        self.tagger = nn.Linear(towers[tagged].out_dim, tags) if tags and tagged else None
        self._still: set[str] = set(self.towers) - set(learn)
        self.thaw()

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(m for m in MODALITIES if m in self.towers)

    @property
    def specs(self) -> dict[Modality, Spec]:
        return {m: self.tower(m).spec for m in self.modalities}

    def tower(self, modality: Modality) -> AbstractTower:
        if modality not in self.towers:
            raise UserError(f"this model has no {modality} tower; it has {', '.join(self.towers)}")
        return self.towers[modality]  # type: ignore[return-value]

    def scale(self, pair: Pair) -> Float[Tensor, ""]:
        """The learned multiplicative logit scale of a pair, at most 100 (CLIP)."""
        return self.log_scale[_key(pair)].exp().clamp(max=MAX_SCALE)

    @torch.no_grad()
    def start_at(self, temperature: float) -> None:
        """Similarities are divided by so much until the scales have trained; without this call, by 0.07."""
        for scale in (*self.log_scale.values(), *self.cross_log_scale.values()):
            scale.fill_(-math.log(temperature))
            # By rounding, 100 may come out above the clamp, where there is no gradient: it could never fall again.
            if scale.exp() > MAX_SCALE:
                scale.copy_(scale.nextafter(torch.zeros_like(scale)))

    def crossed(
        self, a: Modality, b: Modality, h: Float[Tensor, "n o"], v: Float[Tensor, "n p"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"], Float[Tensor, ""]]:
        """The first half of Wav2CLIP's CX: a (before its transform) and h_b(v), from features, and their own scale.

        Raises UserError unless the head of ``a`` is of kind ``cross``.
        """
        head = self.heads[a]
        if not isinstance(head, CrossHead) or b not in self.cross:
            raise UserError(f"loss cx on {a}-{b}: set heads.{a}.kind: cross (and no other), it is what is transformed")
        return head.embed(h), self.cross[b](self.heads[b](v)), self.cross_log_scale[b].exp().clamp(max=MAX_SCALE)

    def features(
        self, modality: Modality, x: Shaped[Tensor, "b ..."], prompt: Prompt | None = None
    ) -> Float[Tensor, "b o"]:
        return self.tower(modality)(x, prompt)

    def head(self, modality: Modality, h: Float[Tensor, "b o"], task: int | None = None) -> Float[Tensor, "b d"]:
        """The head's raw output: the head as it is now, or the copy stored after task number ``task`` (from 1)."""
        heads = self.heads if task is None else self.stored[task - 1]
        return heads[modality](h)

    def project(self, modality: Modality, h: Float[Tensor, "b o"], task: int | None = None) -> Float[Tensor, "b d"]:
        """Unit-norm embeddings."""
        return F.normalize(self.head(modality, h, task), dim=-1)

    def encode(self, modality: Modality, x: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b d"]:
        return self.project(modality, self.features(modality, x))

    def thaw(self) -> None:
        """Everything that this model may learn requires a gradient again (methods may freeze more in begin_task)."""
        self._still = set(self.towers) - set(self.learn)
        for m in self.towers:
            self.towers[m].requires_grad_(m in self.learn)
        self.heads.requires_grad_(True)
        self.log_scale.requires_grad_(True)

    def freeze(self, modality: Modality) -> None:
        """A tower that stays as it is during this task: no gradient, eval mode."""
        self._still.add(modality)
        self.towers[modality].requires_grad_(False)
        self.towers[modality].eval()

    def train(self, mode: bool = True) -> "Model":
        super().train(mode)
        for m in self._still:
            self.towers[m].eval()  # batch-norm statistics of a frozen tower must not move
        return self

    def renew_heads(self, task: int) -> None:
        """Draw the heads anew whose config says so, before task number ``task`` (from 2 on)."""
        for number, (m, cfg) in enumerate(self._head_configs.items()):
            if cfg.init == "fresh":
                reset(self.heads[m], torch.Generator().manual_seed((self._seed * 1009 + task) * 16 + number))

    def store_heads(self, task: int) -> None:
        """Keep the heads as they are after task number ``task`` (from 1)."""
        self.stored[task - 1].load_state_dict(self.heads.state_dict())

    def tower_parameters(self) -> list[nn.Parameter]:
        """The tower parameters that train now: what every term of a loss pulls at."""
        return [p for p in self.towers.parameters() if p.requires_grad]


def _key(pair: Pair) -> str:
    a, b = sorted(pair, key=MODALITIES.index)
    return f"{a}-{b}"


def _pairs(towers: nn.ModuleDict) -> list[Pair]:
    present = [m for m in MODALITIES if m in towers]
    return [(a, b) for i, a in enumerate(present) for b in present[i + 1 :]]
