"""A finished run of two tiny tasks after two first stages, made once a session, and read by several test files."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import polymnia as pm
from polymnia.recipe import Recipe, validate

WORLD = {"use": "soundworld", "root": ".", "train": 3, "valid": 0, "base": 1, "combos": 4, "seconds": 0.5, "size": 16}
STAGES = [
    {"name": "seen", "learn": ["image", "text"], "pairs": [["image", "text"]]},
    {"name": "heard", "learn": ["audio"], "objective": {"kind": "tags"}},
]


def small_recipe(root: Path, **changes: Any) -> dict[str, Any]:
    """The recipe as plain data; everything it writes lies under ``root``. ``changes`` replace whole keys."""
    small = {"width": 16, "layers": 1, "out_dim": 16}
    return {
        "name": "small",
        "data": str(root / "data"),
        "cache": str(root / "cache"),
        "out": str(root / "runs"),
        "synthetic": True,
        "dim": 16,
        "towers": {
            "audio": {"use": "tiny_audio", "seconds": 0.4, "n_mels": 8, **small},
            "image": {"use": "tiny_image", "size": 16, "frozen": True, **small, "layers": 2},
            "text": {"use": "tiny_text", "buckets": 64, "frozen": True, **small},
        },
        "heads": {"audio": {"kind": "mlp", "hidden": 16}},
        "train": {"steps": 4, "batch": 6, "lr": 0.003},
        "eval": ["retrieval"],
        "stages": [{**stage, "data": {**WORLD, "part": "base"}} for stage in STAGES],
        "tasks": [
            {"name": "seas", "pairs": [["audio", "image"]], "data": {**WORLD, "domains": ["nature"]}},
            {"name": "tunes", "pairs": [["audio", "text"]], "data": {**WORLD, "domains": ["music"]}},
        ],
        "method": [{"use": "lwf", "weight": 0.3}],
        **changes,
    }


def small(root: Path, **changes: Any) -> Recipe:
    """The same, validated."""
    return validate(small_recipe(root, **changes))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="polymnia-small-")  # removed when the process ends


@functools.cache
def small_run() -> Path:
    """The folder of the finished run. Do not write into it; ``small_root`` is where its data lie."""
    return pm.run(small_recipe(small_root())).folder


def small_root() -> Path:
    return Path(_folder().name)
