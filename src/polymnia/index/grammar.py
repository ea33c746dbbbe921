"""The grammar of filters: SQL with all but a few of its words taken out, and texts of bounded length and depth."""

from __future__ import annotations

from typing import Any

from polymnia.types import UserError

try:
    import sqlglot
    from sqlglot import exp, parser, tokens
    from sqlglot.dialects.dialect import Dialect
    from sqlglot.errors import SqlglotError
    from sqlglot.tokens import TokenType
except ModuleNotFoundError as error:
    raise UserError("filters need sqlglot, which is not installed: pip install 'polymnia[index]'") from error

LONGEST = 4000  # characters
MOST = 1500  # tokens
DEEPEST = 20  # parentheses and signs inside each other
WORDS = ("AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "IS", "NULL")
MAY = "a filter compares columns with =, !=, <, <=, >, >=, IN, BETWEEN, LIKE, IS NULL, joined by AND, OR, NOT"


class Filters(Dialect):
    """SQL without all the words that a filter may not have: ``end`` and ``window`` are columns like others."""

    class Tokenizer(tokens.Tokenizer):
        KEYWORDS = {word: getattr(TokenType, word) for word in WORDS} | {
            "==": TokenType.EQ, ">=": TokenType.GTE, "<=": TokenType.LTE, "<>": TokenType.NEQ, "!=": TokenType.NEQ,
        }  # fmt: skip
        SINGLE_TOKENS = {
            "(": TokenType.L_PAREN, ")": TokenType.R_PAREN, "=": TokenType.EQ, "<": TokenType.LT, ">": TokenType.GT,
            ",": TokenType.COMMA, "-": TokenType.DASH, ".": TokenType.DOT, "'": TokenType.UNKNOWN,
            '"': TokenType.UNKNOWN, "`": TokenType.UNKNOWN, ";": TokenType.SEMICOLON,
        }  # fmt: skip
        IDENTIFIERS = ['"', "`"]
        COMMENTS: list[Any] = []
        COMMANDS: set[Any] = set()

    class Parser(parser.Parser):
        FUNCTIONS: dict[str, Any] = {}
        FUNCTION_PARSERS: dict[str, Any] = {}
        NO_PAREN_FUNCTION_PARSERS: dict[str, Any] = {}
        NO_PAREN_FUNCTIONS: dict[Any, Any] = {}


def parse(text: str) -> exp.Expression:
    """The tree of one condition. Raises UserError for what is none, or is too long or too deep."""
    if not text.strip():
        raise UserError(f"the filter is empty; {MAY}")
    if len(text) > LONGEST:
        raise UserError(f"the filter has {len(text)} characters; at most {LONGEST}")
    try:
        found = Filters().tokenize(text)
        _bounded(found)
        trees = sqlglot.parse(text, read=Filters)
    except (SqlglotError, RecursionError) as error:
        raise UserError(f"the filter {shown(text)} cannot be read; {MAY}, text in 'single quotes'") from error
    if len(trees) != 1 or trees[0] is None:
        raise UserError(f"the filter {shown(text)} is not one condition; {MAY}")
    return trees[0]


def _bounded(found: list[tokens.Token]) -> None:
    """sqlglot calls itself for each of these: before it starts, there must not be too many."""
    depth = deepest = signs = 0
    for token in found:
        depth += (token.token_type == TokenType.L_PAREN) - (token.token_type == TokenType.R_PAREN)
        signs = signs + 1 if token.token_type in (TokenType.DASH, TokenType.NOT) else 0
        deepest = max(deepest, depth, signs)
    if len(found) > MOST or deepest > DEEPEST:
        raise UserError(f"the filter is too long or too deep: at most {MOST} words and {DEEPEST} levels")


def shown(text: str) -> str:
    """A piece of a filter for one line of an error."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    return f"'{line}'" if len(line) <= 60 else f"'{line[:57]}...'"
