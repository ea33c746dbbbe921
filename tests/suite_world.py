"""The sets of the paper in miniature, and a run on two of them with the tiny towers; made once a session."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from paper_world import World

import polymnia as pm
from polymnia.recipe import override

SMALL = {"width": 16, "layers": 1, "out_dim": 16}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="polymnia-suite-")  # removed when the process ends


@functools.cache
def sets() -> Path:
    """The folder of all sets. Do not write into it."""
    return World(Path(_folder().name) / "sets").everything().root


def recipe(data: Path, place: Path, **changes: Any) -> dict[str, Any]:
    """Sounds with films, then with captions. ``changes``: dotted keys with ``__`` for the dot."""
    vggsound = {"use": "vggsound", "root": "VGGSound", "valid": 0}
    raw = {
        "name": "own",
        "data": str(data),
        "cache": str(place / "cache"),
        "out": str(place / "runs"),
        "dim": 16,
        "towers": {
            "audio": {"use": "tiny_audio", "seconds": 0.5, "n_mels": 8, **SMALL},
            "image": {"use": "tiny_image", "size": 16, "fps": 4, "frozen": True, **SMALL, "layers": 2},
            "text": {"use": "tiny_text", "buckets": 64, "frozen": True, **SMALL},
        },
        "heads": {"audio": {"kind": "mlp", "hidden": 16}},
        "train": {"steps": 6, "batch": 4, "lr": 0.05},
        "tasks": [
            {
                "name": "seen",
                "pairs": [["audio", "image"]],
                "data": vggsound,
            },
            {"name": "told", "pairs": [["audio", "text"]], "data": {"use": "clotho", "root": "CLOTHO_v2.1"}},
        ],
    }
    return override(raw, {k.replace("__", "."): v for k, v in changes.items()})


@functools.cache
def finished() -> Path:
    """The folder of the finished run. Do not write into it."""
    return pm.run(recipe(sets(), Path(_folder().name))).folder
