"""Pickle files of strangers: read as plain data (dicts, lists, texts, bytes, numbers), never run.

A pickle is a program that may import and call anything. Here every instruction is looked at first, and a file that
has one which could import, build or call something is refused whole.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from polymnia.types import UserError

MAX_BYTES = 1 << 28
MAKE_SCALAR = (  # a text, bytes or a number
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
)
OTHERS = (
    "PROTO FRAME STOP MARK POP POP_MARK EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS GET BINGET "
    "LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE"
)
SCALARS = frozenset(MAKE_SCALAR.split())
PLAIN = SCALARS | frozenset(OTHERS.split())


def read_plain(path: Path) -> Any:
    """The value of a pickle of plain containers. UserError for anything else, and above ``MAX_BYTES``."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES:,} bytes: that is not the official file")
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        _refuse_programs(path, raw)
        return _Plain(io.BytesIO(raw)).load()
    except UserError:
        raise
    except Exception as error:  # on hostile bytes the unpickler raises nearly anything
        raise UserError(f"{path}: not a readable pickle ({error}); fetch the file again") from error


def _refuse_programs(path: Path, raw: bytes) -> None:
    kept: dict[int, str] = {}  # the instruction before each value that the pickle remembers
    last = ""
    for count, (code, argument, _) in enumerate(pickletools.genops(raw)):
        if code.name not in PLAIN:
            raise UserError(
                f"{path}: this pickle holds more than plain data (instruction {code.name}{_named(argument)}), which "
                "could run any program, so it is not opened. Take the official file, or save it as dicts, lists and "
                "texts."
            )
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(kept) if argument is None else int(argument)
            if index > count:  # the unpickler makes room for as many values as the index says
                raise UserError(f"{path}: not a readable pickle (index {index} after {count} instructions)")
            kept[index] = last
        elif code.name in ("GET", "BINGET", "LONG_BINGET") and kept.get(int(argument), "NONE") not in SCALARS:
            # lists of lists of lists, each twice the one before: a few bytes that take years to look through. Only
            # directly behind the instruction that made it is a value known to be none.
            raise UserError(f"{path}: this pickle uses a list or dict in several places; save it without")
        if code.name != "FRAME":  # stands between a long text and its index, and changes no value
            last = code.name


def _named(argument: object) -> str:
    return f" {argument}" if isinstance(argument, str) else ""


class _Plain(pickle.Unpickler):
    """Stands behind the check of the instructions: it too imports nothing."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")
