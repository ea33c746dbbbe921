"""A run of three tiny tasks (sounds with pictures, then captions, then pictures) that takes a second."""

from pathlib import Path
from typing import Any

from polymnia.recipe import Recipe, override, validate

WORLD = {"use": "soundworld", "root": ".", "train": 2, "base": 0, "combos": 4, "seconds": 0.5, "size": 16}
TASKS = (("nature", "image"), ("animals", "text"), ("machines", "image"))


def tiny_recipe(shared: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A recipe as plain data. ``shared`` holds what runs may share (the world, caches), ``out`` the run folders.

    ``changes`` are dotted keys with ``__`` for the dot: ``train__steps=3``.
    """
    raw: dict[str, Any] = {
        "name": "tiny",
        "data": str(shared / "data"),
        "cache": str(shared / "cache"),
        "out": str(out),
        "synthetic": True,
        "dim": 16,
        "towers": {
            "audio": {"use": "tiny_audio", "seconds": 0.4, "n_mels": 8, "width": 16, "layers": 1, "out_dim": 20},
            "image": {"use": "tiny_image", "size": 16, "width": 4, "layers": 2, "out_dim": 16, "frozen": True},
            "text": {"use": "tiny_text", "width": 16, "layers": 1, "buckets": 64, "out_dim": 16, "frozen": True},
        },
        "heads": {"audio": {"kind": "mlp", "hidden": 16}},
        "train": {"steps": 4, "batch": 4, "lr": 0.01, "weight_decay": 0.01, "clip": 1.0},
        "eval": ["retrieval"],
        "tasks": [
            {"name": domain, "pairs": [["audio", other]], "data": {**WORLD, "domains": [domain]}}
            for domain, other in TASKS
        ],
    }
    return override(raw, {key.replace("__", "."): value for key, value in changes.items()})


def tiny(shared: Path, out: Path, **changes: Any) -> Recipe:
    """The same, validated."""
    return validate(tiny_recipe(shared, out, **changes))
