"""Where prompt tokens enter a transformer. The tokens themselves belong to methods."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from polymnia.types import UserError


def run_blocks(
    blocks: nn.ModuleList,
    x: Float[Tensor, "b t w"],
    prompt: Float[Tensor, "b l p v"] | None = None,
    at: int = 0,
    mask: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b t w"]:
    """Run blocks with deep prompts: before block i < l the tokens ``prompt[:, i]`` stand at positions at .. at + p.

    The outputs of block i - 1 in those slots are dropped (VPT-deep, MaPLe); behind the last prompted block they are
    propagated, and they are taken out at the end, so that read-out positions are those of the plain tower.
    Without prompts (None or p = 0) the result is bit-identical to the plain tower. Rows may carry different prompts.
    Raises UserError for prompts of more blocks than there are, or of another width.
    """
    if prompt is None or prompt.shape[2] == 0 or prompt.shape[1] == 0:
        for block in blocks:
            x = block(x, mask)
        return x
    _, depth, p, width = prompt.shape
    if depth > len(blocks):
        raise UserError(f"prompts for {depth} blocks, but this tower has {len(blocks)}")
    if width != x.shape[2]:
        raise UserError(f"prompt tokens of width {width}, but this tower's are {x.shape[2]} wide")
    if mask is not None:
        shown = mask.new_ones(len(mask), p)
        mask = torch.cat([mask[:, :at], shown, mask[:, at:]], dim=1)
    for i, block in enumerate(blocks):
        if i < depth:
            behind = x[:, at:] if i == 0 else x[:, at + p :]
            x = torch.cat([x[:, :at], prompt[:, i].to(x.dtype), behind], dim=1)
        x = block(x, mask)
    return torch.cat([x[:, :at], x[:, at + p :]], dim=1)
