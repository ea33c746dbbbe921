"""Where prompt tokens enter a transformer. The tokens themselves belong to methods.

A prompt says, for each block and for each row of a batch, which tokens stand in front of the words or patches (behind
the class token), which stand behind them, and which keys and values a block's attention sees besides (prefix-tuning).
What becomes of the tokens in the next block is one word: VPT-deep, MaPLe and PTAT ``replace`` the outputs of the last
block in those slots, LPI ``add``s to them, and ``insert`` puts the new tokens beside the old ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from polymnia.types import UserError

Tokens = Float[Tensor, "b _ _"]  # a row of the batch, a token, a number of its width
Prefix = tuple[Tokens, Tokens]  # keys and values, as the block's own projections would make them
Mask = Shaped[Tensor, "b _ _"] | None  # (b 1 k) or (b t k): what may be seen (bool), or what is added (float)
Block = Callable[[Tokens, Mask, Prefix | None], Tokens]
Mix = Callable[[int, Tokens], Tokens]


@dataclass(frozen=True)
class Prompt:
    """What a batch's rows bring along into a transformer, block by block.

    ``front``, ``back``: tokens for block i, or None where the block gets none; blocks behind the last entry get none.
    ``prefix``: keys and values for block i. ``gate``: what is added to every attention logit of front tokens and
    prefixes of block i: a large negative number hides them, so that a prompt that was not trained yet disturbs
    nothing. ``mix(i, slots)`` changes what stands in the front slots before block i (LPI's interaction). ``read``:
    what the tower reads out: its own positions, or the mean over the front tokens.
    """

    front: Sequence[Tokens | None] = ()
    back: Sequence[Tokens | None] = ()
    prefix: Sequence[Prefix | None] = ()
    gate: Sequence[Float[Tensor, ""] | None] = ()
    deep: Literal["replace", "add", "insert"] = "replace"
    mix: Mix | None = None
    read: Literal["tower", "prompts"] = "tower"

    @classmethod
    def of(cls, tokens: Float[Tensor, "b l p w"]) -> Prompt:
        """p front tokens for each of the first l blocks, replaced from block to block."""
        return cls(front=tuple(tokens.unbind(1)))

    @property
    def depth(self) -> int:
        """How many blocks it reaches."""
        return max(len(self.front), len(self.back), len(self.prefix), len(self.gate))

    @property
    def tokens(self) -> int:
        """The most tokens that stand in the sequence beside the tower's own."""
        if self.deep == "insert":
            return sum(_count(t) for t in self.front) + sum(_count(t) for t in self.back)
        return max(map(_count, self.front), default=0) + max(map(_count, self.back), default=0)

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return not self.tokens and all(p is None or not p[0].shape[1] for p in self.prefix)

    def rows(self, chosen: Shaped[Tensor, " n"]) -> Prompt:
        """The prompt of some of the rows."""

        def pick(tokens: Float[Tensor, "b _ _"] | None) -> Float[Tensor, "n _ _"] | None:
            return None if tokens is None else tokens[chosen]

        prefix = tuple(None if p is None else (p[0][chosen], p[1][chosen]) for p in self.prefix)
        return replace(self, front=tuple(map(pick, self.front)), back=tuple(map(pick, self.back)), prefix=prefix)


@dataclass
class Stream:
    """A sequence on its way through the blocks: the tower's own tokens around the slots, and who may see whom."""

    at: int = 0  # own tokens before the front slots
    front: int = 0  # slots
    back: int = 0
    fixed: Bool[Tensor, "b t"] | None = None  # which of the tower's own tokens are no padding
    end: Int[Tensor, " b"] | None = None  # causal towers: the place of the end token among the own tokens


def run_blocks(
    blocks: nn.ModuleList | Sequence[Block],
    x: Float[Tensor, "b t w"],
    prompt: Prompt | None = None,
    at: int = 0,
    mask: Bool[Tensor, "b t"] | None = None,
    end: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b t w"]:
    """Run blocks over a sequence with a prompt; the slots are taken out at the end, so that read-out positions stay.

    ``at``: how many own tokens stand before the front slots. ``mask``: which own tokens are no padding. ``end``: for
    towers in which a token sees only what stands before it, the place of the end token of each row; back tokens then
    stand right before it, where the end token sees them (behind it they would change nothing). Slots have no position
    of their own, and own tokens keep theirs. A prompt without tokens and prefixes changes no bit.
    Raises UserError for prompts of more blocks than there are, of another width, or of another number of rows, and for
    a read-out from front tokens where they would see no word.
    """
    stream = Stream(at, fixed=mask, end=end)
    if prompt is None or prompt.empty:
        seen = _visible(x, stream, 0, None)
        for block in blocks:
            x = block(x, seen, None)
        return x
    check(prompt, [x.shape[2]] * len(blocks), x.shape[0])
    if end is not None and prompt.read == "prompts":
        raise UserError(
            "the front tokens of a causal text tower stand before all words and see none of them: read the tower out "
            "itself, not its prompts (read: tower), or prompt a tower that is not causal (as BERT)"
        )
    for i, block in enumerate(blocks):
        x = block(*enter(x, prompt, i, stream))
    return leave(x, prompt, stream)


def fold(tokens: Float[Tensor, "b p w"], width: int) -> Float[Tensor, "b q v"]:
    """Tokens as fewer tokens of ``width`` numbers: (b p w) -> (b p w/width width), for towers that widen on the way.

    LPI's rule for Swin (its release reshapes 16 tokens of 96 numbers to 8 of 192, 4 of 384 and 2 of 768).
    Raises UserError where the numbers do not come out even.
    """
    b, p, w = tokens.shape
    if w == width:
        return tokens
    if width % w or (p * w) % width:
        raise UserError(f"{p} prompt tokens of {w} numbers cannot be folded into tokens of {width}; {_even(w, width)}")
    return tokens.reshape(b, p * w // width, width)


def _even(w: int, width: int) -> str:
    return f"give a multiple of {width // w} tokens" if width % w == 0 else f"{width} is no multiple of {w}"


def enter(x: Tokens, prompt: Prompt, i: int, stream: Stream) -> tuple[Tokens, Mask, Prefix | None]:
    """What block i gets: the sequence with its slots (``stream`` counts them), who sees whom, keys and values besides.

    For towers whose blocks do more than ``run_blocks`` asks of them; ``leave`` is the other end.
    """
    front, back, prefix = _at(prompt.front, i), _at(prompt.back, i), _at(prompt.prefix, i)
    start, stop = stream.at, x.shape[1] - stream.back
    before, middle, behind = x[:, :start], x[:, start + stream.front : stop], x[:, stop:]
    slots = _renewed(x[:, start : start + stream.front], front, prompt.deep)
    if prompt.mix is not None and slots.shape[1]:
        slots = prompt.mix(i, slots)
    behind = _renewed(behind, back, prompt.deep)
    stream.front, stream.back = slots.shape[1], behind.shape[1]
    x = torch.cat([before, slots, middle, behind], dim=1)
    return x, _visible(x, stream, 0 if prefix is None else prefix[0].shape[1], _at(prompt.gate, i)), prefix


def leave(x: Tokens, prompt: Prompt, stream: Stream) -> Tokens:
    """The tower's own tokens, without slots, or as many copies of the mean over the front slots."""
    behind = x.shape[1] - stream.back
    slots = x[:, stream.at : stream.at + stream.front]
    if prompt.read == "prompts" and stream.front:
        return slots.mean(1, keepdim=True).expand(-1, behind - stream.front, -1)
    return torch.cat([x[:, : stream.at], x[:, stream.at + stream.front : behind]], dim=1)


def _renewed(slots: Tokens, tokens: Tokens | None, deep: str) -> Tokens:
    """What stands in the slots from this block on."""
    if tokens is None:
        return slots
    tokens = tokens.to(slots.dtype)
    if deep == "insert" or (deep == "add" and not slots.shape[1]):
        return torch.cat([slots, tokens], dim=1)
    if deep == "replace":
        return tokens
    if tokens.shape[1] != slots.shape[1]:
        raise UserError(f"{tokens.shape[1]} prompt tokens cannot be added to {slots.shape[1]}; give every block alike")
    return slots + tokens


def _visible(x: Tokens, stream: Stream, prefix: int, gate: Float[Tensor, ""] | None) -> Mask:
    """Who may see whom: keys are the prefix, then the sequence. None where everything is seen as it is."""
    if stream.fixed is None and stream.end is None and gate is None:
        return None
    b, length = x.shape[0], x.shape[1]
    own = length - stream.front - stream.back
    fixed = x.new_ones(b, own, dtype=torch.bool) if stream.fixed is None else stream.fixed
    slots = fixed.new_ones(b, stream.front), fixed.new_ones(b, stream.back)
    seen = torch.cat([fixed[:, : stream.at], slots[0], fixed[:, stream.at :], slots[1]], dim=1)[:, None, :]
    if stream.end is not None:
        rank = _ranks(stream, own, b, x.device)
        seen = seen & (rank[:, None, :] <= rank[:, :, None])
    if prefix:
        seen = torch.cat([seen.new_ones(b, seen.shape[1], prefix), seen], dim=2)
    if gate is None:
        return seen
    bias = x.new_zeros(prefix + length)
    gated = torch.zeros_like(bias, dtype=torch.bool)
    gated[:prefix], gated[prefix + stream.at : prefix + stream.at + stream.front] = True, True
    bias = torch.where(gated, gate.to(x.dtype), bias)
    return torch.where(seen, bias, torch.finfo(x.dtype).min)


def _ranks(stream: Stream, own: int, b: int, device: torch.device) -> Float[Tensor, "b s"]:
    """A causal order: who has a higher rank sees who has a lower one. Back slots stand right before the end token."""
    assert stream.end is not None
    place = torch.arange(own, device=device, dtype=torch.float32).expand(b, -1)
    front = stream.at - 1 + torch.arange(1, stream.front + 1, device=device) / (stream.front + 1)
    back = torch.arange(1, stream.back + 1, device=device) / (stream.back + 1)
    behind = stream.end[:, None] - 1 + back
    return torch.cat([place[:, : stream.at], front.expand(b, -1), place[:, stream.at :], behind], dim=1)


def check(prompt: Prompt, widths: Sequence[int], rows: int) -> None:
    """Raise UserError for prompts of more blocks than ``widths`` has entries, of other widths or numbers of rows."""
    if prompt.depth > len(widths):
        raise UserError(f"prompts for {prompt.depth} blocks, but this tower has {len(widths)}")
    keys, values = ([None if p is None else p[n] for p in prompt.prefix] for n in (0, 1))
    for given in (prompt.front, prompt.back, keys, values):
        for tokens, width in zip(given, widths, strict=False):
            if tokens is not None and tokens.shape[2] != width:
                raise UserError(f"prompt tokens of width {tokens.shape[2]}, but this tower's are {width} wide")
            if tokens is not None and tokens.shape[0] != rows:
                raise UserError(f"prompts for {tokens.shape[0]} rows, but the batch has {rows}")


def _at(entries: Sequence, i: int):  # noqa: ANN202 (an entry of whatever the sequence holds, or None)
    return entries[i] if i < len(entries) else None


def _count(tokens: Tokens | None) -> int:
    return 0 if tokens is None else tokens.shape[1]
