"""Hand-made folders of finished runs of the audio paper's recipes, with scores that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymnia.recipe import Recipe, parse_overrides, plan

PAPER = Path(__file__).parents[1] / "recipes/papers/audio"
MINI = PAPER / "mini.yaml"
Scores = Mapping[str, Mapping[str, float]]  # task or watched set -> metric -> value after the last task


def recipe_of(file: str, seed: int = 0, variant: str = "", *, mini: bool = False, **changes: Any) -> Recipe:
    """One run of ``file``.yaml; dotted keys are written with two underscores."""
    over = parse_overrides([], [MINI] if mini else [])
    over |= {k.replace("__", "."): v for k, v in changes.items()} | {"seeds": [seed]}
    return next(r for r in plan(PAPER / f"{file}.yaml", over) if r.variant == variant)


def write_run(
    root: Path,
    recipe: Recipe,
    scores: Scores,
    stored: Scores | None = None,
    counts: Mapping[str, str] | None = None,
    **meta: Any,
) -> Path:
    """The folder of a run with these scores under the latest heads, and others under the stored ones where given."""
    folder = root / recipe.folder.name
    folder.mkdir(parents=True)
    tasks = [t.name for t in recipe.tasks]
    heads = {"latest": scores, "stored": {**scores, **(stored or {})}}
    before: list[float | None] = [None] * len(tasks)
    values = {h: {n: {k: [*before, v] for k, v in m.items()} for n, m in s.items()} for h, s in heads.items()}
    about = {"name": recipe.name, "variant": recipe.variant, "seed": recipe.seed, "finished": "2026-09-01T10:00:00"}
    matrix = {"tasks": tasks, "rows": list(range(len(tasks) + 1)), "values": values, "counts": dict(counts or {})}
    (folder / "recipe.yaml").write_text(recipe.dump())
    (folder / "meta.json").write_text(json.dumps({**about, "fingerprint": "0f", **meta}))
    (folder / "matrix.json").write_text(json.dumps(matrix))
    return folder
