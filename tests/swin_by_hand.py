"""HTS-AT's blocks with prompts, written by hand: window by window, place by place, one row at a time, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from polymnia.models.prompting import Prompt

SIDE, HEADS = 8, 2  # of a window, and of attention, in the miniature
Pair = tuple[Tensor, Tensor]


def applied(module: Any, x: Tensor) -> Tensor:
    """A linear layer or a LayerNorm."""
    if isinstance(module, torch.nn.LayerNorm):
        return layer_norm(x, x.shape[-1:], module.weight, module.bias, module.eps)
    return linear(x, module.weight, module.bias)


def attention(own: Any, inside: Tensor, places: Sequence[tuple[int, int]], held: int, prefix: Pair, gate: float):
    """Of one window: ``held`` slots, then patches at ``places`` (row and column of the map) in order."""
    q, k, v = (applied(p, inside) for p in (own.query, own.key, own.value))
    k, v, before = torch.cat([prefix[0], k]), torch.cat([prefix[1], v]), len(prefix[0])
    out = []
    for head in range(HEADS):
        d = k.shape[1] // HEADS
        part = slice(head * d, (head + 1) * d)
        logits = q[:, part] @ k[:, part].T / d**0.5
        logits[:, : before + held] += gate
        for a, (y, x, wrapped) in enumerate(places):
            for b, (v_, u, other) in enumerate(places):
                bias = own.relative_position_bias_table[(y - v_ + SIDE - 1) * (2 * SIDE - 1) + x - u + SIDE - 1, head]
                logits[held + a, before + held + b] += bias - (100.0 if wrapped != other else 0.0)
        out.append(logits.softmax(1) @ v[:, part])
    return torch.cat(out, dim=1)


def block(layer: Any, slots: Tensor, patches: Tensor, side: int, shift: int, prefix: Pair, gate: float) -> Pair:
    """Patches and slots of one row behind a block; ``shift``: of the windows."""
    held, attended = len(slots), torch.zeros_like(patches)
    before, copies = applied(layer.layernorm_before, torch.cat([slots, patches])), []
    for top in range(0, side, SIDE):
        for left in range(0, side, SIDE):
            rows = [(top + shift + i) % side for i in range(SIDE)]
            columns = [(left + shift + i) % side for i in range(SIDE)]
            index = [y * side + x for y in rows for x in columns]
            # within the window, and whether it came around the edge: those that did and did not are no neighbours
            places = [(i, j, (y < shift, x < shift)) for i, y in enumerate(rows) for j, x in enumerate(columns)]
            inside = torch.cat([before[:held], before[held:][index]])
            out = applied(
                layer.attention.output.dense, attention(layer.attention.self, inside, places, held, prefix, gate)
            )
            copies.append(out[:held])
            attended[index] = out[held:]
    x = torch.cat([slots + torch.stack(copies).mean(0), patches + attended])
    x = x + applied(layer.output.dense, gelu(applied(layer.intermediate.dense, applied(layer.layernorm_after, x))))
    return x[:held], x[held:]


def merged(merging: Any, slots: Tensor, patches: Tensor, side: int, pairs: bool) -> Pair:
    """Four neighbours become one; a slot, or two of them, stands for four."""
    grid = patches.reshape(side, side, -1)
    places = [(y, x) for y in range(0, side, 2) for x in range(0, side, 2)]
    four = [torch.cat([grid[y, x], grid[y + 1, x], grid[y, x + 1], grid[y + 1, x + 1]]) for y, x in places]
    if pairs:
        wide = [torch.cat([slots[i], slots[i + 1]] * 2) for i in range(0, len(slots), 2)]
    else:
        wide = [torch.cat([slot] * 4) for slot in slots]
    x = applied(merging.reduction, applied(merging.norm, torch.stack([*wide, *four])))
    return x[: len(wide)], x[len(wide) :]


def entered(slots: Tensor, new: Tensor | None, deep: str) -> Tensor:
    """What stands in the slots of a block."""
    if new is None or not len(slots):
        return slots if new is None else new
    return new if deep == "replace" else torch.cat([slots, new]) if deep == "insert" else slots + new


def walk(stages: Any, patches: Tensor, prompt: Prompt, pairs: bool = False, side: int = 16) -> Pair:
    """Slots and patches of one row behind all blocks; ``prompt``: of one row."""
    number, gate = 0, float(prompt.gate[0]) if prompt.gate else 0.0
    slots = torch.zeros(0, patches.shape[1], dtype=torch.double)
    for stage in stages:
        for nth, layer in enumerate(stage.blocks):
            new = prompt.front[number][0] if number < len(prompt.front) else None
            slots = entered(slots, new, prompt.deep)
            if prompt.mix is not None:
                slots = prompt.mix(number, slots[None])[0]
            none = torch.zeros(0, patches.shape[1], dtype=torch.double)
            beside = tuple(t[0] for t in prompt.prefix[number]) if prompt.prefix else (none, none)
            shift = SIDE // 2 if nth % 2 and side > SIDE else 0
            slots, patches = block(layer, slots, patches, side, shift, beside, gate)
            number += 1
        if stage.downsample is not None:
            slots, patches = merged(stage.downsample, slots, patches, side, pairs)
            side //= 2
    return slots, patches


def by_hand(stages: Any, x: Tensor, prompt: Prompt, **settings: Any) -> Tensor:
    """The patches of all rows, each walked alone."""
    alone = [(x[r], prompt.rows(torch.tensor([r]))) for r in range(len(x))]
    return torch.stack([walk(stages, row, own, **settings)[1] for row, own in alone])
