"""Keys that the feature-distilling methods share, and the term that they make."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor

from polymnia.continual.method import MethodConfig
from polymnia.ops.distill import feature_kl


class KLConfig(MethodConfig):
    """``weight`` is lambda of Eq. 2; softmax over features with ``temperature``, after ``normalize`` or not;
    ``t2_scale`` multiplies by T^2 (Hinton); ``first`` is the first task that distils (1: from the encoder as it came).
    """

    weight: float = Field(0.3, ge=0, le=1)
    temperature: PositiveFloat = 1.0
    normalize: bool = False
    t2_scale: bool = False
    reduction: Literal["batchmean", "sum", "mean"] = "batchmean"
    first: int = 1

    def share(self, task: int) -> float:
        """What is left for the objective in a task."""
        return 1 - self.weight if task >= self.first else 1.0

    def term(self, student: Float[Tensor, "n d"], teacher: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """lambda KL(teacher || student), averaged over rows as ``reduction`` says."""
        kl = feature_kl(student, teacher, self.temperature, self.normalize, self.reduction, self.t2_scale)
        return self.weight * kl
