"""What an export is tried with before it is there: media of the run itself, and some that every tower can take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image
from torch import Tensor

from polymnia.models.tower import AbstractTower
from polymnia.runs.encoding import MediaEncoder
from polymnia.runs.intake import clip, picture, pixels
from polymnia.types import AudioSpec, ImageSpec, Modality, UserError

Probes = Mapping[Modality, list[Any]]
Vectors = Float32[np.ndarray, "n d"]
SHOWN = 3  # of the run's own examples, of each modality
LENGTHS = (0.4, 1.0, 1.7)  # of the training crop
WORDS = (
    "?!",
    "rain",
    "two words",
    "three of them",
    "a dog barks twice, then a door closes",
    "Ein Glockenspiel: hell, schnell & leise!",
    "far " * 300,
)
TOLERANCE = 1e-5  # of a unit vector's numbers, by the same code on the same machine


def probes(encoder: MediaEncoder, run: Path) -> Probes:
    """By modality: examples that the run kept, clips of several lengths, texts up to too long ones, pictures."""
    kept = _kept(run)
    found: dict[Modality, list[Any]] = {}
    for m in encoder.model.modalities:
        tower = encoder.model.tower(m)
        found[m] = [*kept.get(m, ())[:SHOWN], *_made(m, tower)]
    return found


def encode(encoder: Any, inputs: Probes) -> dict[Modality, Vectors]:
    """Vectors of all of them. Files are decoded by whoever encodes."""
    out: dict[Modality, Vectors] = {}
    for m, raw in inputs.items():
        rate = encoder.model.tower("audio").spec.sample_rate if m == "audio" else None
        if m == "audio":
            out[m] = np.concatenate([encoder.encode_audio([r], rate) for r in raw])
        else:
            out[m] = encoder.encode_text(raw) if m == "text" else encoder.encode_image(raw)
    return out


def prepared(encoder: MediaEncoder, modality: Modality, raw: list[Any]) -> list[Shaped[Tensor, "b ..."]]:
    """The same inputs as batches for the tower: all texts or pictures at once, sounds one by one."""
    tower = encoder.model.tower(modality)
    if isinstance(tower.spec, AudioSpec):
        spec = tower.spec
        return [tower.prepare([clip(r, spec.sample_rate, spec)]) for r in raw]
    if isinstance(tower.spec, ImageSpec):
        spec = tower.spec
        return [tower.prepare([pixels(picture(r), spec) for r in raw])]
    return [tower.prepare(raw)]


def compare(
    wanted: Mapping[Modality, Vectors], found: Mapping[Modality, Vectors], tolerance: float, who: str
) -> float:
    """The largest difference of a number. Raises UserError where it is above ``tolerance``, or where rows lack."""
    worst = 0.0
    for m, rows in wanted.items():
        if m not in found or found[m].shape != rows.shape:
            raise UserError(f"{who}: the export has no {m} vectors like the run's; nothing was written")
        apart = float(np.abs(found[m] - rows).max(initial=0))
        if not apart <= tolerance:  # so written that NaN fails, too
            raise UserError(
                f"{who}: the {m} vectors of the export differ from the run's by {apart:.2g}, more than {tolerance:g}; "
                "nothing was written"
            )
        worst = max(worst, apart)
    return worst


def _kept(run: Path) -> dict[Modality, list[Any]]:
    """Media and captions of the examples in a run folder, if it has any."""
    path = run / "examples.json"
    try:
        items = json.loads(path.read_text(encoding="utf-8"))["items"].values()
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
    found: dict[Modality, list[Any]] = {"audio": [], "image": [], "text": []}
    for item in (i for i in items if isinstance(i, dict)):
        for m, files in found.items():
            named = item.get("caption" if m == "text" else m)
            if isinstance(named, str) and named.strip():
                files.append(named if m == "text" else run / named)
    return {m: [f for f in files if isinstance(f, str) or f.is_file()] for m, files in found.items()}


def _made(modality: Modality, tower: AbstractTower) -> list[Any]:
    rng = np.random.default_rng(0)
    spec = tower.spec
    if isinstance(spec, AudioSpec):
        sizes = [max(1, round(min(share * spec.seconds, spec.max_seconds) * spec.sample_rate)) for share in LENGTHS]
        return [(rng.uniform(-0.5, 0.5, n) * np.linspace(1, 0.2, n)).astype(np.float32) for n in sizes]
    if isinstance(spec, ImageSpec):
        return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in ((40, 60, 3), (90, 33, 3))]
    return list(WORDS) if modality == "text" else []
