"""A recipe: everything that decides the result of a run, and where its parts lie. Frozen, validated, hashed."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, field_validator, model_validator

from polymnia.config import EvalPart, Frozen, MethodPart, TowerPart, explain, names, nearest
from polymnia.continual.objective import ObjectiveConfig
from polymnia.data.tasks import TaskData
from polymnia.models.heads import HeadConfig
from polymnia.train.settings import TrainConfig
from polymnia.types import Modality, UserError

# Keys that say where and with what a run is done, not what its result is: they are no part of the hash.
WHERE = {"data", "out", "cache", "device", "workers", "threads", "checkpoint_every", "variant", "title", "jobs"}
STUDY = ("variants", "seeds", "only")  # keys of a file that asks for several runs


class WatchConfig(TaskData):
    """Items that are scored but never trained on, beside the continual numbers.

    ``of``: tasks that they test: under the stored heads they are scored with the head kept after the last of these,
    and where ``order`` leaves all of them out, they are left out too. ``rows``: after every task, or the ``last`` only.
    ``optional``: where the folder of a data set is not there, the set is left out, which the report says.
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


def read(path: str | Path) -> dict[str, Any]:
    """A recipe file as plain data, its ``base:`` merged in. One level of inheritance only."""
    raw = _yaml(Path(path))
    if "base" in raw:
        named = raw.pop("base")
        if not isinstance(named, str) or not (Path(path).parent / named).is_file():
            raise UserError(f"{path}: base: {named!r} is no recipe file beside it")
        base_path = Path(path).parent / named
        base = _yaml(base_path)
        if "base" in base:
            raise UserError(f"{base_path}: a base may not have a base of its own (one level of inheritance)")
        raw = merge(base, raw)
    return raw


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 3e-4 as a string (it wants 3.0e-4); a person means the number. A key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"no recipe at {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no YAML recipe: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no recipe: it must be a mapping of keys")
    return raw


LENGTHS = {"steps": "epochs", "epochs": "steps"}


def override(raw: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``raw`` with dotted keys set: ``train.lr``, ``tasks.0.train.steps``, ``method.lwf.weight``.

    An entry of a list is named by its place, its ``name`` or its ``use``. New keys are checked later.
    """
    raw = copy.deepcopy(raw)
    for key, value in changes.items():
        at: Any = raw
        *path, last = str(key).split(".")
        for part in path:
            place = _position(at, part, key) if isinstance(at, list) else part
            inner = at[place] if isinstance(at, list) else at.get(place)
            if not isinstance(inner, (dict, list)):  # a part may be written as its bare name
                at[place] = {"use": inner} if isinstance(inner, str) else {}
            at = at[place]
        at[_position(at, last, key) if isinstance(at, list) else last] = value
        if last in LENGTHS and isinstance(at, dict):  # a task is as long as its steps or its epochs say, not both
            at.pop(LENGTHS[last], None)
    return raw


def _position(entries: list[Any], part: str, key: str) -> int:
    """Where in a list ``part`` points."""
    known = [e.get("name", e.get("use")) if isinstance(e, dict) else e for e in entries]
    for number, name in enumerate(known):
        if part in (str(number), name):
            return number
    raise UserError(f"{key}: no entry '{part}' in a list of {len(entries)} ({', '.join(map(str, known))})")


def parse_overrides(words: Sequence[str], files: Sequence[Path] = ()) -> dict[str, Any]:
    """``key=value`` words of a command line; values are YAML (``train.lr=3e-4``, ``method=[{use: lwf}]``).

    ``files`` hold such keys as mappings (``train.lr: 3e-4``); a later one is over an earlier one, words are over all.
    """
    changes: dict[str, Any] = {}
    for file in files:
        changes |= {str(key): value for key, value in _yaml(file).items()}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{word}' is no key=value")
        try:
            changes[key] = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            problem = " ".join(str(error).split())
            raise UserError(f"'{word}': the value is no YAML: {problem}") from error
    return changes


def validate(raw: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """A recipe from plain data. Raises UserError that names the file, the path to the key, and the nearest key."""
    try:
        return Recipe.model_validate(_ordered(raw, origin))
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error)}") from error


def _ordered(raw: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """A copy without the key ``order``: the tasks that it names, in its order, and what is watched for them."""
    raw = dict(raw)
    known = {str(t.get("name")): t for t in _mappings(raw, "tasks")}
    order = raw.pop("order", None)
    chosen = list(known) if order is None else order
    if not isinstance(chosen, (list, tuple)) or len({*map(str, chosen)}) < len(chosen):
        raise UserError(f"{origin}: order is a list of names of tasks, each once, not {chosen!r}")
    tested = [(f"watch '{w.get('name')}'", str(n)) for w in _mappings(raw, "watch") for n in w.get("of") or ()]
    for who, name in [*(("order", str(n)) for n in chosen), *tested]:
        if name not in known:
            raise UserError(f"{origin}: {who} names the task '{name}'; {nearest(str(name), list(known))}")
    if order is not None:
        raw["tasks"] = [known[str(name)] for name in order]
        raw["watch"] = [w for w in raw.get("watch") or [] if not _left_out(w, {*map(str, order)})]
    return raw


def _left_out(watched: Any, order: set[str]) -> bool:
    """Whether it tests tasks, and none of those that are learned."""
    of = watched.get("of") if isinstance(watched, dict) else None
    return bool(of) and not order & {*map(str, of)}


def _mappings(raw: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The entries of a list that are mappings; what else stands there is told by the validation."""
    entries = raw.get(key)
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, (list, tuple)) else []


def expand(raw: Mapping[str, Any], origin: str = "recipe", changes: Mapping[str, Any] | None = None) -> list[Recipe]:
    """Every variant with every seed of a study: ``variants: {name: {dotted key: value}}``, ``seeds: [0, 1, 2]``.

    ``only: [name]`` keeps some variants. A recipe without these keys is one run. ``changes`` are dotted keys too:
    they hold for every variant, over what the variant itself says.
    """
    changes = dict(changes or {})
    study = {k: changes.pop(k) for k in list(changes) if str(k).split(".")[0] in STUDY}
    raw = override(dict(raw), study)
    variants, seeds = _variants(raw, origin), raw.pop("seeds", None)
    if "seed" in changes:
        if "seeds" in study:
            raise UserError(f"{origin}: give seed, or seeds")
        seeds = [changes.pop("seed")]
    if seeds is None:
        seeds = [raw.get("seed", 0)]
    seeds = list(seeds) if isinstance(seeds, (list, tuple)) else [seeds]
    if not seeds or not variants:
        raise UserError(f"{origin}: {'only' if seeds else 'seeds'} is empty, so there is nothing to run")
    recipes = []
    for seed in seeds:
        for name, own in variants.items():
            changed = override(override(raw, own), {**changes, "seed": seed})
            recipes.append(validate({**changed, "variant": name}, f"{origin}, variant '{name}'" if name else origin))
    return recipes


def plan(recipe: str | Path | Mapping[str, Any], overrides: Mapping[str, Any]) -> list[Recipe]:
    """The runs that a recipe (a file, or the same as a mapping) and dotted overrides ask for."""
    named = isinstance(recipe, (str, Path))
    return expand(read(recipe) if named else dict(recipe), str(recipe) if named else "recipe", overrides)


def _variants(raw: dict[str, Any], origin: str) -> dict[str, dict[str, Any]]:
    """The variants that are wanted, taken out of ``raw``."""
    variants, only = raw.pop("variants", None) or {"": {}}, raw.pop("only", None)
    if not isinstance(variants, dict) or not all(isinstance(v or {}, dict) for v in variants.values()):
        raise UserError(f"{origin}: variants must be {{name: {{dotted key: value}}}}")
    variants = {str(n): v or {} for n, v in variants.items()}
    if only is None:
        return variants
    chosen = [str(n) for n in only] if isinstance(only, (list, tuple)) else [str(only)]
    unknown = [n for n in chosen if n not in variants]
    if unknown:
        raise UserError(f"{origin}: no variant {', '.join(unknown)}; {nearest(unknown[0], list(variants))}")
    return {n: variants[n] for n in chosen}
