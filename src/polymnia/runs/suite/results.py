"""What a suite leaves: ``RUN/evals/<suite>-after-<k>.json``, one entry a set, each written as soon as it is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polymnia.data.disk import write_text
from polymnia.types import UserError

FORMAT = 1


def place(run: Path, suite: str, after: int) -> Path:
    """The file, in a folder that is there. Raises UserError where that cannot be made."""
    folder = run / "evals"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return folder / f"{suite}-after-{after}.json"


class Results:
    """The file of one encoder and suite, ``path``, which nobody else may write. ``sets``: the entries by name;
    ``facts``: whose they are. Raises UserError for a damaged file."""

    def __init__(self, path: Path, run: Path, suite: str, after: int, encoder: str):
        self.path = path
        self.facts = {"format": FORMAT, "suite": suite, "run": run.resolve().name, "after": after, "encoder": encoder}
        self.sets: dict[str, dict[str, Any]] = self._read() if path.exists() else {}

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT or not all("request" in entry for entry in found["sets"].values()):
                raise ValueError("not written by this version")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.path} is damaged ({error}): delete it; what it held is scored again") from error
        return found["sets"] if found["encoder"] == self.facts["encoder"] else {}

    def done(self, name: str, request: str) -> bool:
        """Whether a set was scored with this encoder, on these items, in this way."""
        return self.sets.get(name, {}).get("request") == request

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Keep the entry of a set; the file is the old or the new one, whenever the process dies."""
        self.sets[name] = entry
        write_text(self.path, json.dumps({**self.facts, "sets": self.sets}, indent=1, allow_nan=False))
