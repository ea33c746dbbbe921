"""CLIP's text tower: a causal transformer read at the end of the text, and its projection, through transformers.

Radford et al.: Learning transferable visual models from natural language supervision (2021).
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from polymnia.models.hub import load_model, load_tokenizer, locate, token_ids
from polymnia.models.prompting import Prompt
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
        self.out_dim = config.projection_dim

    def prepare(self, raw: Sequence[str]) -> Int[Tensor, "b n"]:
        """Token ids, padded to the longest text; of one cut at ``max_tokens`` the end-of-text token is kept."""
        return token_ids(self.tokenizer, raw, self.spec.max_tokens)

    def forward(self, x: Int[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        """Features of texts. Padding needs no mask: it is behind the end, and no token sees what is behind it."""
        self.no_prompt(prompt)
        return self.encoder(input_ids=x).text_embeds
