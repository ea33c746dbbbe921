"""Processes that are started to be killed: see ``launcher.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class Launcher:
    """Starts work, each piece in a process of its own that may be killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("launcher.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, recipe: Path, die_at_rename: int = 0) -> int:
        """The process id of a run."""
        return self._ask(recipe=str(recipe), die_at_rename=die_at_rename)

    def embed(self, run: Path, source: Path, out: Path, die_at_rename: int = 0) -> int:
        """The process id of an `embed`."""
        return self._ask(embed=[str(run), str(source), str(out)], die_at_rename=die_at_rename)

    def wait(self) -> int:
        """The exit code of what was started last."""
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def _ask(self, **asked: Any) -> int:
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self.wait()
