"""Names of files as text: valid UTF-8 on one line, and back to the very bytes that the file system holds.

A file system knows bytes. What is not UTF-8 in them, control characters (C0, DEL, C1, the line and paragraph
separators) and the percent sign are written as ``%XX``, a byte each; all else stands as it is.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

STRANGE = re.compile("[\x00-\x1f%\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # the last: bytes that are no UTF-8


def escape(raw: bytes) -> str:
    """A name as text. ``unescape`` gives the same bytes again; two names never have one text."""
    return STRANGE.sub(_percents, raw.decode("utf-8", "surrogateescape"))


def unescape(text: str) -> bytes:
    """The bytes of the name that ``escape`` wrote. A % without two hexadecimal digits stands for itself."""
    return unquote_to_bytes(text)


def _percents(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape"))
