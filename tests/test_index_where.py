"""Filters: of any text comes a UserError, or a filter that the database takes and that means what it says."""

from __future__ import annotations

import functools
import re
import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from index_rows import card, rows, unit

from polymnia.index.store import Index
from polymnia.index.where import KINDS, to_sql
from polymnia.types import UserError

TOPICS = ["rain", "wind", "it's", "100%", "a_b", "a\\b", "", "é ☂", None]
TIMES = [0.0, 0.5, 1.0, 2.5, 10.0, None]


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="polymnia-where-")


@functools.cache
def small() -> tuple[Index, list[dict[str, Any]]]:
    """An index of sixty rows with nulls, and the rows."""
    draw = np.random.default_rng(7)
    said = {
        "topic": [TOPICS[i] for i in draw.integers(len(TOPICS), size=60)],
        "caption": [TOPICS[i] for i in draw.integers(len(TOPICS), size=60)],
        "duration": [TIMES[i] for i in draw.integers(len(TIMES), size=60)],
        "end": [TIMES[i] for i in draw.integers(len(TIMES), size=60)],
        "window": [int(i) for i in draw.integers(-1, 3, size=60)],
        "bytes": [int(i) * 10**9 for i in draw.integers(0, 4, size=60)],
    }
    index = Index.create(_folder().name + "/index", card())
    index.add([rows([f"i{n}" for n in range(60)], unit(60), **said)], card())
    return index, index.get(ids=[f"i{n}" for n in range(60)]).to_pylist()


# --- any text


PIECES = st.sampled_from(
    [*KINDS, "vector", "AND", "or", "NOT", "IN", "between", "LIKE", "IS", "NULL", "=", "<", ">=", "!=", "(", ")", ",",
     "'a'", "'", '"', "`", "''", "1", "-2.5", "1e999", ".", ";", "--", "/*", "*", "SELECT", "UNION", "lower(", "CAST",
     "x'00'", "\\", "%", "{{", "@", "?", ":", "#", "\x00", "\n", "é", "true", "id = 'a'", "window < 3"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=14).map(" ".join)))
@example("id = 'a'; DROP TABLE items")
@example("1 = 1 OR id = 'a'")
@example("duration BETWEEN SYMMETRIC 3 AND 1")
@example("topic LIKE 'a' ESCAPE 'a'")
@example("(" * 5000)
@example("NOT " * 900 + "id = 'a'")
@example("id = " + "-" * 3000 + "1")
@example(" AND ".join(["id = 'a'"] * 300))
@example("bytes = " + "9" * 3000)
def test_any_text_is_refused_or_is_a_filter_that_the_database_takes(text: str):
    index, _ = small()
    try:
        count = index.count(text)
    except UserError as error:
        assert "damaged" not in str(error) and "\n" not in str(error)
    else:
        assert 0 <= count <= 60


# --- what it means


def truth(tree: Any, row: dict[str, Any]) -> bool | None:
    """SQL's three values, from the tree that a filter was written from."""
    kind, *parts = tree
    if kind in ("and", "or"):
        values = [truth(part, row) for part in parts]
        decisive = kind == "or"
        return decisive if decisive in values else (None if None in values else not decisive)
    if kind == "not":
        inner = truth(parts[0], row)
        return None if inner is None else not inner
    value = row[parts[0]]
    if kind == "null":
        return value is None
    return None if value is None else bool(holds(kind, value, *parts[1:]))


def holds(kind: str, value: Any, *given: Any) -> bool:
    if kind == "in":
        return value in given[0]
    if kind == "between":
        return given[0] <= value <= given[1]
    if kind == "like":
        pattern = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in given[0])
        return re.fullmatch(pattern, value, re.DOTALL) is not None
    other = given[0]
    return {"=": value == other, "!=": value != other, "<": value < other, "<=": value <= other,
            ">": value > other, ">=": value >= other}[kind]  # fmt: skip


def literal(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def written(tree: Any) -> str:
    kind, *parts = tree
    if kind in ("and", "or"):
        return "(" + f" {kind} ".join(map(written, parts)) + ")"
    if kind == "not":
        return f"not ({written(parts[0])})"
    name, *given = parts
    if kind == "null":
        return f"{name} IS NULL"
    if kind == "in":
        return f"{name} IN ({', '.join(map(literal, given[0]))})"
    if kind == "between":
        return f"{name} BETWEEN {literal(given[0])} AND {literal(given[1])}"
    return f"{name} {kind} {literal(given[0])}" if kind != "like" else f'"{name}" LIKE {literal(given[0])}'


TEXTS = st.one_of(st.sampled_from([t for t in TOPICS if t is not None]), st.text("ab%_\\'é", max_size=4))
NUMBERS = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.5, -1.0]), st.integers(-2, 3), st.just(2 * 10**9))
MARKS = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])


def leaves(names: list[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    name = st.sampled_from(names)
    return st.one_of(
        st.tuples(MARKS, name, values),
        st.tuples(st.just("in"), name, st.lists(values, min_size=1, max_size=3).map(tuple)),
        st.tuples(st.just("between"), name, values, values),
        st.tuples(st.just("null"), name),
    )


WORDS = st.sampled_from(["topic", "caption"])
LEAVES = st.one_of(
    leaves(["topic", "caption", "id"], TEXTS),
    leaves(["duration", "end", "window", "bytes"], NUMBERS),
    st.tuples(st.just("like"), WORDS, TEXTS),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.tuples(st.sampled_from(["and", "or"]), inner, inner), st.tuples(st.just("not"), inner)),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_a_filter_passes_the_rows_that_it_says(tree: Any):
    index, all_rows = small()
    passed = {key for batch in index.rows(["key"], written(tree)) for key in batch.column("key").to_pylist()}
    assert passed == {row["key"] for row in all_rows if truth(tree, row)}


@pytest.mark.parametrize(
    ("text", "same"),
    [("topic NOT LIKE 'ra%'", "not topic like 'ra%'"), ("topic NOT IN ('rain')", "not topic in ('rain')"),
     ("duration NOT BETWEEN 1 AND 2", "not duration between 1 and 2"), ("topic IS NOT NULL", "not topic is null"),
     ("DURATION < 1", "duration < 1"), ("1 > duration", "duration < 1"), ("duration <> 1", "duration != 1"),
     ("`end` >= .5", "end >= 0.5"), ("(((window))) = -1", "window = -1")],
)  # fmt: skip
def test_ways_to_say_the_same_find_the_same(text: str, same: str):
    index, _ = small()
    assert 0 < index.count(text) == index.count(same) < 60


def test_a_column_may_be_compared_with_another():
    index, all_rows = small()
    both = [r for r in all_rows if None not in (r["duration"], r["end"])]
    assert index.count("duration < end") == sum(r["duration"] < r["end"] for r in both) > 0


# --- what is wrong with others


@pytest.mark.parametrize(
    ("text", "message"),
    [("dur < 3", "has 'dur', which is no column; did you mean 'duration'? columns are key, id, "),
     ("vector = 1", "'vector', which is no column"), ("", "empty"), ("topic = rain", "'rain', which is no column"),
     ("duration < 'x'", "compares number with text"), ("topic > 3", "compares text with number"),
     ("duration LIKE '1%'", "compares number with text"), ("1 = 1", "compares no column"),
     ("items.id = 'a'", "'items.id' is no column"), ("id = 'a' -- all", "where a column or a value should be"),
     ("id = lower('A')", "has 'LOWER('A')' where a"), ("topic = 'rain", "cannot be read"),
     ("topic IN ()", "IN takes values"),
     ("id = 'a'; id = 'b'", "not one condition"), ("topic", "'topic' where a condition should be"),
     ("topic IS 'rain'", "after IS comes NULL"), ("topic IN (caption)", "not against a column"),
     ("duration < 1e999", "too large"), ("bytes = 9223372036854775808", "too large"), ("x" * 4001, "4001 characters"),
     ("(" * 21 + "id = 'a'" + ")" * 21, "too deep"), ("duration BETWEEN SYMMETRIC 2 AND 1", "cannot be read|where a")],
)  # fmt: skip
def test_what_is_no_filter_is_refused_with_what_would_be(text: str, message: str):
    with pytest.raises(UserError, match=re.escape(message) if "|" not in message else message):
        to_sql(text)
