"""AST: a vision transformer over overlapping patches of Kaldi's log-mel, through transformers.

Gong, Chung, Glass: AST: Audio Spectrogram Transformer (2021). A clip shorter than the window (10.24 s) is filled up
with zeros behind its log-mel, as AST does it. Of a longer one AST takes the beginning; here it is the mean of the
features of consecutive windows.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from polymnia.models.attention import ast_block
from polymnia.models.hub import load_config, load_model, load_preprocessing, locate
from polymnia.models.prompting import Prompt, run_blocks
from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.models.windows import mean_over_windows
from polymnia.ops.fbank import KaldiFbank
from polymnia.types import AudioSpec, UserError

WHAT = "Audio Spectrogram Transformer"
KINDS = ("audio-spectrogram-transformer",)
AUDIOSET: dict[str, Any] = {  # MIT/ast-finetuned-audioset-10-10-0.4593
    "sampling_rate": 16000,
    "num_mel_bins": 128,
    "max_length": 1024,
    "do_normalize": True,
    "mean": -4.2677393,
    "std": 4.5689974,
}


class Config(TowerConfig):
    """``model``: a hub id, a folder, or ``package:name/sub`` for a folder inside an installed Python package.

    ``seconds``: training crop; the tower's window (10.24 s) when not given. ``max_seconds``: whole clips up to this
    length in evaluation, as the mean over windows.
    """

    model: str = "MIT/ast-finetuned-audioset-10-10-0.4593"
    seconds: PositiveFloat | None = None
    max_seconds: PositiveFloat = 30.0
    frozen: bool = True


class Tower(AbstractTower):
    """Features: the mean of the class and the distillation token behind the last norm (768).

    Prompts stand behind these two; those of a long clip are the same in each of its windows.
    Classes: those of the checkpoint's classifier, where it has one (527 of AudioSet).
    Raises UserError for a model that is absent, damaged, or no AST.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, cfg: Config):
        super().__init__()
        self.modality = "audio"
        source, folder = locate(cfg.model)
        classifies = "ASTForAudioClassification" in (load_config(source, folder, WHAT).get("architectures") or ())
        name = "ASTForAudioClassification" if classifies else "ASTModel"
        model = load_model(name, KINDS, source, folder, WHAT)
        self.encoder = model.audio_spectrogram_transformer if classifies else model
        self.classifier = model.classifier if classifies else None
        config = model.config
        if classifies:
            self.class_names = tuple(config.id2label[i] for i in range(config.num_labels))
        stated = AUDIOSET | load_preprocessing(source, folder, "feature_extractor", WHAT)
        for key in ("num_mel_bins", "max_length"):
            if stated[key] != getattr(config, key):
                raise UserError(f"'{source}' takes {key} {getattr(config, key)} and its preprocessing {stated[key]}")
        self.fbank = KaldiFbank(stated["sampling_rate"], stated["num_mel_bins"])
        self.frames_in = config.max_length
        # part of the state, because two encoders with other means are not the same encoder
        self.register_buffer("mean", torch.tensor(stated["mean"] if stated["do_normalize"] else 0.0))
        self.register_buffer("std", torch.tensor(2 * stated["std"] if stated["do_normalize"] else 1.0))  # AST's own 2
        self.window = self.fbank.frame + (self.frames_in - 1) * self.fbank.hop
        seconds = cfg.seconds or self.frames_in / 100
        self.spec = AudioSpec(stated["sampling_rate"], seconds, max(seconds, cfg.max_seconds), min_seconds=0.0)
        self.out_dim = self.width = config.hidden_size
        self.depth = config.num_hidden_layers

    def forward(self, x: Float[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        """Features of clips at 16 kHz in [-1, 1], of any length."""
        return mean_over_windows(lambda window: self._encode(window, prompt), x, self.window)

    def classify(self, h: Float[Tensor, "b o"]) -> Float[Tensor, "b c"]:
        """Logits of features, in the order of ``class_names``."""
        return super().classify(h) if self.classifier is None else self.classifier(h)

    def picture(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b t mel"]:
        """The log-mel of clips of at most one window, as the model eats it."""
        mel = self.fbank(x)
        mel = nn.functional.pad(mel, (0, 0, 0, self.frames_in - mel.shape[1]))
        return (mel - self.mean) / self.std

    def _encode(self, x: Float[Tensor, "b n"], prompt: Prompt | None) -> Float[Tensor, "b o"]:
        values = self.picture(x)
        if prompt is None or prompt.empty:
            return self.encoder(input_values=values).pooler_output
        blocks = [ast_block(layer) for layer in self.encoder.layers]
        hidden = self.encoder.layernorm(run_blocks(blocks, self.encoder.embeddings(values), prompt, at=2))
        return (hidden[:, 0] + hidden[:, 1]) / 2
