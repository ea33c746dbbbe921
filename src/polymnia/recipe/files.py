"""Recipes as files: YAML, one level of inheritance, words of a command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from polymnia.recipe.schema import merge
from polymnia.types import UserError


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
