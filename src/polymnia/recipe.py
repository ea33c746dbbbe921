"""A recipe: everything that decides the result of a run, and where its parts lie. Frozen, validated, hashed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, field_validator, model_validator

from polymnia.config import EvalPart, Frozen, MethodPart, TowerPart, explain
from polymnia.continual.objective import ObjectiveConfig
from polymnia.data.tasks import TaskData
from polymnia.models.heads import HeadConfig
from polymnia.train.settings import TrainConfig
from polymnia.types import Modality, UserError

# Keys that say where and with what a run is done, not what its result is: they are no part of the hash.
WHERE = {"data", "out", "cache", "device", "workers", "threads", "checkpoint_every", "variant", "title", "jobs"}


class WatchConfig(TaskData):
    """Items that are scored after every task but never trained on, beside the continual numbers."""

    eval: tuple[EvalPart, ...]


class TaskConfig(TaskData):
    """A step of the sequence. ``train`` and ``objective`` are merged over the recipe's own; ``score`` names the
    metrics whose mean is r[i][j] (default: both directions, R@1, R@5, R@10)."""

    train: TrainConfig
    objective: ObjectiveConfig | None = None
    eval: tuple[EvalPart, ...] = ()
    score: tuple[str, ...] = ()


class StageConfig(TaskConfig):
    """A task done once before the sequence and cached by content: it trains the towers named in ``learn``."""

    learn: tuple[Modality, ...]
    seed: int | None = None  # default: the recipe's


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
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    watch: tuple[WatchConfig, ...] = ()
    method: tuple[MethodPart, ...] = ()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig
    eval: tuple[EvalPart, ...] = ()
    eval_split: Literal["test", "valid"] = "test"
    max_broken: float = Field(0.05, ge=0, le=1)
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
        for kind in ("stages", "tasks"):
            if isinstance(raw.get(kind), (list, tuple)):
                for task in raw[kind]:
                    if isinstance(task, dict):
                        task["train"] = _merged_train(raw["train"], task.get("train") or {})
        return raw

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


def _merged_train(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    base = dict(base)
    if "steps" in own or "epochs" in own:  # a task that gives one does not inherit the other
        base.pop("steps", None), base.pop("epochs", None)
    return merge(base, own)


def merge(base: Any, own: Any) -> Any:
    """``own`` over ``base``: mappings are joined key by key, anything else is replaced."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return {
        k: merge(base.get(k), own[k]) if k in own and k in base else own.get(k, base.get(k)) for k in {**base, **own}
    }


def read(path: str | Path) -> dict[str, Any]:
    """A recipe file as plain data, its ``base:`` merged in. One level of inheritance only."""
    raw = _yaml(Path(path))
    if "base" in raw:
        base_path = Path(path).parent / raw.pop("base")
        base = _yaml(base_path)
        if "base" in base:
            raise UserError(f"{base_path}: a base may not have a base of its own (one level of inheritance)")
        raw = merge(base, raw)
    return raw


def _yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no recipe at {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no YAML recipe: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no recipe: it must be a mapping of keys")
    return raw


def override(raw: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``raw`` with dotted keys set: ``train.lr``, ``tasks.0.train.steps``. New keys are checked later."""
    raw = copy.deepcopy(raw)
    for key, value in changes.items():
        at: Any = raw
        *path, last = key.split(".")
        for part in path:
            if isinstance(at, list):
                at = at[_position(at, part, key)]
            else:
                if not isinstance(at.get(part), (dict, list)):
                    at[part] = {}
                at = at[part]
        if isinstance(at, list):
            at[_position(at, last, key)] = value
        else:
            at[last] = value
    return raw


def _position(entries: list[Any], part: str, key: str) -> int:
    """Where in a list ``part`` points: a number, or the ``name`` of an entry."""
    for number, entry in enumerate(entries):
        if part == str(number) or (isinstance(entry, dict) and entry.get("name") == part):
            return number
    raise UserError(f"{key}: no entry '{part}' in a list of {len(entries)}")


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words of a command line; values are YAML (``train.lr=3e-4``, ``method=[{use: lwf}]``)."""
    changes = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{word}' is no key=value")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"'{word}': the value is no YAML: {error}") from error
        if isinstance(changes[key], str):
            changes[key] = _number(changes[key])
    return changes


def _number(text: str) -> Any:
    """YAML 1.1 reads 3e-4 as a string; a person means the number."""
    try:
        return float(text)
    except ValueError:
        return text


def validate(raw: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """A recipe from plain data. Raises UserError that names the file, the path to the key, and the nearest key."""
    try:
        return Recipe(**raw)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error)}") from error


def expand(raw: Mapping[str, Any], origin: str = "recipe") -> list[Recipe]:
    """Every variant with every seed of a study: ``variants: {name: {dotted key: value}}``, ``seeds: [0, 1, 2]``.

    ``only: [name]`` keeps some variants. A recipe without these keys is one run.
    """
    raw = dict(raw)
    variants = raw.pop("variants", None) or {"": {}}
    seeds = raw.pop("seeds", None)
    only = raw.pop("only", None)
    if only is not None:
        chosen = [only] if isinstance(only, str) else list(only)
        unknown = [n for n in chosen if n not in variants]
        if unknown:
            raise UserError(f"{origin}: no variant {', '.join(map(str, unknown))}; there are: {', '.join(variants)}")
        variants = {n: variants[n] for n in chosen}
    recipes = []
    for seed in [raw.get("seed", 0)] if seeds is None else [seeds] if isinstance(seeds, int) else seeds:
        for name, changes in variants.items():
            changed = override(raw, {**(changes or {}), "seed": seed})
            recipes.append(validate({**changed, "variant": name}, f"{origin}, variant '{name}'" if name else origin))
    return recipes
