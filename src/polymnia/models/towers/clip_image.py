"""CLIP's image tower: a vision transformer and its projection, from a checkpoint in the layout of transformers.

Radford et al.: Learning transferable visual models from natural language supervision (2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from polymnia.models.attention import clip_block
from polymnia.models.hub import load_model, load_preprocessing, locate
from polymnia.models.prompting import Block, Mask, Prefix, Prompt, run_blocks
from polymnia.models.tower import AbstractTower, PictureConfig
from polymnia.types import ImageSpec, UserError

WHAT = "CLIP image tower"
KINDS = ("clip", "clip_vision_model")
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3  # in Pillow's numbering


class Config(PictureConfig):
    """``model``: a hub id, a folder, or ``package:name/sub`` for a folder inside an installed Python package."""

    model: str = "openai/clip-vit-base-patch32"
    frozen: bool = True


class Tower(AbstractTower):
    """uint8 pictures to projected image embeddings, not normalised (512 for ViT-B/32).

    Prompts stand behind the class token, without positions; those of the first block pass through CLIP's first norm,
    as in VPT and LPI, those of later blocks through none.
    Raises UserError for a model that is absent, damaged, no CLIP, or asks for another preprocessing than CLIP's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, cfg: Config):
        super().__init__()
        self.modality = "image"
        source, folder = locate(cfg.model)
        self.encoder = load_model("CLIPVisionModelWithProjection", KINDS, source, folder, WHAT)
        config = self.encoder.config
        size, self.out_dim = config.image_size, config.projection_dim
        self.depth, self.width = config.num_hidden_layers, config.hidden_size
        self.spec = ImageSpec(size, fit="resize_crop", fps=cfg.fps, frames=cfg.frames)
        stated = load_preprocessing(source, folder, "image_processor", WHAT)
        check_preprocessing(stated, size, source)
        # part of the state, because two encoders with other means are not the same encoder
        self.register_buffer("mean", torch.tensor(stated.get("image_mean", MEAN)).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(stated.get("image_std", STD)).view(3, 1, 1))

    def forward(self, x: UInt8[Tensor, "b c h w"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        pixels = (x.to(self.mean.dtype) / 255 - self.mean) / self.std
        if prompt is None or prompt.empty:
            return self.encoder(pixel_values=pixels).image_embeds
        model = self.encoder.vision_model
        first, *others = map(clip_block, model.encoder.layers)
        blocks = [_behind(model.pre_layrnorm, first), *others]
        hidden = run_blocks(blocks, model.embeddings(pixels), prompt, at=1)
        return self.encoder.visual_projection(model.post_layernorm(hidden[:, 0]))


def _behind(norm: nn.Module, block: Block) -> Block:
    """A block with a norm in front of it, which is then in front of the prompts of that block, too."""

    def whole(x: Float[Tensor, "b t w"], mask: Mask, prefix: Prefix | None) -> Float[Tensor, "b t w"]:
        return block(norm(x), mask, prefix)

    return whole


def check_preprocessing(stated: Mapping[str, Any], size: int, source: str) -> None:
    """Raise UserError where a checkpoint asks for anything but: short side to ``size``, bicubic, centre crop."""
    edge, crop = stated.get("size", size), stated.get("crop_size", size)
    asked = {
        "size": edge.get("shortest_edge") if isinstance(edge, dict) else edge,
        "crop_size": crop.get("height") if isinstance(crop, dict) else crop,
        "resample": stated.get("resample", BICUBIC),
        "rescale_factor": round(1 / stated.get("rescale_factor", 1 / 255)),
        **{key: stated.get(key, True) for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")},
    }
    given = {"size": size, "crop_size": size, "resample": BICUBIC, "rescale_factor": 255}
    for key in ("image_mean", "image_std"):
        if len(stated.get(key, MEAN)) != 3:
            raise UserError(f"the preprocessing of '{source}' has {key}: {stated[key]}, not a number for R, G and B")
    for key, value in asked.items():
        if value != given.get(key, True):
            raise UserError(
                f"the preprocessing of '{source}' has {key}: {stated[key]}, and clip_image knows CLIP's alone: "
                f"the short side to {size} pixels (bicubic), a centred square of {size}, scaled and normalised"
            )
