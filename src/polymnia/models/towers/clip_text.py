"""CLIP's text tower: a causal transformer read at the end of the text, and its projection, through transformers.

Radford et al.: Learning transferable visual models from natural language supervision (2021).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from polymnia.models.attention import check_room, clip_block
from polymnia.models.hub import load_model, load_tokenizer, locate, token_ids
from polymnia.models.prompting import Prompt, run_blocks
from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.types import TextSpec, UserError

WHAT = "CLIP text tower"
KINDS = ("clip", "clip_text_model")
LEGACY = 2  # the end-of-text id in configurations that mean the highest id of each text


class Config(TowerConfig):
    """``model``: a hub id, a folder, or ``package:name/sub`` for a folder inside an installed Python package.

    ``max_tokens``: texts are cut here, start and end included; the tower's positions (77) when not given.
    """

    model: str = "openai/clip-vit-base-patch32"
    max_tokens: PositiveInt | None = None
    frozen: bool = True


class Tower(AbstractTower):
    """Token ids to projected text embeddings, not normalised (512 for ViT-B/32).

    Prompts stand behind the start, where every word sees them, or right before the end, which alone sees them.
    Raises UserError for a model that is absent, damaged, or no CLIP, and for more tokens than it has positions.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.modality = "text"
        source, folder = locate(cfg.model)
        self.encoder = load_model("CLIPTextModelWithProjection", KINDS, source, folder, WHAT)
        self.tokenizer = load_tokenizer(source, folder, WHAT)
        config = self.encoder.config
        most = config.max_position_embeddings
        if (cfg.max_tokens or most) > most:
            raise UserError(f"max_tokens {cfg.max_tokens} is more than the {most} that '{cfg.model}' can take")
        end = len(self.tokenizer) - 1 if config.eos_token_id == LEGACY else config.eos_token_id
        if self.tokenizer.eos_token_id != end or len(self.tokenizer) > config.vocab_size:
            raise UserError(
                f"the tokenizer of '{cfg.model}' ends texts with {self.tokenizer.eos_token_id} and knows "
                f"{len(self.tokenizer)} tokens, its model {end} and {config.vocab_size}: not of one checkpoint"
            )
        self.spec = TextSpec(cfg.max_tokens or most, self.tokenizer.pad_token_id)
        self.out_dim, self.room = config.projection_dim, most - self.spec.max_tokens
        self.depth, self.width = config.num_hidden_layers, config.hidden_size

    def prepare(self, raw: Sequence[str]) -> Int[Tensor, "b n"]:
        """Token ids, padded to the longest text; of one cut at ``max_tokens`` the end-of-text token is kept."""
        return token_ids(self.tokenizer, raw, self.spec.max_tokens)

    def forward(self, x: Int[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        """Features of texts. Padding needs no mask: it is behind the end, and no token sees what is behind it."""
        if prompt is None or prompt.empty:
            return self.encoder(input_ids=x).text_embeds
        model = self.encoder.text_model
        check_room(prompt, self.room, self.spec.max_tokens)
        blocks, end = [clip_block(layer) for layer in model.encoder.layers], self._ends(x)
        hidden = run_blocks(blocks, model.embeddings(x), prompt, at=1, end=end)
        last = hidden[torch.arange(x.shape[0], device=x.device), end]
        return self.encoder.text_projection(model.final_layer_norm(last))

    def _ends(self, x: Int[Tensor, "b n"]) -> Int[Tensor, " b"]:
        """The place at which transformers reads each text: its first end-of-text token, or its first highest id."""
        end = self.encoder.config.eos_token_id
        return (x if end == LEGACY else (x == end)).int().argmax(1)
