"""Multinomial or one-against-rest logistic regression with an L2 penalty, solved for many strengths of one problem.

The optimum is scikit-learn's ``LogisticRegression(C=c)``: sum of the losses + ||W||^2 / 2C, the intercept free, one
weight vector where only two classes exclude each other; classes that do not are solved together. Three things make a
sweep over C cheap: the rows are turned into their principal axes once (the penalty does not notice a rotation, and
there are never more axes than rows), each axis is scaled by the curvature that it can have at most (Boehning 1992),
and each C starts from the nearest C solved.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from polymnia.eval.probes.device import pick

ITERATIONS = 1000  # of L-BFGS at most (Radford et al. 2021, appendix A.3)
TOLERANCE = 3e-5  # of the scaled gradient, whose square bounds the gap to the optimum; scikit-learn stops earlier
NOTHING = 1e-12  # of the largest variance: an axis with less holds only rounding

# CLIP's sweep (Radford et al. 2021, appendix A.3): 1e-6 ... 1e6 in 96 steps, eight a decade; every 16th is tried
# first, then the step is halved around the best.
SWEEP = tuple(10.0 ** (-6 + k / 8) for k in range(97))
COARSE = 16

Score = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n c"]]


def sweep(value: Callable[[float], float]) -> float:
    """The C of the best value by CLIP's coarse-to-fine search, the smallest of equals."""
    found: dict[int, float] = {}
    step, places = COARSE, list(range(0, len(SWEEP), COARSE))
    while True:
        found |= {p: value(SWEEP[p]) for p in places}
        best = max(found, key=lambda p: (found[p], -p))
        if step == 1:
            return SWEEP[best]
        step //= 2
        places = [p for p in (best - step, best + step) if 0 <= p < len(SWEEP)]


class Logistic:
    """The problem that one set of rows poses.

    ``x``: rows, float64. ``y``: the classes of each; one a row if ``exclusive``. Classes that no row has (or, if they
    do not exclude each other, every row has) are not learned.
    """

    def __init__(self, x: Float[np.ndarray, "n d"], y: Bool[np.ndarray, "n c"], exclusive: bool, device: str = "cpu"):
        where = pick(device)
        self.exclusive, self.classes = exclusive, y.shape[1]
        self.known = y.any(0) if exclusive else y.any(0) & ~y.all(0)
        own = y[:, self.known]
        self.single = exclusive and own.shape[1] == 2
        self.target = torch.from_numpy(own[:, 1:] if self.single else own).to(where, torch.float64)
        self.mean = x.mean(0)
        self.axes, variance = _axes(x - self.mean)
        self.variance = torch.from_numpy(variance).to(where)
        self.z = torch.from_numpy((x - self.mean) @ self.axes).to(where)
        self.solved: dict[float, Tensor] = {}

    def fit(self, c: float) -> Score:
        """The classifier of strength ``c``: logits, a column a class; -inf (exclusive) or 0 for one not learned."""
        solution = self._solve(c).cpu().numpy()
        weight, bias = self.axes @ solution[:-1], solution[-1]

        def predict(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
            logits = (x - self.mean) @ weight + bias
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1) if self.single else logits
            scores = np.full((len(x), self.classes), -np.inf if self.exclusive else 0.0)
            scores[:, self.known] = logits
            return scores

        return predict

    def _solve(self, c: float) -> Float[Tensor, "r_and_1 k"]:
        if not self.solved:
            start = self.z.new_zeros(self.z.shape[1] + 1, self.target.shape[1])
        else:
            start = self.solved[min(self.solved, key=lambda known: abs(math.log(known / c)))]
        curvature = 0.25 if self.single or not self.exclusive else 0.5
        penalty = 1 / (c * len(self.z))
        scale = torch.cat([curvature * self.variance + penalty, self.z.new_tensor([curvature])]).rsqrt()[:, None]
        free = (start / scale).requires_grad_()
        how = {"max_iter": ITERATIONS, "max_eval": 2 * ITERATIONS, "tolerance_grad": TOLERANCE}
        # No stop for a small step: near the optimum of a weak penalty steps are small long before the end.
        search = torch.optim.LBFGS([free], tolerance_change=0.0, line_search_fn="strong_wolfe", **how)

        def loss() -> Tensor:
            search.zero_grad()
            whole = scale * free
            value = self._loss(self.z @ whole[:-1] + whole[-1]) + penalty / 2 * whole[:-1].square().sum()
            value.backward()
            return value

        search.step(loss)
        self.solved[c] = (scale * free).detach()
        return self.solved[c]

    def _loss(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
        if self.exclusive and not self.single:
            return cross_entropy(logits, self.target.argmax(1))
        return binary_cross_entropy_with_logits(logits, self.target) * logits.shape[1]


def _axes(x: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "d r"], Float[np.ndarray, " r"]]:
    """The principal axes of centred rows that hold anything, and the variance along each."""
    tall = len(x) >= x.shape[1]
    power, vectors = np.linalg.eigh(x.T @ x if tall else x @ x.T)
    kept = power > NOTHING * max(power[-1], 1e-300)
    power, vectors = power[kept], vectors[:, kept]
    return (vectors if tall else x.T @ vectors / np.sqrt(power)), power / len(x)
