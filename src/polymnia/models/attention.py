"""How transformers of the Hugging Face kind take prompts: their layers as ``run_blocks`` wants them, and their room.

A layer keeps its weights, norms and order of steps; the attention between its projections is ours, because theirs has
no place for keys and values that a method brings along. Only prompted batches come here: the others take the forward
of transformers itself, with which the tests compare these blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from polymnia.models.prompting import Block, Mask, Prefix, Prompt
from polymnia.types import UserError

Projected = tuple[Float[Tensor, "*b t w"], Float[Tensor, "*b t w"], Float[Tensor, "*b t w"]]


def attend(
    projected: Projected,
    heads: int,
    mask: Shaped[Tensor, "..."] | None = None,
    prefix: tuple[Float[Tensor, "*b p w"], Float[Tensor, "*b p w"]] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "*b t w"]:
    """Attention over queries, keys and values before their split into heads, the keys of ``prefix`` first.

    ``mask``: what may be seen (bool) or is added to logits (float); it broadcasts to (*b heads t p+t).
    """
    q, k, v = projected
    if prefix is not None:
        k, v = (torch.cat([before.to(own.dtype), own], dim=-2) for before, own in zip(prefix, (k, v), strict=True))
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(-3, -2) for t in (q, k, v))
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)  # mixed precision: residuals are float32, and so are masks made for them
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return out.transpose(-3, -2).flatten(-2)


def clip_block(layer: Any) -> Block:
    """A CLIPEncoderLayer: norms in front."""
    own = layer.self_attn

    def block(x: Float[Tensor, "b t w"], mask: Mask, prefix: Prefix | None) -> Float[Tensor, "b t w"]:
        h = layer.layer_norm1(x)
        dropout = own.dropout if own.training else 0.0
        projected = own.q_proj(h), own.k_proj(h), own.v_proj(h)
        x = x + own.out_proj(attend(projected, own.num_heads, _for_heads(mask), prefix, dropout))
        return x + layer.mlp(layer.layer_norm2(x))

    return block


def ast_block(layer: Any) -> Block:
    """An ASTLayer: norms in front, dropout behind each half."""
    own = layer.attention

    def block(x: Float[Tensor, "b t w"], mask: Mask, prefix: Prefix | None) -> Float[Tensor, "b t w"]:
        h = layer.layernorm_before(x)
        dropout = own.attention_dropout if own.training else 0.0
        projected = own.q_proj(h), own.k_proj(h), own.v_proj(h)
        attended = attend(projected, own.num_attention_heads, _for_heads(mask), prefix, dropout)
        x = x + layer.dropout(own.o_proj(attended))
        return x + layer.dropout(layer.mlp(layer.layernorm_after(x)))

    return block


def bert_block(layer: Any) -> Block:
    """A BertLayer, or one of those that descend from it (RoBERTa, XLM-R, CLAP's text): norms behind residuals."""
    own = layer.attention.self

    def block(x: Float[Tensor, "b t w"], mask: Mask, prefix: Prefix | None) -> Float[Tensor, "b t w"]:
        dropout = own.dropout.p if own.training else 0.0
        projected = own.query(x), own.key(x), own.value(x)
        attended = attend(projected, own.num_attention_heads, _for_heads(mask), prefix, dropout)
        return layer.feed_forward_chunk(layer.attention.output(attended, x))

    return block


def check_room(prompt: Prompt, room: int, longest: int) -> None:
    """Raise UserError for more prompt tokens than the ``room`` that texts of up to ``longest`` tokens leave.

    Slots use no positions here; but methods that put prompts into words' places (CoOp, LPI) have no more of them, and
    the model has seen no longer sequences.
    """
    count, positions = prompt.tokens, room + longest
    if count <= room:
        return
    shorter = positions - count
    out = f"set towers.text.max_tokens to {shorter} or less" if shorter > 2 else "use fewer prompt tokens"
    raise UserError(
        f"{count} prompt tokens have no room in the text tower: it has {positions} positions, and texts of up to "
        f"{longest} tokens (max_tokens) leave {room}; {out}"
    )


def _for_heads(mask: Mask) -> Shaped[Tensor, "b 1 _ _"] | None:
    return None if mask is None else mask[:, None]
