"""What stands before a tower, in words: preprocessor_config.json of transformers' towers, and of the whole encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from polymnia.models.model import Model
from polymnia.models.towers import ast, clap_audio, clip_image
from polymnia.types import AudioSpec, Modality, TextSpec


def write(tower: Any, where: Path) -> None:
    """preprocessor_config.json of a tower, as transformers and our own towers read it; none for texts."""
    where.mkdir(parents=True, exist_ok=True)
    makers: dict[type, Callable[[Any], dict[str, Any]]] = {
        clip_image.Tower: _clip_picture,
        clap_audio.Tower: _clap_sound,
        ast.Tower: _ast_sound,
    }
    if maker := makers.get(type(tower)):
        (where / "preprocessor_config.json").write_text(json.dumps(maker(tower), indent=2), encoding="utf-8")


def _clip_picture(tower: Any) -> dict[str, Any]:
    size = tower.spec.size
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
    return {
        "image_processor_type": "CLIPImageProcessor",
        **dict.fromkeys(steps, True),
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "resample": clip_image.BICUBIC,
        "rescale_factor": 1 / 255,
        "image_mean": tower.mean.flatten().tolist(),
        "image_std": tower.std.flatten().tolist(),
    }


def _clap_sound(tower: Any) -> dict[str, Any]:
    cfg = tower.logmel.cfg
    seconds = tower.window / cfg.sample_rate
    return clap_audio.UNFUSED | {
        "feature_extractor_type": "ClapFeatureExtractor",
        "sampling_rate": cfg.sample_rate,
        "fft_window_size": cfg.n_fft,
        "hop_length": cfg.hop,
        "feature_size": cfg.n_mels,
        "frequency_min": cfg.fmin,
        "frequency_max": cfg.fmax,
        "max_length_s": int(seconds) if seconds.is_integer() else seconds,
    }


def _ast_sound(tower: Any) -> dict[str, Any]:
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "sampling_rate": tower.spec.sample_rate,
        "num_mel_bins": tower.encoder.config.num_mel_bins,
        "max_length": tower.frames_in,
        "do_normalize": True,
        "mean": float(tower.mean),
        "std": float(tower.std) / 2,  # AST divides by twice of it
        "feature_size": 1,
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def stated(model: Model) -> dict[Modality, dict[str, Any]]:
    """What each tower eats, in the units of its name."""
    found: dict[Modality, dict[str, Any]] = {}
    for m, spec in model.specs.items():
        found[m] = {"kind": type(spec).__name__, **asdict(spec)}
        if isinstance(spec, AudioSpec):
            found[m] |= {"channels": 1, "range": [-1, 1], "least_samples": spec.least}
        if isinstance(spec, TextSpec):
            tokenizer = getattr(model.tower(m), "tokenizer", None)
            found[m]["tokenizer"] = type(tokenizer or model.tower(m)).__name__ if tokenizer else "hashed words"
    return found
