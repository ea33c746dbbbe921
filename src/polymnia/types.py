"""The nouns that every layer shares. This file imports nothing of ours but the error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from polymnia.errors import AbsentError as AbsentError  # every layer takes them from here
from polymnia.errors import UserError as UserError

Modality = Literal["audio", "image", "text"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
Split = Literal["train", "valid", "test"]
Fit = Literal["square", "resize_crop"]
Frames = Literal["mean", "middle"]
Pair = tuple[Modality, Modality]
Terms = dict[str, Float[Tensor, ""]]


@dataclass(frozen=True, slots=True)
class AudioFile:
    """A recording, or the stretch [start, start + seconds) of one (whole file when ``seconds`` is None)."""

    path: Path
    start: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A picture: an ordinary image file, or row ``index`` of an IDX container (``.gz`` or plain)."""

    path: Path
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Captions:
    """One or more texts that say the same thing; training picks one, evaluation queries with each."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VideoFile:
    """The pictures of a video, or of the stretch [start, start + seconds) of one (to the end when None)."""

    path: Path
    start: float = 0.0
    seconds: float | None = None


Source = AudioFile | ImageFile | VideoFile | Captions


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of a collection. Items of the same ``group`` are positives of each other.

    ``origin`` names the recordings that it was made from, beyond this data set (``youtube:<id>``,
    ``freesound:<id>``): items that share one are the same material, wherever they come from.
    """

    id: str
    sources: Mapping[Modality, Source]
    group: str
    topic: str = ""
    split: Split = "train"
    labels: tuple[str, ...] = ()
    fold: int = 0
    origin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AudioSpec:
    """What an audio tower eats: mono float32 in [-1, 1].

    ``seconds`` is the training crop and the least length (shorter clips are zero-padded);
    evaluation takes whole clips up to ``max_seconds`` (a centred window of longer ones).
    ``min_seconds``: another least length in evaluation, for towers that fill up short clips in their own way.
    """

    sample_rate: int
    seconds: float
    max_seconds: float = 30.0
    min_seconds: float | None = None

    @property
    def samples(self) -> int:
        return round(self.sample_rate * self.seconds)

    @property
    def least(self) -> int:
        """Samples that a clip has at least in evaluation."""
        return self.samples if self.min_seconds is None else max(1, round(self.sample_rate * self.min_seconds))


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What an image tower eats: uint8 (channels, size, size), bicubic.

    ``fit``: the centred ``square`` resized, or the whole picture resized on its short side and then cropped
    (``resize_crop``): CLIP's rule, which differs by a fraction of a pixel.

    Of a video, its features are the ``mean`` of those of ``fps`` frames a second, or it is read as one picture: the
    ``middle`` frame.
    """

    size: int
    channels: int = 3
    fit: Fit = "square"
    fps: float = 1.0
    frames: Frames = "mean"


@dataclass(frozen=True, slots=True)
class TextSpec:
    """What a text tower eats: int64 token ids, at most ``max_tokens`` a row, ``pad_id`` behind shorter ones."""

    max_tokens: int
    pad_id: int = 0


@dataclass(frozen=True, slots=True)
class VectorSpec:
    """What a cached tower eats: the float32 features that a frozen tower gave, computed once."""

    dim: int


Spec = AudioSpec | ImageSpec | TextSpec | VectorSpec


class Task(NamedTuple):
    """A step of a sequence. ``pairs`` are the modality pairs that its objective aligns."""

    name: str
    index: int
    train: tuple[Item, ...]
    valid: tuple[Item, ...]
    test: tuple[Item, ...]
    pairs: tuple[Pair, ...]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(m for m in MODALITIES if any(m in i.sources for i in self.train + self.test))


@dataclass(frozen=True)
class Known:
    """What is known of the rows of an input beside the input itself.

    ``task``: the number of each row's task (from 1; 0: unknown). It is always there in training; under ``.eval()``
    only an oracle may look at it. ``query``: what the tower says of each row without prompts, whole and unaugmented,
    where that was computed before.
    """

    task: Int[Tensor, " b"] | None = None
    query: Float[Tensor, "b o"] | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of one training step. A row may lack a modality: ``rows[m]`` says which rows ``inputs[m]`` holds.

    ``pad`` fills up shorter rows where batches are joined, for modalities where that is not 0 (``TextSpec.pad_id``).
    ``queries[m]``: of each row of ``inputs[m]``, the features of the tower without prompts (see ``Known``).
    """

    inputs: Mapping[Modality, Shaped[Tensor, "_ ..."]]
    rows: Mapping[Modality, Int[Tensor, " _"]]
    group: Int[Tensor, " b"]
    task: Int[Tensor, " b"]
    labels: Float[Tensor, "b c"] | None = None
    pad: Mapping[Modality, int] = field(default_factory=dict)
    queries: Mapping[Modality, Float[Tensor, "_ _"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.group)

    def known(self, modality: Modality) -> Known:
        """What is known of the rows of ``inputs[modality]``."""
        return Known(self.task[self.rows[modality]], self.queries.get(modality))

    def to(self, device: torch.device | str) -> Batch:
        def move(t: Tensor) -> Tensor:
            return t.to(device, non_blocking=True)

        return Batch(
            {m: move(x) for m, x in self.inputs.items()},
            {m: move(x) for m, x in self.rows.items()},
            move(self.group),
            move(self.task),
            None if self.labels is None else move(self.labels),
            self.pad,
            {m: move(q) for m, q in self.queries.items()},
        )

    def cat(self, other: Batch) -> Batch:
        """This batch with the rows of ``other`` behind it; a modality may be in either or in both."""
        inputs: dict[Modality, Tensor] = {}
        rows: dict[Modality, Tensor] = {}
        pad = {**other.pad, **self.pad}
        for m in MODALITIES:
            own = [(self.inputs[m], self.rows[m])] if m in self.inputs else []
            its = [(other.inputs[m], other.rows[m] + len(self))] if m in other.inputs else []
            if own or its:
                inputs[m] = torch.cat(fit([x for x, _ in own + its], pad.get(m, 0)))
                rows[m] = torch.cat([r for _, r in own + its])
        group, task = torch.cat([self.group, other.group]), torch.cat([self.task, other.task])
        return Batch(inputs, rows, group, task, pad=pad, queries=_joined(self, other))


def _joined(one: Batch, other: Batch) -> dict[Modality, Float[Tensor, "_ _"]]:
    """Queries of both, for the modalities where all rows have them."""
    joined: dict[Modality, Tensor] = {}
    for m in (*one.queries, *(m for m in other.queries if m not in one.queries)):
        parts = [b for b in (one, other) if m in b.inputs]
        if all(m in b.queries for b in parts):
            joined[m] = torch.cat([b.queries[m] for b in parts])
    return joined


def fit(tensors: Sequence[Shaped[Tensor, "_ ..."]], pad: int = 0) -> list[Tensor]:
    """Pad the last axis of each tensor to the longest, so that clips or captions of other tasks can be joined."""
    longest = max(t.shape[-1] for t in tensors)
    return [torch.nn.functional.pad(t, (0, longest - t.shape[-1]), value=pad) for t in tensors]


@dataclass(frozen=True)
class Outputs:
    """What the model made of a batch: raw tower features and unit-norm embeddings, rows as in ``Batch.rows``."""

    features: Mapping[Modality, Float[Tensor, "_ _"]]
    embeddings: Mapping[Modality, Float[Tensor, "_ d"]]


@dataclass(frozen=True)
class Table:
    """Vectors of items, row by row; a row per caption for texts. ``encoder`` says who made them."""

    ids: tuple[str, ...]
    vectors: Float[Tensor, "n d"]
    groups: tuple[str, ...]
    topics: tuple[str, ...]
    encoder: str = ""

    def __len__(self) -> int:
        return len(self.ids)


What = Literal["embedding", "features", "scores"]


@runtime_checkable
class Embed(Protocol):
    """The function that evaluators see in place of a model.

    ``features`` are the tower's output, ``embedding`` is projected and of unit norm, ``scores`` are the logits of
    the tower's own classifier (``UserError`` where it has none). Items lacking the modality are an error.
    """

    def __call__(self, items: Sequence[Item], modality: Modality, what: What = "embedding") -> Table: ...


@dataclass(frozen=True)
class EvalData:
    """What an evaluator may look at: the task's items by split, and the test items of all tasks seen so far."""

    train: tuple[Item, ...]
    valid: tuple[Item, ...]
    test: tuple[Item, ...]
    seen: tuple[Item, ...] = ()
    pairs: tuple[Pair, ...] = ()
    names: Mapping[Modality, Sequence[str]] = field(default_factory=dict)  # class names of each tower's own classifier


@runtime_checkable
class Batches(Protocol):
    """A stretch of training batches that can be walked again and again, always in the same order."""

    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...
