"""Splits that no one publishes, made from official files: a module a split, found by the name of its file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymnia.config import names, nearest
from polymnia.data.disk import write_text
from polymnia.types import UserError


def build(name: str, root: Path, out: Path | None = None) -> list[str]:
    """Write a split, such as coco-supercategory, from the official files under ``root``; what to tell of it, in lines.

    Raises UserError for an unknown name, files that are missing or broken, and a place that cannot be written to.
    """
    known = [module.replace("_", "-") for module in names("data.builders")]
    if name not in known:
        raise UserError(f"polymnia data build: no '{name}'; {nearest(name, known)}")
    return importlib.import_module(f"polymnia.data.builders.{name.replace('-', '_')}").build(root, out)


def write(folder: Path, files: Mapping[str, Any]) -> list[Path]:
    """Write each value as JSON in one step, if it is not there already.

    Raises UserError for a file of other content (which may be the authors' own), before anything is written.
    """
    texts = {folder / name: json.dumps(value) + "\n" for name, value in files.items()}
    try:
        new = [path for path, text in texts.items() if not path.exists() or path.read_bytes() != text.encode()]
        if taken := [path for path in new if path.exists()]:
            raise UserError(f"{taken[0]} is there already and says something else: move it, or give --out FOLDER")
        folder.mkdir(parents=True, exist_ok=True)
        for path in new:
            write_text(path, texts[path])
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; give --out another folder") from error
    return list(texts)
