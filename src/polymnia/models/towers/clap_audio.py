"""LAION CLAP's audio tower: HTS-AT over log-mel, and its projection, from a checkpoint in the layout of transformers.

Wu et al.: Large-scale contrastive language-audio pretraining with feature fusion and keyword-to-caption augmentation
(2023). The unfused checkpoints only: fusion mixes random stretches of a clip, so that two passes would not agree.

A clip shorter than the window (10 s) is repeated and then zero-padded, as LAION does it. Of a longer one LAION takes a
random window; here it is the mean of the embeddings of consecutive windows, which says the same of the same clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from pydantic import PositiveFloat, ValidationError
from torch import Tensor

from polymnia.config import explain
from polymnia.models.hub import load_model, load_preprocessing, locate
from polymnia.models.prompting import Prompt
from polymnia.models.swin import run_swin
from polymnia.models.tower import AbstractTower, TowerConfig
from polymnia.models.windows import mean_over_windows, repeat_pad
from polymnia.ops.audio import LogMel, LogMelConfig
from polymnia.types import AudioSpec, UserError

WHAT = "CLAP audio tower"
KINDS = ("clap", "clap_audio_model")
UNFUSED = {  # laion/clap-htsat-unfused
    "sampling_rate": 48000,
    "fft_window_size": 1024,
    "hop_length": 480,
    "feature_size": 64,
    "frequency_min": 50,
    "frequency_max": 14000,
    "max_length_s": 10,
    "padding": "repeatpad",
    "truncation": "rand_trunc",
    "top_db": None,
}


class Config(TowerConfig):
    """``model``: a hub id, a folder, or ``package:name/sub`` for a folder inside an installed Python package.

    ``seconds``: training crop; the tower's window (10 s) when not given. ``max_seconds``: whole clips up to this
    length in evaluation, as the mean over windows.
    """

    model: str = "laion/clap-htsat-unfused"
    seconds: PositiveFloat | None = None
    max_seconds: PositiveFloat = 30.0
    frozen: bool = True


class Tower(AbstractTower):
    """Waveforms to projected audio embeddings, not normalised (512).

    Prompts are seen in every window of the transformer (see ``models/swin.py``); those of a long clip are the same in
    each of its windows of 10 s. ``width``: of a token at each block, twice as many numbers from stage to stage.
    Raises UserError for a model that is absent, damaged, no CLAP, or a fused one.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.modality = "audio"
        source, folder = locate(cfg.model)
        self.encoder = load_model("ClapAudioModelWithProjection", KINDS, source, folder, WHAT)
        stated = UNFUSED | load_preprocessing(source, folder, "feature_extractor", WHAT)
        self.logmel = LogMel(front_end(stated, source))
        if self.encoder.config.enable_fusion:
            raise UserError(f"'{source}' is a fused CLAP; only unfused ones (as {Config().model}) are deterministic")
        if stated["feature_size"] != self.encoder.config.num_mel_bins:
            bands = self.encoder.config.num_mel_bins
            raise UserError(f"'{source}' takes {bands} mel bands and its preprocessing gives {stated['feature_size']}")
        self.window = round(stated["max_length_s"] * stated["sampling_rate"])
        seconds = cfg.seconds or float(stated["max_length_s"])
        self.spec = AudioSpec(stated["sampling_rate"], seconds, max(seconds, cfg.max_seconds), min_seconds=0.0)
        self.out_dim = self.encoder.config.projection_dim
        self.width = tuple(s.dim for s in self.encoder.audio_model.audio_encoder.layers for _ in s.blocks)
        self.depth = len(self.width)

    def forward(self, x: Float[Tensor, "b n"], prompt: Prompt | None = None) -> Float[Tensor, "b o"]:
        """Features of clips at 48 kHz in [-1, 1], of any length."""
        return mean_over_windows(lambda window: self._encode(window, prompt), x, self.window)

    def picture(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b 1 t mel"]:
        """The log-mel of clips of at most one window, as the model eats it."""
        return self.logmel(repeat_pad(x, self.window)).transpose(1, 2)[:, None]

    def _encode(self, x: Float[Tensor, "b n"], prompt: Prompt | None) -> Float[Tensor, "b o"]:
        mel = self.picture(x)
        if prompt is None or prompt.empty:
            return self.encoder(input_features=mel).audio_embeds
        model = self.encoder.audio_model.audio_encoder
        picture = model.reshape_mel2img(model.batch_norm(mel.transpose(1, 3)).transpose(1, 3))
        hidden = run_swin(model.layers, model.input_resolutions, model.patch_embed(picture), prompt)
        # its own forward sorts the map by frequency before it pools, but a mean over all places knows no order
        return self.encoder.audio_projection(model.norm(hidden).mean(1))


def front_end(stated: Mapping[str, Any], source: str) -> LogMelConfig:
    """The log-mel that a checkpoint's preprocessing asks for. Raises UserError for one that this tower does not do."""
    for key in ("padding", "truncation", "top_db"):
        if stated[key] != UNFUSED[key]:
            raise UserError(f"the preprocessing of '{source}' has {key}: {stated[key]}, not {UNFUSED[key]}")
    try:
        return LogMelConfig(
            sample_rate=stated["sampling_rate"],
            n_fft=stated["fft_window_size"],
            win_length=stated["fft_window_size"],
            hop=stated["hop_length"],
            n_mels=stated["feature_size"],
            fmin=stated["frequency_min"],
            fmax=stated["frequency_max"],
        )
    except ValidationError as error:
        raise UserError(f"the preprocessing of '{source}' makes no log-mel: {explain(error)}") from error
