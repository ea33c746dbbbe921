"""Rehearsal memory of fixed size: rows of finished tasks, stored as the towers eat them."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from polymnia.continual.method import generator
from polymnia.models.model import Model
from polymnia.types import AudioSpec, Batch, Batches, ImageSpec, Modality, Spec, TextSpec, UserError

INT16 = 32767.0


class Memory(nn.Module):
    """At most ``capacity`` rows, shared out evenly over the finished tasks.

    Waveforms are kept as int16, pictures as uint8, captions as ids, cached vectors as float32. Its buffers have their
    final shape from construction on. ``extra`` numbers a row are kept beside each modality (DER's old embeddings).
    """

    def __init__(self, model: Model, budget: int, seed: int, extra: int = 0, tasks: int = 2):
        super().__init__()
        self.specs, self.seed = model.specs, seed
        # A row costs its media, a flag and the extra numbers of each modality, its group and its task.
        row = sum(_bytes(s) + 1 + 4 * extra for s in self.specs.values()) + 16
        self.capacity = (budget - 8) // row
        if self.capacity < tasks:
            least = tasks * row + 8
            raise UserError(
                f"a memory of {budget} bytes holds no row for each of {tasks} tasks; give it {least} or more"
            )
        n = self.capacity
        for m, spec in self.specs.items():
            self.register_buffer(f"x_{m}", torch.zeros(n, *_shape(spec), dtype=_dtype(spec)))
            self.register_buffer(f"has_{m}", torch.zeros(n, dtype=torch.bool))
            if extra:
                self.register_buffer(f"extra_{m}", torch.zeros(n, extra))
        self.register_buffer("group", torch.zeros(n, dtype=torch.long))
        self.register_buffer("task", torch.full((n,), -1))
        self.register_buffer("drawn", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return int((self.task >= 0).sum())

    def add_task(self, batches: Batches, extra: dict[Modality, list[Tensor]] | None = None) -> None:
        """Give the finished task its share: older tasks keep a random subset, then rows of the new one are drawn.

        ``extra[m]`` holds, batch by batch, the numbers to keep beside the rows of ``inputs[m]``.
        """
        rows = [(b, i) for b, batch in enumerate(batches) for i in range(len(batch))]
        finished = sorted({int(t) for t in self.task if t >= 0})
        quota = self.capacity // (len(finished) + 1)
        g = generator(self.seed, 1, len(finished))
        for t in finished:
            held = (self.task == t).nonzero()[:, 0]
            self.task[held[torch.randperm(len(held), generator=g)[quota:]]] = -1
        chosen = sorted(rows[i] for i in torch.randperm(len(rows), generator=g)[:quota].tolist())
        free = (self.task < 0).nonzero()[:, 0].tolist()
        wanted = iter(zip(free, chosen, strict=False))
        slot, (b, i) = next(wanted)
        for number, batch in enumerate(batches):
            while b == number:
                self._put(slot, batch, i, None if extra is None else {m: e[number] for m, e in extra.items()})
                slot, (b, i) = next(wanted, (-1, (-1, -1)))

    def _put(self, slot: int, batch: Batch, row: int, extra: dict[Modality, Tensor] | None) -> None:
        self.group[slot], self.task[slot] = batch.group[row], batch.task[row]
        for m in self.specs:
            at = (batch.rows[m] == row).nonzero() if m in batch.rows else torch.empty(0, 1)
            self.get_buffer(f"has_{m}")[slot] = bool(len(at))
            if not len(at):
                continue
            value = batch.inputs[m][int(at[0])].detach().cpu()
            if isinstance(self.specs[m], AudioSpec):
                value = (value.clamp(-1, 1) * INT16).round()
            place = self.get_buffer(f"x_{m}")[slot]
            place.fill_(_padding(self.specs[m]))
            if place.ndim == 1:  # waveforms and captions: cut or padded to the stored length
                n = min(len(value), len(place))
                place[:n] = value[:n].to(place.dtype)
            else:
                place.copy_(value)
            if extra is not None and m in extra:
                self.get_buffer(f"extra_{m}")[slot] = extra[m][int(at[0])]

    def rehearse(self, batch: Batch, rows: int) -> tuple[Batch, Int[Tensor, " n"] | None]:
        """``batch`` with stored rows behind it, and their slots; the batch itself and None while nothing is stored."""
        drawn = self.sample(rows)
        if drawn is None:
            return batch, None
        stored, slots = drawn
        for m, spec in self.specs.items():
            if isinstance(spec, TextSpec) and m in stored.inputs:
                x = stored.inputs[m]
                words = int((x != spec.pad_id).any(0).nonzero().max()) + 1
                stored = replace(stored, inputs={**stored.inputs, m: x[:, :words]})
        return batch.cat(stored), slots

    def sample(self, rows: int) -> tuple[Batch, Int[Tensor, " n"]] | None:
        """A batch of ``rows`` stored rows and their slots; None while nothing is stored."""
        filled = (self.task >= 0).nonzero()[:, 0]
        if not len(filled):
            return None
        g = generator(self.seed, 2, int(self.drawn))
        self.drawn += 1
        slots = filled[torch.randperm(len(filled), generator=g)[:rows].to(filled.device)]
        inputs: dict[Modality, Tensor] = {}
        where: dict[Modality, Tensor] = {}
        for m, spec in self.specs.items():
            has = self.get_buffer(f"has_{m}")[slots].nonzero()[:, 0]
            if len(has):
                x = self.get_buffer(f"x_{m}")[slots[has]]
                inputs[m] = x.float() / INT16 if isinstance(spec, AudioSpec) else x
                where[m] = has
        pad = {m: spec.pad_id for m, spec in self.specs.items() if isinstance(spec, TextSpec)}
        return Batch(inputs, where, self.group[slots], self.task[slots], pad=pad), slots

    def extra(self, modality: Modality, slots: Int[Tensor, " n"]) -> Float[Tensor, "n e"]:
        return self.get_buffer(f"extra_{modality}")[slots]


def _padding(spec: Spec) -> int:
    return spec.pad_id if isinstance(spec, TextSpec) else 0


def _shape(spec: Spec) -> tuple[int, ...]:
    if isinstance(spec, AudioSpec):
        return (spec.samples,)
    if isinstance(spec, ImageSpec):
        return (spec.channels, spec.size, spec.size)
    return (spec.max_tokens,) if isinstance(spec, TextSpec) else (spec.dim,)


def _dtype(spec: Spec) -> torch.dtype:
    if isinstance(spec, AudioSpec):
        return torch.int16
    if isinstance(spec, ImageSpec):
        return torch.uint8
    return torch.long if isinstance(spec, TextSpec) else torch.float32


def _bytes(spec: Spec) -> int:
    return torch.empty(_shape(spec), dtype=_dtype(spec), device="meta").nbytes
