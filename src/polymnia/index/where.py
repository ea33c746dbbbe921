"""Filters that people write: ``duration < 10 AND topic IN ('rain', 'wind')``.

The text is parsed into a tree, every node of the tree must be on a short list, and what the database gets is written
anew from the tree: nothing of the text itself reaches it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from polymnia.index.grammar import MAY, exp, parse, shown
from polymnia.index.schema import COLUMNS
from polymnia.types import UserError

KINDS = {field.name: "text" if pa.types.is_string(field.type) else "number" for field in COLUMNS}
WHOLE_NUMBERS = {f.name: 2 ** (f.type.bit_width - 1) for f in COLUMNS if pa.types.is_integer(f.type)}
MARKS = {
    exp.EQ: "=", exp.NEQ: "!=", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
}  # fmt: skip
TESTS = {  # what each test is made of: a part that sqlglot knows and this file does not would change its meaning
    exp.In: {"this", "expressions", "negate"},
    exp.Between: {"this", "low", "high", "negate"},
    exp.Like: {"this", "expression", "negate"},
    exp.Is: {"this", "expression", "negate"},
}


@dataclass(frozen=True, slots=True)
class _Side:
    """What stands on one side of a comparison; ``kind``: "text" or "number"."""

    sql: str
    kind: str
    value: int | float | None = None
    column: str | None = None

    def beside(self, *others: _Side) -> str:
        """As SQL in one comparison with these: the database would turn their numbers into the column's type."""
        most = WHOLE_NUMBERS.get(self.column or "")
        numbers = [o.value for o in others if o.value is not None]
        fits = most is None or all(isinstance(n, int) and -most <= n < most for n in numbers)
        return self.sql if fits else f"CAST({self.sql} AS DOUBLE)"


def to_sql(text: str) -> str:
    """A filter as the database is given it. Raises UserError, saying what is wrong, for all but a plain filter."""
    tree = parse(text)
    return _truth(tree, text)


def quoted(text: str) -> str:
    """A text as a literal."""
    return "'" + text.replace("'", "''") + "'"


def column(name: str) -> str:
    """A column's name, which may be a word of SQL."""
    return f"`{name}`"


def among(name: str, values: Collection[str]) -> str:
    """``name IN (...)``; none: a filter that nothing passes."""
    return f"{column(name)} IN ({', '.join(map(quoted, values))})" if values else "false"


def every(*filters: str | None) -> str | None:
    """All of these filters together."""
    given = [f"({f})" for f in filters if f]
    return " AND ".join(given) or None


def _truth(tree: Any, text: str) -> str:
    """What is true or false of a row."""
    if isinstance(tree, exp.Paren):
        return _truth(tree.this, text)
    if isinstance(tree, (exp.And, exp.Or)):
        word = " AND " if isinstance(tree, exp.And) else " OR "
        return "(" + word.join(_truth(part, text) for part in tree.flatten()) + ")"
    if isinstance(tree, exp.Not):
        return f"(NOT {_truth(tree.this, text)})"
    if type(tree) in MARKS:
        return _compared(MARKS[type(tree)], tree.this, tree.expression, text)
    if type(tree) in TESTS and not {k for k, v in tree.args.items() if v} - TESTS[type(tree)]:
        test = _tested(tree, text)
        return f"(NOT {test})" if tree.args.get("negate") else test
    raise UserError(f"the filter {shown(text)} has '{_name(tree)}' where a condition should be; {MAY}")


def _compared(mark: str, left: Any, right: Any, text: str) -> str:
    a, b = _side(left, text), _side(right, text)
    if a.column is None and b.column is None:
        raise UserError(f"the filter {shown(text)} compares no column; {_choice()}")
    _same(a, b)
    return f"{a.beside(b)} {mark} {b.beside(a)}"


def _tested(tree: Any, text: str) -> str:
    name = _side(tree.this, text)
    if name.column is None:
        raise UserError(f"the filter {shown(text)} tests no column; {_choice()}")
    if isinstance(tree, exp.Is):
        if not isinstance(tree.expression, exp.Null):
            raise UserError(f"the filter {shown(text)}: after IS comes NULL or NOT NULL")
        return f"{name.sql} IS NULL"
    if isinstance(tree, exp.In):
        if not tree.expressions:
            raise UserError(f"the filter {shown(text)}: IN takes values, such as topic IN ('rain', 'wind')")
        values = [_literal(e, name, text) for e in tree.expressions]
        return f"{name.beside(*values)} IN ({', '.join(v.sql for v in values)})"
    if isinstance(tree, exp.Between):
        low, high = (_literal(tree.args[end], name, text) for end in ("low", "high"))
        return f"{name.beside(low, high)} BETWEEN {low.sql} AND {high.sql}"
    pattern = _literal(tree.expression, name, text)
    if name.kind != "text":
        raise UserError(f"the filter compares {name.kind} with text: {name.sql} LIKE {shown(pattern.sql)}")
    # In SQL a backslash is a letter as others; the database would take it to protect what follows.
    return f"{name.sql} LIKE " + pattern.sql.replace("\\", "\\\\")


def _literal(tree: Any, name: _Side, text: str) -> _Side:
    value = _side(tree, text)
    if value.column is not None:
        raise UserError(f"the filter {shown(text)}: {name.sql} is tested against values here, not against a column")
    _same(name, value)
    return value


def _side(tree: Any, text: str) -> _Side:
    """A column or a literal."""
    tree = _bare(tree)
    if isinstance(tree, exp.Column):
        return _column(tree, text)
    if isinstance(tree, exp.Literal) and tree.is_string:
        return _Side(quoted(tree.this), "text")
    sign, digits = (-1, tree.this) if isinstance(tree, exp.Neg) else (1, tree)
    if isinstance(digits, exp.Literal) and not digits.is_string:
        return _number(sign, digits.this)
    raise UserError(f"the filter {shown(text)} has '{_name(tree)}' where a column or a value should be; {MAY}")


def _column(tree: exp.Column, text: str) -> _Side:
    if len(tree.parts) != 1 or not isinstance(tree.this, exp.Identifier):
        raise UserError(f"the filter {shown(text)}: '{_name(tree)}' is no column; {_choice()}")
    name = tree.name if tree.name in KINDS else tree.name.lower()
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, 1, 0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"the filter has {shown(tree.name)}, which is no column; {hint}{_choice()}")
    return _Side(column(name), KINDS[name], column=name)


def _number(sign: int, digits: str) -> _Side:
    try:
        value = sign * (int(digits) if digits.isdecimal() else float(digits))
    except ValueError as error:
        raise UserError(f"the filter has {shown(digits)}, which is no number") from error
    if not abs(value) < 2**63:
        raise UserError(f"the filter has the number {digits[:40]}, which is too large")
    value = int(value) if value == int(value) else value
    return _Side(repr(value), "number", value)


def _same(a: _Side, b: _Side) -> None:
    if a.kind != b.kind:
        raise UserError(
            f"the filter compares {a.kind} with {b.kind}: {shown(a.sql)} and {shown(b.sql)}; text is in "
            "'single quotes'"
        )


def _bare(tree: Any) -> Any:
    while isinstance(tree, exp.Paren):
        tree = tree.this
    return tree


def _name(tree: Any) -> str:
    return shown(tree.sql() if isinstance(tree, exp.Expression) else str(tree))[1:-1]


def _choice() -> str:
    return f"columns are {', '.join(KINDS)}"
