"""Maps from one encoder's space into another's, fitted on anchors: things that both encoders have embedded.

Every family but the plain copy is a change to the identity, so that with few anchors an adapter falls back to leaving
vectors as they are. ``x`` are rows of the old space, ``y`` the same things in the new one; all rows have unit length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, normalize, relu

from polymnia.types import UserError

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # of the pull towards the identity, in units of the mean eigenvalue of x'x
RANKS = (8, 32, 64)
HIDDEN, STEPS, RATE, EVERY = 256, 200, 1e-3, 20
CLOSED_FORM = ("identity", "orthogonal", "ridge", "lowrank")
KINDS = (*CLOSED_FORM, "mlp")  # simplest first
LEARNED = "predictor"  # what a method learned on its way, see AbstractMethod.backward_maps
Judge = Callable[[Float[Tensor, "n d"]], float]


@dataclass(frozen=True)
class Adapter:
    """A map of unit rows to unit rows. ``kind`` is one of KINDS, or LEARNED; ``tensors`` are its weights, float32.

    identity: none. orthogonal, ridge: ``weight`` (d, d), and ``bias`` (d) of ridge. lowrank: ``down`` (d, r), ``up``
    (r, d), ``bias``. mlp: ``inner`` (d, h), ``inner_bias``, ``outer`` (h, d), ``outer_bias``. predictor: ``weight``,
    ``bias``, and where it has a hidden layer ``inner``, ``inner_bias``.
    """

    kind: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Rows of the old space as rows of the new one, of unit length."""
        t = self.tensors
        if self.kind == "identity":
            return x
        if self.kind == "orthogonal":
            return normalize(x @ t["weight"], dim=1)
        if self.kind in ("ridge", LEARNED):
            hidden = relu(x @ t["inner"] + t["inner_bias"]) if "inner" in t else x
            return normalize(hidden @ t["weight"] + t["bias"], dim=1)
        if self.kind == "lowrank":
            return normalize(x + (x @ t["down"]) @ t["up"] + t["bias"], dim=1)
        return normalize(x + gelu(x @ t["inner"] + t["inner_bias"]) @ t["outer"] + t["outer_bias"], dim=1)


@dataclass(frozen=True)
class Chain:
    """Adapters one after another: k -> k+1 -> ... -> n."""

    links: tuple[Adapter, ...]

    @property
    def kind(self) -> str:
        return " + ".join(a.kind for a in self.links)

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        for link in self.links:
            x = link(x)
        return x


def fit(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n d"],
    held: Float[Tensor, "m d"],
    judge: Judge,
    kinds: tuple[str, ...] = KINDS,
    seed: int = 0,
) -> tuple[Adapter, dict[str, float]]:
    """The best adapter from x to y (of equally good ones the simplest), and the best score of each family.

    ``judge`` says how good some rows are that an adapter makes of ``held``, the old rows of anchors that it is not
    fitted on; more is better. Raises UserError for unknown kinds, fewer than two rows, and rows that do not match.
    """
    unknown = [k for k in kinds if k not in KINDS]
    if unknown or len(x) < 2 or x.shape != y.shape:
        raise UserError(f"cannot fit {unknown or 'an adapter'} to {tuple(x.shape)} and {tuple(y.shape)} anchors")
    best, scores = Adapter("identity"), {}
    top = -float("inf")
    strength = STRENGTHS[0]
    for kind in (k for k in KINDS if k in kinds):
        for said, candidate in _candidates(kind, x, y, strength, seed):
            score = judge(candidate(held))
            if score > scores.get(kind, -float("inf")):
                scores[kind], strength = score, said
            if score > top:
                best, top = candidate, score
    return best, scores


def _candidates(kind: str, x: Tensor, y: Tensor, strength: float, seed: int) -> Iterator[tuple[float, Adapter]]:
    """Adapters of a family, each with the pull towards the identity that is best so far, or its own."""
    if kind == "identity":
        yield strength, Adapter(kind)
    elif kind == "orthogonal":
        yield strength, Adapter(kind, {"weight": orthogonal(x, y)})
    elif kind == "ridge":
        for own in STRENGTHS:
            change, bias = ridge(x, y, own)
            yield own, Adapter(kind, {"weight": torch.eye(x.shape[1]) + change, "bias": bias})
    elif kind == "lowrank":
        yield from ((strength, a) for a in _low_rank(x, *ridge(x, y, strength)))
    else:
        yield from ((strength, a) for a in perceptrons(x, y, seed))


def orthogonal(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """The rotation R that brings x R nearest to y in squared distance (Schoenemann 1966).

    Directions that no anchor has are left as they are: without that, fewer anchors than dimensions would turn the rest
    of the space at random.
    """
    u, s, v = torch.linalg.svd((x.T @ y).double())
    seen = s > s[0] * 1e-6
    if bool(seen.all()):
        return (u @ v).float()
    # The rest of x's space goes to the rest of y's by the rotation nearest to the identity.
    rest_x, rest_y = u[:, ~seen], v[~seen]
    a, _, b = torch.linalg.svd(rest_x.T @ rest_y.T)
    return (u[:, seen] @ v[seen] + rest_x @ (a @ b) @ rest_y).float()


def ridge(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], strength: float
) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"]]:
    """C and b that minimise |x (I + C) + b - y|^2 + s |C, b|^2, where s = ``strength`` x (n / d)."""
    n, d = x.shape
    wide = torch.cat([x, torch.ones(n, 1)], dim=1).double()
    pull = strength * n / d * torch.eye(d + 1, dtype=torch.float64)
    solved = torch.linalg.solve(wide.T @ wide + pull, wide.T @ (y - x).double())
    return solved[:d].float(), solved[d].float()


def _low_rank(x: Tensor, change: Tensor, bias: Tensor) -> Iterator[Adapter]:
    """Reduced-rank regression (Izenman 1975): of the ridge change, the directions in which it moves anchors most."""
    _, _, v = torch.linalg.svd(x @ change, full_matrices=False)
    for rank in (r for r in RANKS if r < min(x.shape)):
        top = v[:rank]
        yield Adapter("lowrank", {"down": (change @ top.T).contiguous(), "up": top.contiguous(), "bias": bias})


def perceptrons(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], seed: int) -> Iterator[Adapter]:
    """A residual perceptron of one hidden layer that begins as the identity, as it is every ``EVERY`` steps."""
    d = x.shape[1]
    draw = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        weights = {
            "inner": torch.randn(d, HIDDEN, generator=draw) * d**-0.5,
            "inner_bias": torch.zeros(HIDDEN),
            "outer": torch.zeros(HIDDEN, d),
            "outer_bias": torch.zeros(d),
        }
        for w in weights.values():
            w.requires_grad_()
        optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=1e-2)
        for step in range(1, STEPS + 1):
            loss = (1 - (Adapter("mlp", weights)(x) * y).sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % EVERY == 0:
                yield Adapter("mlp", {k: w.detach().clone() for k, w in weights.items()})
