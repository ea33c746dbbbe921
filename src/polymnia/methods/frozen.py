"""Heads only: the towers stay as they came. Nothing of the encoder is forgotten, and nothing is learned by it."""

from polymnia.continual.method import AbstractMethod, MethodConfig, Setup
from polymnia.models.model import Model
from polymnia.types import Task, UserError


class Config(MethodConfig):
    """``first``: the first task that keeps the towers frozen (2: they train in task 1, as Wav2CLIP on A-AV-AT)."""

    first: int = 1


class Method(AbstractMethod):
    """Projection heads and temperatures train, towers do not."""

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.first = cfg.first
        if not any(True for _ in setup.model.heads.parameters()):
            raise UserError("frozen: every head is 'identity', so nothing would train; give a modality a head")

    def begin_task(self, model: Model, task: Task) -> None:
        if task.index >= self.first:
            for modality in model.learn:
                model.freeze(modality)
