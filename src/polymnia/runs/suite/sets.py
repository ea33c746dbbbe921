"""What a suite is: the ``watch`` list of a recipe, each set of which any encoder can be scored on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from polymnia.config import Frozen, explain, nearest
from polymnia.recipe import WatchConfig, override, read
from polymnia.runs.curriculum import is_there
from polymnia.types import MODALITIES, Modality, Pair, UserError

NAME = re.compile(r"[^A-Za-z0-9_.-]+")


class _File(Frozen):
    """The keys of a recipe that say what is scored."""

    watch: tuple[WatchConfig, ...] = Field(min_length=1)
    max_broken: float = Field(0.05, ge=0, le=1)


@dataclass(frozen=True)
class Suite:
    """``max_broken``: the share of a set's items that may be unreadable."""

    name: str
    sets: tuple[WatchConfig, ...]
    max_broken: float = 0.05

    def only(self, names: Sequence[str]) -> Suite:
        """The sets of these names, in the order of the suite. Raises UserError for a name that none has."""
        known = [s.name for s in self.sets]
        for name in names:
            if name not in known:
                raise UserError(f"suite '{self.name}' has no set '{name}'; {nearest(name, known)}")
        return replace(self, sets=tuple(s for s in self.sets if s.name in names)) if names else self


def read_suite(suite: str, recipes: Path, changes: Mapping[str, Any] | None = None) -> Suite:
    """The suite of a paper in ``recipes`` by its name (``audio``), or of a recipe file by its path.

    ``changes``: dotted keys, such as ``watch.AVE.data.max_missing``. Raises UserError for a suite that is not there,
    or a recipe without a ``watch`` list.
    """
    path = Path(suite)
    if path.suffix.lower() not in (".yaml", ".yml"):
        path = recipes / "papers" / suite / "base.yaml"
        if Path(suite).name != suite or not path.is_file():
            known = [p.parent.name for p in recipes.glob("papers/*/base.yaml")]
            raise UserError(f"no suite '{suite}'; {nearest(suite, known)}; or the path of a recipe.yaml")
    raw = read(path)
    raw = override({k: raw[k] for k in _File.model_fields if k in raw}, changes or {})
    if not raw.get("watch"):
        raise UserError(f"{path} has no `watch` list, which says what a suite scores")
    try:
        file = _File.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from error
    names = [s.name for s in file.watch]
    if twice := [n for n in names if names.count(n) > 1]:
        raise UserError(f"{path}: two sets are called '{twice[0]}'; names must differ")
    name = path.parent.name if path.stem == "base" else path.stem
    return Suite(NAME.sub("-", name), file.watch, file.max_broken)


def pairs(cfg: WatchConfig) -> tuple[Pair, ...]:
    """The pairs of modalities whose alignment decides a set's scores; none for a probe, which reads features."""
    found: list[Pair] = []
    for part in cfg.eval:
        if not part.module.PROJECTED:
            continue
        if hasattr(part.config, "template"):
            found.append((part.config.modality, "text"))
        else:
            found += getattr(part.config, "pairs", ()) or cfg.pairs
    return tuple(dict.fromkeys(found))


def needs(cfg: WatchConfig) -> tuple[Modality, ...]:
    """The modalities that an encoder must have a tower for."""
    found = {m for pair in pairs(cfg) for m in pair}
    found |= {part.config.modality for part in cfg.eval if hasattr(part.config, "modality")}
    return tuple(m for m in MODALITIES if m in found)


def check_root(suite: Suite, root: Path) -> None:
    """Raises UserError where no set of the suite lies under ``root``, with the folder to give if one is near."""
    if any(is_there(s, root) for s in suite.sets):
        return
    wanted = dict.fromkeys(str(part.config.root) for s in suite.sets for part in s.data)
    looked = f"suite '{suite.name}' looks for {', '.join(wanted)}"
    if not root.is_dir():
        raise UserError(f"data folder {root} does not exist; {looked} in it: give --data ROOT")
    near = [root.resolve().parent, *sorted(p for p in root.iterdir() if p.is_dir())]
    for folder in near:
        if any(is_there(s, folder) for s in suite.sets):
            off = "deep" if folder == near[0] else "high"
            raise UserError(f"{root} is a folder too {off}: give --data {folder}")
    raise UserError(f"none of the sets is in {root}; {looked}: give --data ROOT, or watch.NAME.data.root=FOLDER")
