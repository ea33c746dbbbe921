"""The card of a run's encoder, which goes wherever its vectors go."""

from __future__ import annotations

import os
from pathlib import Path

from polymnia.data.disk import read_json
from polymnia.data.names import escape
from polymnia.index.schema import EncoderCard
from polymnia.runs.encoder import Encoder


def card_of(encoder: Encoder, run: Path) -> EncoderCard:
    """Who the encoder is; ``name`` is that of the last task it learned, empty before the first."""
    tasks = read_json(run / "meta.json").get("tasks", [])
    name = tasks[encoder.task - 1]["name"] if 0 < encoder.task <= len(tasks) else ""
    place = escape(os.fsencode(os.path.abspath(run)))
    recipe = encoder.recipe
    made_by = f"{recipe.name}-{recipe.variant}" if recipe.variant else recipe.name
    which = f"{made_by}-s{recipe.seed}"
    return EncoderCard(encoder.signature, encoder.dim, place, encoder.task, name, encoder.model.modalities, which)
