"""What a client is told when something is wrong: one plain sentence, and nothing about the server's disk."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from polymnia.data.media import MediaError
from polymnia.index.database import DamagedError, FullError, OvertakenError
from polymnia.serve.service import Unreadable
from polymnia.types import UserError

# What looks like an absolute path; the names of our own routes are no secret and do not come here.
PATH = re.compile(r"(?<![\w/.<])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\":;,<>]+[/\\])+[^\s'\":;,<>]*")
TAIL = r"[^\s'\":;,<>]*"
HIDDEN = "(a file of the server)"
LONGEST = 400


def sentence(error: Exception, secret: Iterable[Path] = ()) -> str:
    """What may be told of an error: its message without paths, on one line. ``secret``: folders that are ours."""
    if unreadable(error):
        return "The index cannot be read or written at the moment; the server's log says more."
    if isinstance(error, MediaError):
        return plain(f"the file cannot be used: {hide(error.reason, secret)}")
    if isinstance(error, UserError):
        return plain(hide(str(error), secret))
    return "Something went wrong on the server; its log says more."


def unreadable(error: Exception) -> bool:
    """Whether the database itself failed: no client can help it, and its messages are full of names of files."""
    return isinstance(error, (Unreadable, DamagedError, FullError, OvertakenError))


def hide(text: str, secret: Iterable[Path] = ()) -> str:
    """A message without line breaks, without paths, and not longer than ``LONGEST``."""
    for folder in [*secret, Path(tempfile.gettempdir()), Path.home(), Path.cwd()]:
        for form in {str(folder), str(folder.resolve())} - {"/", "."}:
            text = re.sub(_bare(form), HIDDEN, re.sub(re.escape(form) + TAIL, HIDDEN, text))
    text = " ".join(PATH.sub(HIDDEN, text).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _bare(form: str) -> str:
    """A pattern of a folder without the slash before it, as object stores write it.

    Of a folder at the top only what is inside is a path: its name alone may be any word.
    """
    bare = form.lstrip("/")
    return rf"(?<![\w/.-]){re.escape(bare)}" + (rf"(?![\w-]){TAIL}" if "/" in bare else f"/{TAIL}")


def plain(said: str) -> str:
    """With a capital at its beginning and one stop at its end."""
    return said[:1].upper() + said[1:].rstrip(".") + ("" if said.endswith(("!", "?")) else ".")
