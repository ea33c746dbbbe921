"""Recipes as data: frozen models, and parts that are named by the file that holds them.

``{use: lwf, weight: 0.3}`` in the layer ``methods`` is the module ``polymnia.methods.lwf`` and its ``Config``.
A dotted name (``use: mylab.rehearse``) reaches any importable module, looked up from the working directory too.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from functools import partial
from types import ModuleType
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError, model_validator

from polymnia.types import UserError


def nearest(word: str, known: list[str]) -> str:
    """The tail of an error message: the known word nearest to a wrong one, and the others."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return (f"did you mean '{close[0]}'? " if close else "") + f"known: {', '.join(sorted(known))}"


class Frozen(BaseModel):
    """A piece of a recipe: immutable, and an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key '{key}'; {nearest(str(key), list(cls.model_fields))}")
        return data


class Part(BaseModel):
    """A part of a system: the module that implements it, and its validated settings."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    layer: str
    use: str
    config: Any

    @property
    def module(self) -> ModuleType:
        return find(self.layer, self.use)

    def dump(self) -> dict[str, Any]:
        return {"use": self.use, **self.config.model_dump(mode="json")}


def names(layer: str) -> list[str]:
    """The parts that a layer's folder holds, in alphabetical order."""
    package = importlib.import_module(f"polymnia.{layer}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def find(layer: str, use: str) -> ModuleType:
    """The module called ``use`` in a layer. Raises UserError for an unknown name or a module without ``Config``."""
    dotted = "." in use
    if dotted and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a user's own file beside the recipe, as `python -m` would find it
    if not dotted and use not in names(layer):
        raise UserError(f"no '{use}' in {layer}; {nearest(use, names(layer))}; or a dotted name of your own module")
    try:
        found = importlib.import_module(use if dotted else f"polymnia.{layer}.{use}")
    except (ImportError, SyntaxError, TypeError, ValueError) as error:  # the last two: '.name' and 'name.'
        raise UserError(f"cannot import '{use}' for {layer}: {error}; is its folder on PYTHONPATH?") from error
    config = vars(found).get("Config")
    if not (isinstance(config, type) and issubclass(config, Frozen)):
        raise UserError(f"{found.__name__} has no class Config(Frozen): see docs/architecture.md, 'a part is a file'")
    return found


def parse_part(layer: str, raw: Any) -> Part:
    """A part from ``{use: name, **settings}``, or from the bare name."""
    if isinstance(raw, Part):
        return raw
    if isinstance(raw, str):
        raw = {"use": raw}
    if not isinstance(raw, dict) or not isinstance(raw.get("use"), str):
        raise ValueError(f"a part of {layer} is a name or {{use: name, ...}}, not {raw!r}")
    settings = {k: v for k, v in raw.items() if k != "use"}
    config = find(layer, raw["use"]).Config
    try:
        return Part(layer=layer, use=raw["use"], config=config.model_validate(settings))
    except ValidationError as error:
        raise ValueError(f"in {layer} '{raw['use']}': {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """A validation error as one clause a fault: the path to the key, then what is wrong with it.

    A fault that stands in several places (tasks inherit ``train:``) is told once, with its first path.
    """
    places: dict[str, list[str]] = {}
    faults = error.errors()
    for fault in faults:
        if fault["type"] == "too_short" and any(f["loc"][:-1][: len(fault["loc"])] == fault["loc"] for f in faults):
            continue  # entries that are wrong do not count as entries: telling both would mislead
        message = fault["msg"].removeprefix("Value error, ")
        places.setdefault(message, []).append(".".join(str(p) for p in fault["loc"]))
    return "; ".join(_clause(paths, message) for message, paths in places.items())


def _clause(paths: list[str], message: str) -> str:
    first = min(paths, key=lambda p: p.count("."))
    more = f" (and in {len(paths) - 1} more places)" if len(paths) > 1 else ""
    return f"{first}: {message}{more}" if first else message


def _field(layer: str) -> Any:
    return Annotated[
        Part, BeforeValidator(partial(parse_part, layer)), PlainSerializer(lambda p: p.dump(), return_type=dict)
    ]


DatasetPart = _field("data.datasets")
TowerPart = _field("models.towers")
MethodPart = _field("methods")
EvalPart = _field("eval.evaluators")
