"""Towers that are models of transformers, as folders in its own layout: what ``AutoModel.from_pretrained`` opens.

transformers has no auto class for one half of CLAP: where a run has both halves, they are one ``ClapModel``; a half
alone is opened by its own class. CLIP's projection is no part of what AutoModel gives, and lies with the run's head in
``head-<modality>.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from polymnia.export import preprocessing
from polymnia.models.hub import quiet
from polymnia.models.tower import AbstractTower
from polymnia.models.towers import ast, clap_audio, clap_text, clip_image, clip_text, sentence
from polymnia.runs.encoding import MediaEncoder
from polymnia.runs.weights import read_tensors, save_tensors
from polymnia.types import Modality

Tower = AbstractTower
OURS = (ast.Tower, clap_audio.Tower, clap_text.Tower, clip_image.Tower, clip_text.Tower, sentence.Tower)
BARE = "unprompted"  # towers that give the run's vectors only with the method's prompts lie below it
PROJECTION = "projection."  # in the file of a head: what stands between AutoModel's pooled output and the head


class Written(NamedTuple):
    """Where a tower lies, and the class that opens it; ``bare``: without the prompts that the run's vectors need."""

    folder: str
    opens: str
    bare: bool


def save(encoder: MediaEncoder, out: Path, prompted: Set[Modality]) -> dict[Modality, Written]:
    """Write every tower that is a model of transformers, with its tokenizer and preprocessing, and its head."""
    towers = {m: t for m in encoder.model.modalities if type(t := encoder.model.tower(m)) in OURS}
    written: dict[Modality, Written] = {}
    together = _clap(towers) and not prompted & towers.keys()
    for m, tower in towers.items():
        bare = m in prompted
        name = "clap" if together else f"{BARE}/{m}" if bare else m
        where = out / name
        with quiet():
            if not together:
                _model(tower).save_pretrained(where)
            if tower.modality == "text":
                tower.tokenizer.save_pretrained(where)
        preprocessing.write(tower, where)
        written[m] = Written(name, "AutoModel" if together else _opens(tower), bare)
        if not bare:
            save_tensors(where / f"head-{m}.safetensors", head_state(encoder, m))
    if together:
        with quiet():
            _whole_clap(towers["audio"], towers["text"]).save_pretrained(out / "clap")
    return written


def head_state(encoder: MediaEncoder, modality: Modality) -> dict[str, Tensor]:
    """The head, and CLIP's projection in front of it."""
    tower, state = encoder.model.tower(modality), dict(encoder.model.heads[modality].state_dict())
    if isinstance(tower, (clip_image.Tower, clip_text.Tower)):
        state[f"{PROJECTION}weight"] = _projection(tower).weight
    return state or {"identity": torch.ones(1)}  # safetensors wants something to hold


def features(written: Written, out: Path, tower: Tower, x: Shaped[Tensor, "b ..."]) -> Float[Tensor, "b o"]:
    """What stands before the head, by transformers' own class from the folder, on what ``tower.prepare`` gave."""
    import transformers

    where = out / written.folder
    with quiet():
        model = getattr(transformers, written.opens).from_pretrained(where, local_files_only=True).eval()
    return _read(model, tower, x, where)


def _read(model: Any, tower: Tower, x: Tensor, where: Path) -> Tensor:
    """As the card tells it."""
    if isinstance(tower, sentence.Tower):
        mask = x != tower.spec.pad_id
        hidden = model(input_ids=x, attention_mask=mask.long()).last_hidden_state
        weight = mask[:, :, None].to(hidden.dtype)
        return hidden[:, 0] if tower.pooling == "cls" else (hidden * weight).sum(1) / weight.sum(1)
    if isinstance(tower, clip_text.Tower):
        return _projected(model(input_ids=x).pooler_output, where, "text")
    if isinstance(tower, clip_image.Tower):
        said = json.loads((where / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, std = (torch.tensor(said[f"image_{k}"]).view(3, 1, 1) for k in ("mean", "std"))
        return _projected(model(pixel_values=(x / 255 - mean) / std).pooler_output, where, "image")
    if isinstance(tower, clap_text.Tower):
        pooled = model.text_model(input_ids=x, attention_mask=(x != tower.spec.pad_id).long()).pooler_output
        return model.text_projection(pooled)
    if isinstance(tower, clap_audio.Tower):
        return model.audio_projection(model.audio_model(input_features=tower.picture(x)).pooler_output)
    return model(input_values=tower.picture(x)).pooler_output


def _projected(pooled: Tensor, where: Path, modality: Modality) -> Tensor:
    return pooled @ read_tensors(where / f"head-{modality}.safetensors")[f"{PROJECTION}weight"].T


def _model(tower: Any) -> Any:
    if not isinstance(tower, ast.Tower) or tower.classifier is None:
        return tower.encoder
    from transformers import ASTForAudioClassification

    with torch.device("meta"):
        whole = ASTForAudioClassification(tower.encoder.config)
    whole.audio_spectrogram_transformer, whole.classifier = tower.encoder, tower.classifier
    return whole


def _opens(tower: Tower) -> str:
    if isinstance(tower, (clap_audio.Tower, clap_text.Tower)):
        return type(tower.encoder).__name__
    return "AutoModel"


def _projection(tower: Any) -> nn.Linear:
    return tower.encoder.text_projection if tower.modality == "text" else tower.encoder.visual_projection


def _clap(towers: dict[Modality, Any]) -> bool:
    """Whether both halves of a CLAP are there, and meet."""
    audio, text = towers.get("audio"), towers.get("text")
    halves = isinstance(audio, clap_audio.Tower) and isinstance(text, clap_text.Tower)
    return halves and audio.out_dim == text.out_dim


def _whole_clap(audio: Any, text: Any) -> Any:
    """Both halves as one model; the temperatures, which are not of use here, are 1."""
    from transformers import ClapConfig, ClapModel

    halves = {"audio": audio.encoder, "text": text.encoder}
    configs = {f"{m}_config": half.config.to_dict() for m, half in halves.items()}
    with torch.device("meta"):
        whole = ClapModel(ClapConfig(**configs, projection_dim=audio.out_dim))
    for m, half in halves.items():
        for name in (f"{m}_model", f"{m}_projection"):
            setattr(whole, name, getattr(half, name))
    whole.logit_scale_a, whole.logit_scale_t = (nn.Parameter(torch.zeros(())) for _ in range(2))
    return whole
