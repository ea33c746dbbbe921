"""Looking into a recipe without a trace: data sets that make their own files make them in a folder that is removed.

Such a data set has, beside ``items(cfg)``, a function ``elsewhere(cfg, folder)``: settings under which it writes into
``folder`` alone.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polymnia.config import Part
from polymnia.data.layout import refuse_neighbour
from polymnia.data.tasks import TaskData
from polymnia.recipe import Recipe
from polymnia.types import UserError

Aside = Callable[[Recipe], Recipe]


@contextmanager
def untouched() -> Iterator[Aside]:
    """A function that gives a recipe whose data can be read without writing beside them, as long as the block lasts.

    Nor is compiled code written beside a user's own modules.
    """
    compiled, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with tempfile.TemporaryDirectory(prefix="polymnia-aside-") as folder:
            yield lambda recipe: _aside(recipe, Path(folder).resolve())
    finally:
        sys.dont_write_bytecode = compiled


def _aside(recipe: Recipe, folder: Path) -> Recipe:
    kinds: dict[str, tuple[TaskData, ...]] = {"stages": recipe.stages, "tasks": recipe.tasks, "watch": recipe.watch}
    return recipe.model_copy(update={k: tuple(_moved(c, recipe.data, folder) for c in v) for k, v in kinds.items()})


def _moved(cfg: TaskData, data: Path, folder: Path) -> TaskData:
    return cfg.model_copy(update={"data": tuple(_own(part, data, folder) for part in cfg.data)})


def _own(part: Part, data: Path, folder: Path) -> Part:
    """A set of the recipe; one whose root is refused before it is read stays where it is, to be refused."""
    try:
        refuse_neighbour(data, part.config.root)
    except UserError:
        return part
    return _elsewhere(part, data, folder)


def _elsewhere(part: Part, above: Path, folder: Path) -> Part:
    """A data set whose own files, and those of the sets that it is made of, go into ``folder``."""
    root = above / part.config.root
    inner = {name: value for name, value in part.config if isinstance(value, Part)}
    changes: dict[str, Any] = {name: _elsewhere(value, root, folder) for name, value in inner.items()}
    if move := vars(part.module).get("elsewhere"):
        own = folder / hashlib.blake2b(f"{part.use} {root.absolute()}".encode(), digest_size=8).hexdigest()
        placed = part.config.model_copy(update={"root": root})
        moved = move(placed, own)
        changes |= {name: value for name, value in moved if value != getattr(placed, name)}
    return part.model_copy(update={"config": part.config.model_copy(update=changes)}) if changes else part
