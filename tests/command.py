"""The real command line, called in this process: what a shell would see."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from typing import NamedTuple
from unittest import mock

from polymnia.cli import main


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error, and nothing else of it."""
        *progress, last = self.err.splitlines()
        assert self.code == 2 and last.startswith("error: ") and "Traceback" not in self.err
        assert not any(line.startswith("error") for line in progress)
        return last


def command(*words: object) -> Said:
    """``polymnia WORDS``."""
    out, err = io.StringIO(), io.StringIO()
    before, code = signal.getsignal(signal.SIGTERM), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with mock.patch.object(sys, "argv", ["polymnia", *map(str, words)]):
                main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, before)
    return Said(code, out.getvalue(), err.getvalue())
