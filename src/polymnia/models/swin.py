"""Prompts in a Swin transformer, by VPT's rule: every window sees all prompts, and each comes back as one.

A block copies the prompts into each window of their own row; relative position bias and shift mask are zero for them;
what attention made of the copies is averaged over the windows, and the MLP runs on prompts as on patches. At patch
merging a prompt is repeated four times along its numbers, in place of four patches, and so gets as wide as they do.

Jia et al.: *Visual prompt tuning*, ECCV 2022. Their code orders windows by rows and copies by windows, which mixes
rows that have different prompts; here a row's windows get that row's. Layers, norms and weights are transformers' own
(``ClapAudioLayer``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymnia.models.attention import attend
from polymnia.models.prompting import Mask, Prefix, Prompt, Stream, Tokens, check, enter, fold, leave

Size = tuple[int, int]  # rows and columns of patches


def run_swin(
    stages: nn.ModuleList, sizes: Sequence[Size], x: Float[Tensor, "b n c"], prompt: Prompt
) -> Float[Tensor, "b m d"]:
    """Run stages of blocks over patches with a prompt; the slots are taken out at the end.

    ``sizes``: of the map, stage by stage. Tokens have the width of their block, or that of the first block: then they
    are folded (see ``fold``), and slots that are added to, or mixed, keep their numbers where the tower widens: two
    become one (LPI's rule). Prefixes are seen in every window.
    Raises UserError for prompts of more blocks than there are, of other widths, or of another number of rows.
    """
    widths = [stage.dim for stage in stages for _ in stage.blocks]
    prompt = replace(prompt, front=_fitted(prompt.front, widths), back=_fitted(prompt.back, widths))
    check(prompt, widths, x.shape[0])
    stream, number, pairs = Stream(), 0, _keeps_numbers(prompt)
    for stage, size in zip(stages, sizes, strict=True):
        for layer in stage.blocks:
            x, mask, prefix = enter(x, prompt, number, stream)
            x = _block(layer, x, size, stream, mask, prefix)
            number += 1
        if stage.downsample is not None:
            x = _merged(stage.downsample, x, size, stream, pairs)
    return leave(x, prompt, stream)


def _fitted(given: Sequence[Tokens | None], widths: Sequence[int]) -> list[Tokens | None]:
    """Tokens of the first block's width in that of their own block; others as they are, for ``check`` to see."""
    pairs = zip(given, widths, strict=False)
    fitted = [t if t is None or t.shape[2] != widths[0] else fold(t, w) for t, w in pairs]
    return [*fitted, *given[len(widths) :]]


def _keeps_numbers(prompt: Prompt) -> bool:
    """Whether slots become fewer where the tower widens, as LPI's do: ``mix`` and later tokens count on it."""
    shapes = {tuple(t.shape[1:]) for t in prompt.front if t is not None}
    folded = len({w for _, w in shapes}) > 1 and len({p * w for p, w in shapes}) == 1
    return (prompt.deep == "add" and folded) or (prompt.deep != "insert" and prompt.mix is not None)


def _block(
    layer: Any, x: Float[Tensor, "b s c"], size: Size, stream: Stream, mask: Mask, prefix: Prefix | None
) -> Float[Tensor, "b s c"]:
    """A ClapAudioLayer over patches and slots."""
    layer.set_shift_and_window_size(size)  # its own forward begins with this, too: a small map is one window
    shift, side = int(layer.shift_size), int(layer.window_size)
    slots, patches = _apart(layer.layernorm_before(x), stream)
    grid, _ = layer.maybe_pad(patches.unflatten(1, size), *size)
    whole = (grid.shape[1], grid.shape[2])
    before = 0 if prefix is None else prefix[0].shape[1]
    bias = _bias(layer, layer.get_attn_mask(*whole, dtype=x.dtype, device=x.device), before, slots.shape[1])
    if mask is not None:
        bias = bias + _gates(mask, before, stream, side * side)
    windows = _windows(grid.roll((-shift, -shift), (1, 2)), side)
    slots, windows = _attention(layer.attention, slots, windows, bias, prefix)
    grid = _map(windows, whole, side).roll((shift, shift), (1, 2))
    patches = grid[:, : size[0], : size[1]].flatten(1, 2)
    x = x + layer.drop_path(_together(slots, patches, stream))
    return x + layer.output(layer.intermediate(layer.layernorm_after(x)))


def _attention(
    attention: Any,
    slots: Float[Tensor, "b p c"],
    windows: Float[Tensor, "b n t c"],
    bias: Float[Tensor, "*n h q k"],
    prefix: Prefix | None,
) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b n t c"]]:
    """Attention within each window and a copy of its row's slots, which come back as the mean over windows."""
    own, count, held = attention.self, windows.shape[1], slots.shape[1]
    inside = torch.cat([slots[:, None].expand(-1, count, -1, -1), windows], dim=2)
    beside = None if prefix is None else tuple(t[:, None].expand(-1, count, -1, -1) for t in prefix)
    dropout = own.dropout.p if own.training else 0.0
    projected = own.query(inside), own.key(inside), own.value(inside)
    out = attention.output(attend(projected, own.num_attention_heads, bias, beside, dropout), inside)
    return out[:, :, :held].mean(1), out[:, :, held:]


def _bias(
    layer: Any, mask: Float[Tensor, "n t t"] | None, before: int, held: int
) -> Float[Tensor, "h q k"] | Float[Tensor, "n h q k"]:
    """What is added to logits: by relative position and shift between patches, nothing for prefixes and slots."""
    own = layer.attention.self
    bias = own.relative_position_bias_table[own.relative_position_index].permute(2, 0, 1)
    if mask is not None:
        bias = bias + mask[:, None]
    return F.pad(bias, (before + held, 0, held, 0))


def _gates(mask: Float[Tensor, "b 1 s"], before: int, stream: Stream, patches: int) -> Float[Tensor, "1 1 k"]:
    """What a prompt's gate adds for prefixes and slots, in a window's order. No patch is padding: rows are alike."""
    back = mask[:1, :, mask.shape[2] - stream.back :]
    return F.pad(torch.cat([mask[:1, :, : before + stream.front], back], dim=2), (0, patches))


def _merged(
    merging: Any, x: Float[Tensor, "b s c"], size: Size, stream: Stream, pairs: bool
) -> Float[Tensor, "b r d"]:
    """Patches merged four by four, and slots widened as if each, or each of two, were four of them."""
    slots, patches = _apart(x, stream)
    front, back = slots[:, : stream.front], slots[:, stream.front :]
    four = fold(front, 2 * x.shape[2]).repeat(1, 1, 2) if pairs else front.repeat(1, 1, 4)
    wide = merging.reduction(merging.norm(torch.cat([four, back.repeat(1, 1, 4)], dim=1)))
    stream.front = four.shape[1]
    return _together(wide, merging(patches, size), stream)


def _apart(x: Float[Tensor, "b s c"], stream: Stream) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b n c"]]:
    """Slots, those in front first, and patches."""
    front, back = stream.front, x.shape[1] - stream.back
    return torch.cat([x[:, :front], x[:, back:]], dim=1), x[:, front:back]


def _together(
    slots: Float[Tensor, "b p c"], patches: Float[Tensor, "b n c"], stream: Stream
) -> Float[Tensor, "b s c"]:
    return torch.cat([slots[:, : stream.front], patches, slots[:, stream.front :]], dim=1)


def _windows(grid: Float[Tensor, "b h w c"], side: int) -> Float[Tensor, "b n t c"]:
    """Squares of ``side`` patches, row by row."""
    return grid.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(1, 2).flatten(2, 3)


def _map(windows: Float[Tensor, "b n t c"], size: Size, side: int) -> Float[Tensor, "b h w c"]:
    """The map that was cut into windows."""
    squares = windows.unflatten(2, (side, side)).unflatten(1, (size[0] // side, size[1] // side))
    return squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)
