"""Batches by number: every random choice is a function of (seed, task, epoch, index), so a run resumes anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from polymnia.data.augment import AugmentConfig
from polymnia.data.collection import Collection
from polymnia.types import Batch, Captions, Item, Modality, Task, TextSpec

Prepare = Callable[[Sequence[Any]], Tensor]
Unit = tuple[int, int | None]  # an item's place, and which caption (None: drawn)


@runtime_checkable
class StepBatches(Protocol):
    """Batches that can be had by step number, epoch after epoch."""

    @property
    def clean_batches(self) -> int: ...
    def __len__(self) -> int: ...
    def batch(self, step: int) -> Batch: ...
    def clean(self, number: int) -> Batch: ...


@lru_cache(maxsize=65536)
def group_number(group: str) -> int:
    """A group's name as a number that is the same in every process and run."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=7).digest(), "big")


class Loader:
    """The training batches of one task. The last, smaller batch of an epoch is dropped; a small task is one batch.

    With ``augment.captions: pairs`` an epoch goes through the (item, caption) pairs instead of the items.
    """

    def __init__(
        self,
        task: Task,
        collection: Collection,
        prepare: Mapping[Modality, Prepare],
        modalities: Sequence[Modality],
        batch: int,
        seed: int,
        augment: AugmentConfig,
        tags: Sequence[str] = (),
    ):
        self.task, self.collection, self.prepare = task, collection, prepare
        self.modalities = tuple(modalities)
        self.units = _units(task.train, augment.captions == "pairs" and "text" in modalities)
        self.size = min(batch, len(self.units))
        self.seed, self.augment = seed, augment
        self.tags = {t: i for i, t in enumerate(tags)}
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.units) // self.size

    @property
    def clean_batches(self) -> int:
        """Batches of ``clean``, the smaller last one included."""
        return -(-len(self.task.train) // self.size)

    def batch(self, step: int) -> Batch:
        """The batch of a training step, augmented."""
        epoch, number = divmod(step, len(self))
        order = self._permutation(epoch, len(self.units))[number * self.size : (number + 1) * self.size]
        return self._collate([self.units[u] for u in order], order, epoch)

    def clean(self, number: int) -> Batch:
        """A batch without augmentation, in the order of epoch 0; together they hold every training item once."""
        order = self._permutation(0, len(self.task.train))[number * self.size : (number + 1) * self.size]
        return self._collate([(int(i), None) for i in order], order, None)

    def _permutation(self, epoch: int, size: int) -> np.ndarray:
        if self._order is None or (self._order[0], len(self._order[1])) != (epoch, size):
            rng = np.random.default_rng([self.seed, self.task.index, epoch])
            self._order = (epoch, rng.permutation(size))
        return self._order[1]

    def _collate(self, units: Sequence[Unit], order: np.ndarray, epoch: int | None) -> Batch:
        items = [self.task.train[i] for i, _ in units]
        rngs: list[np.random.Generator | None] = [
            None if epoch is None else np.random.default_rng([self.seed, self.task.index, epoch, int(i)])
            for i in order
        ]
        inputs: dict[Modality, Tensor] = {}
        rows: dict[Modality, Tensor] = {}
        queries: dict[Modality, Tensor] = {}
        for m in self.modalities:
            have = [n for n, item in enumerate(items) if m in item.sources]
            if have:
                raw = [self.collection.train_raw(items[n], m, self.augment, rngs[n], units[n][1]) for n in have]
                inputs[m] = self.prepare[m]([x for x, _ in raw])
                rows[m] = torch.tensor(have)
                if (asked := self.collection.queries.get(m)) is not None:
                    at = [asked.rows[items[n].id][place] for n, (_, place) in zip(have, raw, strict=True)]
                    queries[m] = torch.from_numpy(asked.values[at])
        group = torch.tensor([group_number(i.group) for i in items])
        task = torch.full((len(items),), self.task.index)
        return Batch(inputs, rows, group, task, self._labels(items), self._pad(), queries)

    def _pad(self) -> dict[Modality, int]:
        ids = {m: s for m, s in self.collection.specs.items() if m not in self.collection.vectors}
        return {m: s.pad_id for m, s in ids.items() if isinstance(s, TextSpec)}

    def _labels(self, items: Sequence[Item]) -> Tensor | None:
        if not self.tags:
            return None
        labels = torch.zeros(len(items), len(self.tags))
        for n, item in enumerate(items):
            labels[n, [self.tags[t] for t in item.labels if t in self.tags]] = 1.0
        return labels


def _units(items: Sequence[Item], pairs: bool) -> list[Unit]:
    """What an epoch goes through: items, or items with each of their captions."""
    counts = [len(s.texts) if pairs and isinstance(s := i.sources.get("text"), Captions) else 0 for i in items]
    return [(n, caption) for n, count in enumerate(counts) for caption in (range(count) if count else [None])]


class Interleaved:
    """The batches of several tasks in one shuffled order: what a joint run sees."""

    def __init__(self, loaders: Sequence[Loader], seed: int):
        self.loaders, self.seed = loaders, seed
        self._owner = [(n, i) for n, loader in enumerate(loaders) for i in range(len(loader))]
        self._clean = [(n, i) for n, loader in enumerate(loaders) for i in range(loader.clean_batches)]

    @property
    def clean_batches(self) -> int:
        return len(self._clean)

    def __len__(self) -> int:
        return len(self._owner)

    def batch(self, step: int) -> Batch:
        epoch, number = divmod(step, len(self))
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self))
        which, i = self._owner[order[number]]
        return self.loaders[which].batch(epoch * len(self.loaders[which]) + i)

    def clean(self, number: int) -> Batch:
        which, i = self._clean[number]
        return self.loaders[which].clean(i)


class Clean:
    """One pass over the training items without augmentation, the same each time (for ``end_task``)."""

    def __init__(self, loader: StepBatches, device: torch.device):
        self.loader, self.device = loader, device

    def __len__(self) -> int:
        return self.loader.clean_batches

    def __iter__(self) -> Iterator[Batch]:
        return (self.loader.clean(i).to(self.device) for i in range(len(self)))


class _Steps(Dataset):
    def __init__(self, loader: StepBatches):
        self.loader = loader

    def __getitem__(self, step: int) -> Batch:
        return self.loader.batch(step)


def stream(loader: StepBatches, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """The batches of steps start .. stop, decoded ahead by ``workers`` processes (0: in this one)."""
    if not workers:
        return (loader.batch(step) for step in range(start, stop))
    return iter(
        DataLoader(
            _Steps(loader),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            collate_fn=_same,
            # A forked worker can hang inside codec libraries that hold locks; spawn costs two seconds once.
            multiprocessing_context="spawn",
        )
    )


def _same(batch: Batch) -> Batch:
    return batch
