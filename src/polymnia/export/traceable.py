"""An encoder's towers as modules that torch can trace for any batch and any length.

Towers that work in windows (CLAP, AST) loop over them in Python, which no graph can for a length that it does not
know; here the same windows are gathered by computed indices.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor, nn

from polymnia.continual.chain import Chain
from polymnia.models.towers import ast, audio_tokens, clap_audio
from polymnia.runs.encoding import MediaEncoder
from polymnia.types import AudioSpec, Known, Modality, TextSpec

WINDOWED = (ast.Tower, audio_tokens.Tower, clap_audio.Tower)


class Features(nn.Module):
    """A tower with what the method adds to it, and its head: from a prepared batch to unit vectors."""

    def __init__(self, encoder: MediaEncoder, modality: Modality):
        super().__init__()
        self.model, self.method, self.modality = encoder.model, settled(encoder.method), modality

    def forward(self, x: Num[Tensor, "b ..."]) -> Float[Tensor, "b d"]:
        return self.model.project(self.modality, self.method.features(self.model, self.modality, x, Known()))


class Sounds(nn.Module):
    """Waveforms at the tower's rate; clipped to [-1, 1], zeros behind clips below the tower's least length."""

    def __init__(self, encoder: MediaEncoder):
        super().__init__()
        self.inner, self.least = Features(encoder, "audio"), _sound(encoder).least

    def forward(self, waveform: Float[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        return self.inner(filled(waveform.clamp(-1, 1), self.least))


class WindowedSounds(nn.Module):
    """The same for towers that give the mean over windows of one length."""

    def __init__(self, encoder: MediaEncoder):
        super().__init__()
        self.model, self.least = encoder.model, _sound(encoder).least
        tower: Any = encoder.model.tower("audio")
        self.tower, self.size = tower, tower.spec.samples if isinstance(tower, audio_tokens.Tower) else tower.window

    def forward(self, waveform: Float[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        x = filled(waveform.clamp(-1, 1), self.least)
        n, size = x.shape[1], self.size
        x = repeated(x, size) if isinstance(self.tower, clap_audio.Tower) else filled(x, size)
        last = x.shape[1] - size
        starts = torch.cat([torch.arange((last + size - 1) // size) * size, torch.arange(last, last + 1)])
        windows = x[:, starts[:, None] + torch.arange(size)]
        h = self._encode(windows.flatten(0, 1), n)
        return self.model.project("audio", h.unflatten(0, (-1, starts.shape[0])).mean(1))

    def _encode(self, windows: Float[Tensor, "b n"], samples: int | torch.SymInt) -> Float[Tensor, "b o"]:
        tower: Any = self.tower
        if isinstance(tower, ast.Tower):  # its zeros are behind the log-mel, not behind the clip
            mel, front = tower.fbank(windows), tower.fbank
            whole = 1 + torch.sym_max(0, samples - front.frame) // front.hop
            mel = torch.where(torch.arange(tower.frames_in)[:, None] < whole, mel, 0.0)
            return tower.encoder(input_values=(mel - tower.mean) / tower.std).pooler_output
        if isinstance(tower, clap_audio.Tower):
            return tower.encoder(input_features=tower.picture(windows)).audio_embeds
        return tower.body(tower.front.tokens(windows), None)


class Texts(nn.Module):
    """Token ids and which of them count; ids that do not are read as padding."""

    def __init__(self, encoder: MediaEncoder, spec: TextSpec):
        super().__init__()
        self.inner, self.pad = Features(encoder, "text"), spec.pad_id

    def forward(self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]) -> Float[Tensor, "b d"]:
        return self.inner(torch.where(attention_mask > 0, input_ids, self.pad))


class Pictures(nn.Module):
    """uint8 pixels of the tower's size."""

    def __init__(self, encoder: MediaEncoder):
        super().__init__()
        self.inner = Features(encoder, "image")

    def forward(self, pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.inner(pixels)


def settled(method: Chain) -> Chain:
    """A copy whose counters and flags are numbers of Python: a graph may branch on these, not on tensors.

    What a method counts (tasks begun, whether its first one began) changes in training alone.
    """
    method = copy.deepcopy(method)
    for module in method.modules():
        for name, value in list(module.named_buffers(recurse=False)):
            if value.ndim == 0 and not value.is_floating_point():
                delattr(module, name)
                setattr(module, name, value.item())
    return method


def filled(x: Float[Tensor, "b n"], least: int) -> Float[Tensor, "b m"]:
    """Zeros behind clips shorter than ``least``, by an expression that holds for every length."""
    return nn.functional.pad(x, (0, torch.sym_max(0, least - x.shape[1])))


def repeated(x: Float[Tensor, "b n"], size: int) -> Float[Tensor, "b m"]:
    """Short clips repeated as often as they fit, then zeros up to ``size``: ``windows.repeat_pad`` for any length."""
    n = x.shape[1]
    at, length = torch.arange(torch.sym_max(n, size)), torch.arange(n, n + 1)  # a tensor: the exporter wants it for %
    return torch.where(at < length * torch.sym_max(1, size // n), x[:, at % length], 0.0)


def _sound(encoder: MediaEncoder) -> AudioSpec:
    spec = encoder.model.tower("audio").spec
    assert isinstance(spec, AudioSpec)
    return spec
