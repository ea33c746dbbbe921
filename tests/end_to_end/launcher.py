"""Runs recipes one after another, each in a process of its own that may be killed.

A process that has imported everything and forks: a real process a run, without two seconds of imports. A line of JSON
on stdin is ``{"recipe": path, "die_at_rename": n}``; answers are the process id, then the exit code. With
``die_at_rename`` the run kills itself right before it puts its n-th file in place. ``{"embed": [run, source, out]}``
embeds instead, three items a part.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  (a second, paid by the first optimizer that a process makes)

import polymnia
import polymnia.runs.embedding.embed  # noqa: F401  (what polymnia.embed_files imports)
import polymnia.runs.study  # noqa: F401  (what polymnia.run imports)


def arm(number: int) -> None:
    seen = 0

    def deadly(rename: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(*args, **more)

        return wrapped

    os.replace, Path.replace = deadly(os.replace), deadly(Path.replace)  # type: ignore[assignment,method-assign]


def run(recipe: str, embed: list[str], die_at_rename: int) -> int:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # stdout is for the answers
    os.nice(10)  # who watches must be quicker
    arm(die_at_rename)
    try:
        if embed:
            polymnia.embed_files(*embed, window=1.0, part=3, batch=4, workers=2)
        else:
            polymnia.run(recipe)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = run(asked.get("recipe", ""), asked.get("embed", []), asked.get("die_at_rename", 0))
            finally:
                os._exit(code)
        print(pid, flush=True)  # noqa: T201
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
