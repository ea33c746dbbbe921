"""Items to tables in one pass: the only road from media to vectors, shared by evaluation, caching and search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from polymnia.continual.method import AbstractMethod
from polymnia.data.collection import Collection, Vectors
from polymnia.data.video import averaged
from polymnia.embed.frames import mean_over_frames
from polymnia.models.model import Model
from polymnia.models.tower import AbstractTower
from polymnia.types import AudioSpec, Captions, Item, Known, Modality, Table, UserError, What

Units = Sequence[tuple[Item, int]]  # an item, and which of its captions
Forward = Callable[[Tensor, Units | None], Tensor]
LONG = 8  # a batch of long clips holds at most as many samples as `batch` clips of LONG training crops


class Embedder:
    """The function ``embed(items, modality, what)`` over a model as it is now.

    ``raw`` are the true towers behind cached ones. ``head``: use the heads stored after that task number instead of
    the current ones. ``tasks``: the number of an item's task, for an oracle. Features are computed once for the same
    items, whatever head or evaluator asks.
    """

    def __init__(
        self,
        model: Model,
        method: AbstractMethod,
        collection: Collection,
        raw: Mapping[Modality, AbstractTower],
        batch: int = 64,
        encoder: str = "",
        tasks: Mapping[str, int] | None = None,
    ):
        self.model, self.method, self.collection, self.raw = model, method, collection, raw
        self.batch, self.encoder, self.tasks = batch, encoder, tasks or {}
        self.head: int | None = None
        self._memo: dict[tuple[Modality, str], Tensor] = {}  # features of one item, a row a caption

    def with_head(self, head: int | None) -> Embedder:
        """The same embedder, sharing its features, with other heads."""
        other = Embedder(self.model, self.method, self.collection, self.raw, self.batch, self.encoder, self.tasks)
        other.head, other._memo = head, self._memo
        return other

    @torch.no_grad()
    def __call__(self, items: Sequence[Item], modality: Modality, what: What = "embedding") -> Table:
        """A table with a row an item (a row a caption for text), in the items' order."""
        lacking = [i.id for i in items if modality not in i.sources]
        if lacking or not items:
            raise UserError(f"cannot embed {modality} of {lacking[:3] or 'no items'}")
        was_training = self.model.training
        self.model.eval(), self.method.eval()
        vectors = self._features(items, modality)
        if what == "embedding":
            vectors = self.model.project(modality, vectors.to(_device(self.model)), self.head).cpu()
        elif what == "scores":
            tower = self.raw.get(modality, self.model.tower(modality))
            vectors = tower.classify(vectors.to(_device(self.model))).cpu()
        self.model.train(was_training), self.method.train(was_training)
        rows = [i for i in items for _ in range(_rows(i, modality))]
        return Table(
            tuple(i.id for i in rows),
            vectors.float(),
            tuple(i.group for i in rows),
            tuple(i.topic for i in rows),
            self.encoder,
        )

    def _features(self, items: Sequence[Item], modality: Modality) -> Float[Tensor, "n o"]:
        new = list({i.id: i for i in items if (modality, i.id) not in self._memo}.values())
        if new:
            counts = [_rows(i, modality) for i in new]
            found = self._compute(new, modality).split(counts)
            self._memo |= {(modality, i.id): rows for i, rows in zip(new, found, strict=True)}
        return torch.cat([self._memo[modality, i.id] for i in items])

    def _compute(self, items: Sequence[Item], modality: Modality) -> Float[Tensor, "n o"]:
        cached, collection = self.collection.vectors.get(modality), self.collection
        halves = self.raw[modality].split() if modality in self.raw else None
        whole = cached is not None and all(i.id in cached.rows for i in items)
        if cached is not None and halves is None:
            if whole:
                return torch.from_numpy(cached.values[[r for i in items for r in cached.rows[i.id]]])
            tower = self.raw[modality]  # texts made on the fly, such as class names
            return run_tower(tower, _plain(tower), replace(collection, vectors={}), items, modality, self.batch)
        if cached is not None and halves is not None and not whole:
            collection = replace(collection, vectors={modality: self._fronted(halves[0], items, modality)})

        def forward(x: Tensor, units: Units | None) -> Tensor:
            return self.method.features(self.model, modality, x, self._known(modality, units, x.device))

        return run_tower(self.model.tower(modality), forward, collection, items, modality, self.batch)

    def _fronted(self, front: AbstractTower, items: Sequence[Item], modality: Modality) -> Vectors:
        """What a tower's frozen front gives of items that were not there before."""
        plain = replace(self.collection, vectors={})
        values = run_tower(front, _plain(front), plain, items, modality, self.batch).numpy()
        return Vectors({item.id: (n,) for n, item in enumerate(items)}, values)

    def _known(self, modality: Modality, units: Units | None, device: torch.device) -> Known:
        if units is None:  # frames of a video
            return Known()
        asked = self.collection.queries.get(modality)
        task = torch.tensor([self.tasks.get(item.id, 0) for item, _ in units], device=device)
        if asked is None or any(item.id not in asked.rows for item, _ in units):
            return Known(task)
        at = [asked.rows[item.id][n] for item, n in units]
        return Known(task, torch.from_numpy(asked.values[at]).to(device))


def _plain(tower: AbstractTower) -> Forward:
    return lambda x, _: tower(x)


def run_tower(
    tower: AbstractTower,
    forward: Forward,
    collection: Collection,
    items: Sequence[Item],
    modality: Modality,
    batch: int,
) -> Float[Tensor, "n o"]:
    """Features of items: whole clips in batches of equal length, captions in batches of like length.

    ``forward`` is given a batch and what its rows are: items, and which of their captions (None: frames of videos).
    Of a video, where the tower's spec says so, the mean of the features of its frames.
    """
    units = [(i, n) for i in items for n in range(_rows(i, modality))]
    out: Tensor | None = None
    with torch.no_grad():
        for chosen, features in _computed(tower, forward, collection, units, modality, batch):
            if out is None:
                out = torch.empty(len(units), features.shape[1])
            out[chosen] = features
    assert out is not None
    return out


def _computed(
    tower: AbstractTower,
    forward: Forward,
    collection: Collection,
    units: list[tuple[Item, int]],
    m: Modality,
    batch: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """Features, batch by batch, and the positions of their units."""
    device = _device(tower)

    def encode(raw: Sequence[object], of: Units | None = None) -> Tensor:
        return forward(tower.prepare(raw).to(device), of).float().cpu()

    videos = {u: i.sources[m] for u, (i, _) in enumerate(units) if averaged(i.sources[m], tower.spec)}
    if videos:
        yield list(videos), mean_over_frames(encode, list(videos.values()), tower.spec, batch)  # type: ignore[arg-type]
    still = [u for u in range(len(units)) if u not in videos]
    for chosen in _batches([units[u] for u in still], collection, m, batch):
        of = [units[still[c]] for c in chosen]
        yield [still[c] for c in chosen], encode([_raw(collection, *unit, m) for unit in of], of)


def _rows(item: Item, modality: Modality) -> int:
    source = item.sources[modality]
    return len(source.texts) if isinstance(source, Captions) else 1


def _raw(collection: Collection, item: Item, n: int, modality: Modality) -> object:
    if modality in collection.vectors:
        return collection.vectors[modality].values[collection.vectors[modality].rows[item.id][n]]
    if modality == "text":
        return collection.captions(item)[n]
    return collection.clip(item) if modality == "audio" else collection.picture(item)


def _batches(units: list[tuple[Item, int]], collection: Collection, m: Modality, batch: int) -> Iterator[list[int]]:
    """Positions of units, batch by batch: equal lengths for audio (padding would change a clip's vector)."""
    waves = m == "audio" and m not in collection.vectors
    if m == "image" or m in collection.vectors:
        sizes = [0] * len(units)
    elif waves:
        sizes = [collection.clip_length(item) for item, _ in units]
    else:
        sizes = [len(collection.captions(item)[n]) for item, n in units]
    order = sorted(range(len(units)), key=lambda u: (sizes[u], u))
    spec = collection.specs.get(m)
    crop = spec.samples if isinstance(spec, AudioSpec) else 1
    start = 0
    while start < len(order):
        size = sizes[order[start]]
        room = max(1, min(batch, LONG * batch * crop // size)) if waves else batch
        stop = start
        while stop < len(order) and stop - start < room and (not waves or sizes[order[stop]] == size):
            stop += 1
        yield order[start:stop]
        start = stop


def _device(module: torch.nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
