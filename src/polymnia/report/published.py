"""What a paper printed in its tables, and where in a run the same numbers are: ``published.yaml`` beside recipes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from polymnia.config import Frozen, explain, nearest
from polymnia.types import UserError

FILE = "published.yaml"
LARGEST = 1 << 20  # bytes of a file that people write
Group = Literal["audio-text", "audio-visual", "audio"]


class Column(Frozen):
    """A column: ``metric`` of the first task or watched set ``of`` these that is scored on ``data`` and nothing else.

    ``eval``: the evaluator's settings as the paper has them. ``n``: queries (``unit``) of the whole test set.
    ``mean_of``: the mean of other columns instead, where all of them are there. ``in_place_of``: what it stands in
    for, with the data ``here``. A column without ``of`` and ``mean_of`` is one that we have no number for.
    """

    group: Group
    of: tuple[str, ...] = ()
    data: dict[str, Any] = {}
    eval: dict[str, Any] = {}
    metric: str = ""
    n: int | None = None
    unit: str = "clips"
    mean_of: tuple[str, ...] = ()
    in_place_of: tuple[str, ...] = ()
    here: str = ""
    note: str = ""


class PaperRow(Frozen):
    """The paper's values, and the recipe whose runs stand beside them. ``stored``: scored under the stored heads."""

    recipe: str
    values: tuple[float, ...]
    stored: tuple[Group, ...] = ()


class Transfer(Frozen):
    """Rows ``of`` minus the row ``minus``, on the columns of a group; ``words`` are the paper's own."""

    name: str
    group: Group
    of: tuple[str, ...]
    minus: str
    words: str


class PaperTable(Frozen):
    """A table as printed. ``runs``: the least number of runs that its numbers can be the mean of."""

    name: str
    title: str
    runs: int = Field(ge=1)
    columns: tuple[str, ...]
    rows: dict[str, PaperRow]
    stand_ins: tuple[str, ...] = ()
    transfers: tuple[Transfer, ...] = ()

    def value(self, row: str, column: str) -> float:
        return self.rows[row].values[self.columns.index(column)]


class Expected(Frozen):
    """``key`` under ``where`` of a resolved recipe has ``value``, or any where none is given."""

    where: str
    key: str
    value: Any = None
    paper: str

    @property
    def any_value(self) -> bool:
        return "value" not in self.model_fields_set


class Published(Frozen):
    """The tables of a paper. ``slips``: what is off in the paper itself."""

    paper: str
    authors: str
    columns: dict[str, Column]
    stand_ins: dict[str, Column] = {}
    protocol: tuple[Expected, ...] = ()
    tables: tuple[PaperTable, ...]
    slips: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> Published:
        for table in self.tables:
            _known(table.columns, self.columns, f"{table.name}: columns")
            _known(table.stand_ins, self.stand_ins, f"{table.name}: stand_ins")
            for place, name in enumerate(table.columns):
                _known(self.columns[name].mean_of, table.columns[:place], f"{table.name}, {name}: mean_of")
            for name, row in table.rows.items():
                if len(row.values) != len(table.columns):
                    raise ValueError(f"{table.name}, {name}: {len(row.values)} values, {len(table.columns)} columns")
            for transfer in table.transfers:
                _known((*transfer.of, transfer.minus), table.rows, f"{table.name}, {transfer.name}")
            for name in table.stand_ins:
                _known(self.stand_ins[name].in_place_of, table.columns, f"{table.name}, {name}: in_place_of")
        return self

    @property
    def recipes(self) -> list[str]:
        """The recipes that rows are made of, each once."""
        return list(dict.fromkeys(row.recipe for table in self.tables for row in table.rows.values()))


def _known(names: Collection[str], known: Collection[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: no '{name}'; {nearest(name, list(known))}")


def read_published(folder: Path) -> Published:
    """The tables that belong to a folder of recipes. Raises UserError where its ``published.yaml`` is not fit."""
    path = folder / FILE
    raw = read_yaml(path, f"is {folder} a folder of a paper's recipes, such as recipes/papers/audio?")
    try:
        return Published.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from error


def read_yaml(path: Path, question: str) -> dict[str, Any]:
    """A mapping from a file. Raises UserError that ends with ``question`` where there is none to be read."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has more than {LARGEST >> 20} MiB; {question}")
        value = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}; {question}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no mapping of keys; {question}")
    return value
