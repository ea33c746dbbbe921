"""LAION CLAP's text tower: RoBERTa and its projection, from a checkpoint in the layout of transformers.

Wu et al.: Large-scale contrastive language-audio pretraining with feature fusion and keyword-to-caption augmentation
(2023).
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from polymnia.models.attention import bert_block, check_room
from polymnia.models.hub import load_model, load_tokenizer, locate, token_ids
from polymnia.models.prompting import Prompt, run_blocks
from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.types import TextSpec, UserError

WHAT = "CLAP text tower"
KINDS = ("clap", "clap_text_model")


class Config(TowerConfig):
    """``model``: a hub id, a folder, or ``package:name/sub`` for a folder inside an installed Python package.

    ``max_tokens``: texts are cut here, start and end included; 77 is LAION's own.
    """

    model: str = "laion/clap-htsat-unfused"
    max_tokens: PositiveInt = 77
    frozen: bool = True


class Tower(AbstractTower):
    """Token ids to projected text embeddings, not normalised (512).

    Raises UserError for a model that is absent, damaged, or no CLAP, and for more tokens than it has positions.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.modality = "text"
        source, folder = locate(cfg.model)
        self.encoder = load_model("ClapTextModelWithProjection", KINDS, source, folder, WHAT)
        self.tokenizer = load_tokenizer(source, folder, WHAT)
        config, pad = self.encoder.config, self.tokenizer.pad_token_id
        most = config.max_position_embeddings - config.pad_token_id - 1  # RoBERTa counts from behind the padding id
        if cfg.max_tokens > most:
            raise UserError(f"max_tokens {cfg.max_tokens} is more than the {most} that '{cfg.model}' can take")
        if pad != config.pad_token_id or len(self.tokenizer) > config.vocab_size:
            raise UserError(
                f"the tokenizer of '{cfg.model}' pads with {pad} and knows {len(self.tokenizer)} tokens, its model "
                f"{config.pad_token_id} and {config.vocab_size}: not of one checkpoint"
            )
        self.spec = TextSpec(cfg.max_tokens, pad)
        self.out_dim, self.room = config.projection_dim, most - cfg.max_tokens
        self.depth, self.width = config.num_hidden_layers, config.hidden_size

    def prepare(self, raw: Sequence[str]) -> Int[Tensor, "b n"]:
        """Token ids, cut at ``max_tokens`` and padded to the longest text."""
        return token_ids(self.tokenizer, raw, self.spec.max_tokens)

    def forward(self, x: Int[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        """Features of texts; columns that are padding in every row change nothing."""
        mask = x != self.spec.pad_id
        if prompt is None or prompt.empty:
            return self.encoder(input_ids=x, attention_mask=mask.long()).text_embeds
        check_room(prompt, self.room, self.spec.max_tokens)
        model = self.encoder.text_model
        blocks = [bert_block(layer) for layer in model.encoder.layer]
        hidden = run_blocks(blocks, model.embeddings(input_ids=x), prompt, at=1, mask=mask)
        return self.encoder.text_projection(model.pooler(hidden))
