"""From plain data to the runs that it asks for: overrides, an order of tasks, variants and seeds."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from polymnia.config import explain, nearest
from polymnia.recipe.files import read
from polymnia.recipe.schema import Recipe
from polymnia.types import UserError

STUDY = ("variants", "seeds", "only")  # keys of a file that asks for several runs

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
        names = {*map(str, order)}
        raw["watch"] = [_narrowed(w, names) for w in raw.get("watch") or [] if not _left_out(w, names)]
    return raw


def _left_out(watched: Any, order: set[str]) -> bool:
    """Whether it tests tasks, and none of those that are learned."""
    of = watched.get("of") if isinstance(watched, dict) else None
    return bool(of) and not order & {*map(str, of)}


def _narrowed(watched: Any, order: set[str]) -> Any:
    """Without the tasks that are not learned: a resolved recipe has no ``order``, and must be read again."""
    of = watched.get("of") if isinstance(watched, dict) else None
    return {**watched, "of": [name for name in of if str(name) in order]} if of else watched


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
