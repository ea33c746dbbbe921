"""What a recipe may say: frozen, validated, hashed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from polymnia.config import EvalPart, Frozen, MethodPart, TowerPart, names, nearest
from polymnia.continual.objective import ObjectiveConfig
from polymnia.data.tasks import TaskData
from polymnia.models.heads import HeadConfig
from polymnia.train.settings import TrainConfig
from polymnia.types import Modality

# Keys that say where and with what a run is done, not what its result is, and what is kept beside it:
# they are no part of the hash.
WHERE = {
    "data",
    "out",
    "cache",
    "device",
    "workers",
    "threads",
    "checkpoint_every",
    "variant",
    "title",
    "jobs",
    "anchors",
}


class WatchConfig(TaskData):
    """Items that are scored but never trained on, beside the continual numbers.

    ``of``: tasks that they test: under the stored heads they are scored with the head kept after the last of these,
    and where ``order`` leaves all of them out, they are left out too. ``rows``: after every task, or after the
    ``last`` only. ``optional``: where the folder of a data set is not there, the set is left out, which is told.
    """

    eval: tuple[EvalPart, ...]
    of: tuple[str, ...] = ()
    rows: Literal["all", "last"] = "all"
    optional: bool = False


class TaskConfig(TaskData):
    """A step of the sequence. ``train`` and ``objective`` are merged over the recipe's own; ``score`` names the
    metrics whose mean is r[i][j] (default: both directions, R@1, R@5, R@10)."""

    train: TrainConfig
    objective: ObjectiveConfig | None = None
    eval: tuple[EvalPart, ...] = ()
    score: tuple[str, ...] = ()


class StageConfig(TaskConfig):
    """A task done once before the sequence and cached by content: it trains the towers named in ``learn``.

    ``heads: false``: without projection heads, which a stage throws away: towers then meet in their own space.
    """

    learn: tuple[Modality, ...]
    seed: int | None = None  # default: the recipe's
    heads: bool = True


class Recipe(Frozen):
    """See docs/architecture.md for a walk through the keys."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    title: str = ""
    variant: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    seed: NonNegativeInt = 0
    data: Path = Path("data")
    out: Path = Path("runs")
    cache: Path = Path("cache")
    device: str = "cpu"
    threads: PositiveInt = 1
    workers: NonNegativeInt = 0
    jobs: PositiveInt = 1
    checkpoint_every: PositiveInt = 200
    synthetic: bool = False
    towers: Mapping[Modality, TowerPart]
    heads: Mapping[Modality, HeadConfig] = {}
    dim: PositiveInt
    stages: tuple[StageConfig, ...] = ()
    tasks: tuple[TaskConfig, ...] = ()
    watch: tuple[WatchConfig, ...] = ()
    method: tuple[MethodPart, ...] = ()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig
    eval: tuple[EvalPart, ...] = Field(("retrieval",), validate_default=True)
    eval_split: Literal["test", "valid"] = "test"
    max_broken: float = Field(0.05, ge=0, le=1)
    drop_leaks: bool = False  # leave out of training all that is also tested: see polymnia.data.leaks
    allow_leaks: tuple[tuple[str, str], ...] = ()  # [trained, tested]: names of data sets that may overlap, or "*"
    anchors: NonNegativeInt = 256  # training items a task whose vectors are kept after every task, to upgrade an index
    examples: NonNegativeInt = 2  # queries a task and direction whose hits are kept for the report

    @field_validator("method", mode="before")
    @classmethod
    def _one_method_is_a_chain(cls, value: object) -> object:
        return [value] if isinstance(value, (dict, str)) else value

    @model_validator(mode="before")
    @classmethod
    def _tasks_inherit(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("train"), dict):
            return raw
        raw = copy.deepcopy(raw)
        entries = [e for kind in ("stages", "tasks") if isinstance(raw.get(kind), (list, tuple)) for e in raw[kind]]
        for task in (e for e in entries if isinstance(e, dict)):
            task["train"] = _merged_train(raw["train"], task.get("train") or {})
            if task.get("objective") is not None:
                task["objective"] = merge(raw.get("objective") or {}, task["objective"])
        return raw

    @model_validator(mode="after")
    def _tasks_align_pairs(self) -> Recipe:
        for number, task in enumerate(self.tasks):
            if not task.pairs:
                raise ValueError(f"tasks.{number} ('{task.name}') has no pairs, as in pairs: [[audio, text]]")
            if (task.objective or self.objective).kind == "tags":
                raise ValueError(f"tasks.{number} ('{task.name}') has the objective tags, which is for stages")
        return self

    @model_validator(mode="after")
    def _leaks_are_of_known_sets(self) -> Recipe:
        own = {part.use.rpartition(".")[2] for t in (*self.stages, *self.tasks, *self.watch) for part in t.data}
        for name in (name for pair in self.allow_leaks for name in pair):
            if name.partition(".")[0] not in (known := {"*", *own, *names("data.datasets")}):
                raise ValueError(f"allow_leaks: no data set '{name}'; {nearest(name, list(known))}")
        return self

    @model_validator(mode="after")
    def _something_to_do(self) -> Recipe:
        if not self.tasks and not self.watch:
            raise ValueError("a recipe needs tasks, or at least something to watch")
        return self

    @property
    def hash(self) -> str:
        """Eight hex digits of everything that decides the result."""
        content = {k: v for k, v in self.model_dump(mode="json").items() if k not in WHERE}
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=4).hexdigest()

    @property
    def folder(self) -> Path:
        label = f"-{self.variant}" if self.variant else ""
        return self.out / f"{self.name}{label}-s{self.seed}-{self.hash}"

    def dump(self) -> str:
        """The resolved recipe as YAML; reading it back gives an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _merged_train(base: dict[str, Any], own: Any) -> Any:
    base = dict(base)
    if isinstance(own, dict) and (
        "steps" in own or "epochs" in own
    ):  # a task that gives one does not inherit the other
        base.pop("steps", None), base.pop("epochs", None)
    return merge(base, own)


def merge(base: Any, own: Any) -> Any:
    """``own`` over ``base``: mappings are joined key by key, anything else is replaced."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return {
        k: merge(base.get(k), own[k]) if k in own and k in base else own.get(k, base.get(k)) for k in {**base, **own}
    }
