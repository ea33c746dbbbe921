"""Experience replay: rows of finished tasks, within a byte budget, join every batch (Chaudhry et al., 2019)."""

from pydantic import PositiveInt

from polymnia.continual.memory import Memory
from polymnia.continual.method import AbstractMethod, MethodConfig, Setup
from polymnia.models.model import Model
from polymnia.types import Batch, Batches, Task


class Config(MethodConfig):
    """``budget`` in bytes for everything that is kept; ``rows`` rehearsed a step."""

    budget: PositiveInt = 4_000_000
    rows: PositiveInt = 32


class Method(AbstractMethod):
    """Stored rows of the current pair join its contrast; those of another pair make a contrast of their own."""

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
        self.rows = cfg.rows
        self.memory = Memory(setup.model, cfg.budget, setup.seed, tasks=setup.tasks)

    def mix(self, batch: Batch) -> Batch:
        return self.memory.rehearse(batch, self.rows)[0]

    def end_task(self, model: Model, task: Task, batches: Batches) -> None:
        self.memory.add_task(batches)
