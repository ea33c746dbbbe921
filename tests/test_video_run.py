"""A run on videos: their frames are the pictures and their sound the audio, from a table to an encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from clips import tone
from videos import RATE, film

import polymnia as pm
from polymnia.runs.search import search
from polymnia.types import UserError, VideoFile

SMALL = {"width": 8, "layers": 1, "out_dim": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos, each with a shade and a pitch of its own, one of them without sound, and their table."""
    folder = tmp_path_factory.mktemp("videos")
    rows = ["id,video,split"]
    for n in range(6):
        sounds = [] if n == 5 else [tone(RATE, 1.0, 300.0 + 150 * n)]
        film(folder / f"{n}.mp4", [40 * n + 2 * k for k in range(10)], sounds=sounds)
        rows.append(f"{n},{n}.mp4,{'test' if n % 3 == 2 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def recipe(root: Path, out: Path, **image: Any) -> dict[str, Any]:
    return {
        "name": "films",
        "data": str(root),
        "cache": str(out / "cache"),
        "out": str(out / "runs"),
        "dim": 8,
        "max_broken": 0.5,
        "towers": {
            "audio": {"use": "tiny_audio", "seconds": 0.4, "n_mels": 8, **SMALL},
            "image": {"use": "tiny_image", "size": 16, "frozen": True, **SMALL, **image},
        },
        "train": {"steps": 2, "batch": 2, "lr": 0.003},
        "eval": ["retrieval"],
        "tasks": [{"name": "films", "pairs": [["audio", "image"]], "data": {"use": "manifest", "root": "."}}],
    }


@pytest.mark.parametrize("frames", ["mean", "middle"])
def test_a_run_learns_from_videos_and_leaves_an_encoder_of_them(root: Path, tmp_path: Path, frames: str):
    run = pm.run(recipe(root, tmp_path, fps=5.0, frames=frames))
    (failed,) = (f for t in json.loads((run.folder / "meta.json").read_text())["tasks"] for f in t["failed"])
    assert failed["id"] == "manifest/5" and "5.mp4: has no sound" in str(failed)
    encoder = pm.load(run.folder)
    vectors = encoder.encode_image([root / "0.mp4", VideoFile(root / "3.mp4"), root / "0.mp4"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[2]) and not np.allclose(vectors[0], vectors[1], atol=1e-4)
    soundfile.write(tmp_path / "sound.wav", tone(RATE, 1.0, 600.0), RATE)
    (hit,) = search(run.folder, str(tmp_path / "sound.wav"), "image")
    assert hit.path is not None and hit.path.endswith("2.mp4")


def test_a_tower_that_trains_is_refused_before_it_begins(root: Path, tmp_path: Path):
    raw = recipe(root, tmp_path, frozen=False)
    with pytest.raises(UserError, match="is a video, and a tower cannot learn from the mean.*frozen: true.*middle"):
        pm.run(raw)
    raw["towers"]["image"]["frames"] = "middle"
    assert pm.run(raw).matrix["summary"]
