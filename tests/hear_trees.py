"""Miniature HEAR tasks in the official layout, and an encoder that reads their labels out of the sound.

A recording is a constant: level k / 16 stands for the classes whose bits are set in k, over the stretch where they
sound. So an analytic encoder knows everything, and one of noise knows nothing.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

RATE = 16000
LABELS = ("dog", "rain", "sea")
BITS = len(LABELS)


class Analytic:
    """Embeddings are the bits of the level: the labels themselves. ``noise``: numbers that know nothing instead."""

    sample_rate = RATE

    def __init__(self, signature: str = "analytic", noise: bool = False):
        self.signature, self.noise = signature, noise
        self.heard = 0  # clips that went through

    def get_scene_embeddings(self, audio: torch.Tensor) -> torch.Tensor:
        self.heard += len(audio)
        return self._bits(audio.amax(1))

    def get_timestamp_embeddings(self, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.heard += len(audio)
        at = torch.arange(0, audio.shape[1], RATE // 20)
        return self._bits(audio[:, at]), (at * 1000.0 / RATE).expand(len(audio), -1)

    def _bits(self, level: torch.Tensor) -> torch.Tensor:
        if self.noise:
            return torch.randn(*level.shape, BITS, generator=torch.Generator().manual_seed(self.heard))
        return ((16 * level).round().long()[..., None] >> torch.arange(BITS) & 1).float()


def bits(labels: list[str]) -> int:
    return sum(1 << LABELS.index(label) for label in labels)


def write_task(root: Path, name: str, files: dict[str, dict[str, Any]], **metadata: Any) -> Path:
    """``files`` of each split: labels (scene) or (label, start, end in ms) (event) of each: 0.25 s or 4 s."""
    task, version, mode = name.rsplit("-", 2)
    folder = root / name
    folder.mkdir(parents=True)
    event = metadata.get("embedding_type") == "event"
    base = {
        "task_name": task,
        "version": version,
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "trainvaltest",
        "sample_duration": 4.0 if event else 0.25,
        "evaluation": ["top1_acc"],
        "mode": mode,
        "splits": list(files),
    }
    (folder / "task_metadata.json").write_text(json.dumps(base | metadata))
    with (folder / "labelvocabulary.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("idx", "label"), *enumerate(LABELS)])
    for split, inside in files.items():
        (folder / str(RATE) / split).mkdir(parents=True)
        content = {}
        for wav, labels in inside.items():
            wave = np.zeros(int(RATE * base["sample_duration"]))
            if event:
                for label, start, end in labels:
                    wave[int(start * RATE / 1000) : int(end * RATE / 1000)] += bits([label]) / 16
                content[wav] = [{"label": x, "start": a, "end": b} for x, a, b in labels]
            else:
                wave[:], content[wav] = bits(labels) / 16, labels
            soundfile.write(folder / str(RATE) / split / wav, wave, RATE, subtype="PCM_16")
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def multiclass(root: Path, name: str = "esc50-v2.0.0-full", **metadata: Any) -> Path:
    """Train, valid and test of one label each."""
    sizes = {"train": 24, "valid": 9, "test": 12}
    splits = {s: {f"{s}{k}.wav": [LABELS[k % BITS]] for k in range(n)} for s, n in sizes.items()}
    return write_task(root, name, splits, **{"evaluation": ["top1_acc", "mAP", "aucroc", "d_prime"], **metadata})


def multilabel(root: Path, name: str = "tags-v1-full", folds: int = 4, **metadata: Any) -> Path:
    """Folds of every set of labels, the empty one too."""
    sets = [[label for k, label in enumerate(LABELS) if n >> k & 1] for n in range(1 << BITS)]
    splits = {f"fold{f:02d}": {f"f{f}-{n}.wav": sets[n] for n in range(len(sets))} for f in range(folds)}
    changed = {"prediction_type": "multilabel", "split_mode": "new_split_kfold", "evaluation": ["mAP"]}
    return write_task(root, name, splits, **{**changed, "nfolds": folds, **metadata})


def events(root: Path, name: str = "dcase2016_task2-hear2021-full", **metadata: Any) -> Path:
    """Two events a recording, on the grid of the encoder's frames."""

    def clip(k: int) -> list[tuple[str, float, float]]:
        start = 200.0 + 50 * (k % 5)
        return [(LABELS[k % BITS], start, start + 500), (LABELS[(k + 1) % BITS], start + 1500, start + 2500)]

    splits = {s: {f"{s}{k}.wav": clip(k) for k in range(n)} for s, n in {"train": 6, "valid": 3, "test": 3}.items()}
    changed = {
        "embedding_type": "event",
        "prediction_type": "multilabel",
        "evaluation": ["event_onset_200ms_fms", "segment_1s_er"],
    }
    return write_task(root, name, splits, **changed | metadata)
