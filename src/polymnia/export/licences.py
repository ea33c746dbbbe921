"""Under what terms the data of a run are, as far as polymnia's readers of the data sets say it."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from polymnia.config import Part
from polymnia.recipe import Recipe

UNKNOWN = "not recorded"


def of(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Each data set of a recipe, those inside of joined ones too: its name, whether it was trained on, its licence."""
    trained = [p for t in (*recipe.stages, *recipe.tasks) for p in t.data]
    scored = [p for t in recipe.watch for p in t.data]
    told: set[str] = set()
    for what, parts in (("trained on", trained), ("scored only", scored)):
        for use in (name for part in parts for name in _names(part)):
            if use not in told:
                told.add(use)
                yield use, what, licence(use)


def licence(use: str) -> str:
    """What the reader of a data set says in its docstring, which is read and not imported."""
    name = use if "." in use else f"polymnia.data.datasets.{use}"
    try:
        spec = importlib.util.find_spec(name)
        source = Path(str(spec.origin)).read_text(encoding="utf-8") if spec else ""
        told = ast.get_docstring(ast.parse(source)) or ""
    except (ImportError, OSError, ValueError, SyntaxError):
        return UNKNOWN
    found = re.search(r"^Licen[cs]e: (.*?)(?:\n\n|\n[A-Z][^\n.]{0,60}: |\Z)", told, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else UNKNOWN


def _names(part: Part) -> Iterator[str]:
    """The part's own name, unless it only joins others: then theirs."""
    inner = [value for _, value in part.config if isinstance(value, Part)]
    if not inner:
        yield part.use
    for value in inner:
        yield from _names(value)
