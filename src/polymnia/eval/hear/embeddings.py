"""Embeddings of a task's recordings, computed once, kept in files that a stopped run finds again.

A batch of recordings is one safetensors file under <cache>/<encoder>/<task>/<split>/; a batch is at most
``BATCH_SECONDS`` of sound, so that memory and what a stop costs are bounded. Embeddings over time are never held
whole: a training step reads its rows from the files.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polymnia.data.disk import replacing
from polymnia.data.media import audio_samples, decode_audio
from polymnia.eval.hear import tasks
from polymnia.eval.hear.tasks import Task
from polymnia.eval.probes.trainer import Features
from polymnia.types import AudioFile, UserError

BATCH_SECONDS = 120.0
IN_MEMORY = 2 << 30  # bytes
Part = tuple[Path, int, int]  # a file, the first row to take from it, and the one behind the last
VECTORS, TIMES = "vectors", "times"


@runtime_checkable
class HearEncoder(Protocol):
    """What the runner sees of an encoder: HEAR's two functions, the rate that they take, and a name.

    ``signature`` names the weights: embeddings of another signature are not reused. Scene embeddings are a row a
    clip; timestamp embeddings a row a clip and moment, and those moments in milliseconds.
    """

    signature: str
    sample_rate: int

    def get_scene_embeddings(self, audio: Float[Tensor, "n s"]) -> Float[Tensor, "n d"]: ...
    def get_timestamp_embeddings(
        self, audio: Float[Tensor, "n s"]
    ) -> tuple[Float[Tensor, "n t d"], Float[Tensor, "n t"]]: ...


class Rows:
    """Embeddings of some recordings as one array of rows that a slice reads from their files; see ``Features``."""

    def __init__(self, parts: Sequence[Part]):
        self.parts = list(parts)
        self.ends = np.cumsum([stop - first for _, first, stop in self.parts]).tolist()
        with _open(self.parts[0][0]) as file:
            self.shape = (self.ends[-1], file.get_slice(VECTORS).get_shape()[1])

    def __getitem__(self, rows: slice) -> Float[Tensor, "k d"]:
        first, stop, _ = rows.indices(self.shape[0])
        found = []
        number = bisect_right(self.ends, first)
        while first < stop:
            path, begin, end = self.parts[number]
            before = self.ends[number] - (end - begin)
            last = min(stop, self.ends[number])
            with _open(path) as file:
                found.append(file.get_slice(VECTORS)[begin + first - before : begin + last - before].float())
            first, number = last, number + 1
        return torch.cat(found) if found else torch.zeros(0, self.shape[1])


@dataclass(frozen=True)
class Embedded:
    """Where the embeddings of a split lie: the file and the rows of each recording, and, of events, its times."""

    parts: dict[str, Part]
    times: dict[str, Float64[np.ndarray, " t"]]


def gather(batches: Sequence[tuple[Path, Sequence[str]]]) -> Embedded:
    """What lies in the files of some batches. Each names its recordings in order."""
    found = Embedded({}, {})
    for path, names in batches:
        with _open(path) as file:
            each = file.get_slice(VECTORS).get_shape()[0] // len(names)
            times = file.get_tensor(TIMES).numpy() if TIMES in file.keys() else None  # noqa: SIM118 (not a dict)
        for k, name in enumerate(names):
            found.parts[name] = (path, k * each, (k + 1) * each)
            if times is not None:
                found.times[name] = times[k]
    return found


def rows(parts: Sequence[Part]) -> Features:
    """The embeddings as rows: in memory if they fit into ``IN_MEMORY`` bytes, else read from the files as needed."""
    lazy = Rows(parts)
    if 4 * lazy.shape[0] * lazy.shape[1] > IN_MEMORY:
        return lazy
    files: dict[Path, Tensor] = {}
    for path, _, _ in parts:
        if path not in files:
            with _open(path) as file:
                files[path] = file.get_tensor(VECTORS)
    return torch.cat([files[path][first:stop] for path, first, stop in parts])


def embed(
    task: Task,
    split: str,
    names: Sequence[str],
    encoder: HearEncoder,
    cache: Path,
    rate: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Embedded:
    """Embed the recordings of a split, or find what an earlier run has embedded.

    ``rate``: read the recordings of this rate and resample. Raises UserError for files that are missing and for
    embeddings that are not finite or not of the agreed shape, MediaError for one that cannot be decoded.
    """
    paths = tasks.audio(task, split, names, rate or encoder.sample_rate)
    folder = cache / encoder.signature / task.name / split
    folder.mkdir(parents=True, exist_ok=True)
    made, done = [], 0
    for batch in _batches(paths, encoder.sample_rate):
        path = folder / f"{_key(batch, rate)}.safetensors"
        if not _sound(path):
            tensors = _embedded(task, _waves(batch, encoder.sample_rate), encoder)
            with replacing(path) as draft:
                save_file(tensors, draft)
        made.append((path, [p.name for p in batch]))
        done += len(batch)
        if progress:
            progress(f"{task.name} {split}", done, len(paths))
    return gather(made)


def _batches(paths: Sequence[Path], rate: int) -> Iterator[list[Path]]:
    """Recordings of one length, in order, at most ``BATCH_SECONDS`` together; one alone may be longer."""
    lengths = [audio_samples(AudioFile(p), rate) for p in paths]
    batch: list[Path] = []
    for k, path in enumerate(paths):
        if batch and (lengths[k] != lengths[k - 1] or (len(batch) + 1) * lengths[k] > BATCH_SECONDS * rate):
            yield batch
            batch = []
        batch.append(path)
    if batch:
        yield batch


def _waves(batch: Sequence[Path], rate: int) -> Float[Tensor, "n s"]:
    waves = [decode_audio(AudioFile(p), rate) for p in batch]
    for path, wave in zip(batch, waves, strict=True):
        if len(wave) != len(waves[0]):
            raise UserError(f"{path} is cut off: {len(wave)} samples, where its header promises {len(waves[0])}")
    return torch.from_numpy(np.stack(waves))


def _key(batch: Sequence[Path], rate: int | None) -> str:
    digest = hashlib.blake2b(f"1 {rate}".encode(), digest_size=12)
    for path in batch:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _embedded(task: Task, audio: Float[Tensor, "n s"], encoder: HearEncoder) -> dict[str, Tensor]:
    if task.kind == "scene":
        vectors, times = encoder.get_scene_embeddings(audio), None
    else:
        vectors, times = encoder.get_timestamp_embeddings(audio)
        if times.shape != vectors.shape[:2]:
            raise UserError(f"{task.name}: embeddings {tuple(vectors.shape)} with times {tuple(times.shape)}")
    if len(vectors) != len(audio) or vectors.ndim != (2 if times is None else 3) or not vectors.isfinite().all():
        raise UserError(f"{task.name}: the encoder gave {tuple(vectors.shape)} for {len(audio)} clips, or no numbers")
    rows = {VECTORS: vectors.detach().flatten(0, -2).float().cpu().contiguous()}
    return rows if times is None else {**rows, TIMES: times.detach().double().cpu().contiguous()}


def _sound(path: Path) -> bool:
    """Whether a file is there and whole: a cut one is made anew."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            return VECTORS in file.keys()  # noqa: SIM118 (not a dict)
    except SafetensorError:
        return False


def _open(path: Path):  # noqa: ANN202 (the library has no name for it)
    return safe_open(path, "pt")
