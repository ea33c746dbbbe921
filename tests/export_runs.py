"""Runs whose towers are models of transformers, of a few thousand weights, each made once a session."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import checkpoints
from small_run import small_root
from tiny import tiny

from polymnia.runs.life import Session

KINDS = ("clap", "clip", "ast")


@functools.cache
def transformers_run(kind: str) -> Path:
    """The folder of a run of ``clap``, ``clip`` (with a tiny tower of sound), or ``ast`` and a BERT.

    Do not write into it. ``+vpt`` behind it: with prompts in the towers.
    """
    kind, _, method = kind.partition("+")
    root = small_root() / "transformers" / kind
    changes: dict[str, Any] = {"name": f"{kind}-{method or 'plain'}", "examples": 1, "train__steps": 1}
    changes |= {f"towers__{m}": tower for m, tower in towers(kind, root).items()}
    changes["heads"] = heads(kind)
    if method:
        changes["method"] = [{"use": method}]
    recipe = tiny(small_root() / "shared", root / "runs", **changes)
    recipe = recipe.model_copy(update={"tasks": recipe.tasks[:2]})
    return Session(recipe).go().folder


def towers(kind: str, root: Path) -> dict[str, Any]:
    """Settings of the towers; their checkpoints lie under ``root``."""
    made = root / "checkpoints"
    if kind == "clap":
        model = checkpoints.clap(made / "clap")
        audio = {"use": "clap_audio", "seconds": 1.0, "max_seconds": 3.0}
        return {"audio": {**audio, "model": model, "frozen": False}, "text": texts("clap_text", model, max_tokens=16)}
    if kind == "clip":
        model = checkpoints.clip(made / "clip")
        return {
            "image": {"use": "clip_image", "model": model, "frozen": False},
            "text": texts("clip_text", model, max_tokens=26),
        }
    audio = {"use": "ast", "model": checkpoints.ast(made / "ast"), "seconds": 0.5, "max_seconds": 2.0, "frozen": False}
    return {"audio": audio, "text": texts("sentence", checkpoints.bert(made / "bert"), max_tokens=12)}


def texts(use: str, model: str, **settings: Any) -> dict[str, Any]:
    return {"use": use, "model": model, "frozen": False, **settings}


def heads(kind: str) -> dict[str, Any]:
    """One of every common kind."""
    found: dict[str, Any] = {"audio": {"kind": "mlp", "hidden": 16}, "text": {"kind": "linear"}}
    return found | ({"image": {"kind": "residual"}} if kind == "clip" else {})
