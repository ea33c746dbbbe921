"""PANNs once more, as functions of a state dict in the public layout: what the towers are tested against.

Written from the paper and the published layout (Kong et al., 2020; names and shapes of the Zenodo files), with
numpy's Fourier transform and mel filters in closed form, sharing nothing with the package.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
RESNETS = {"resnet22": (2, 2, 2, 2), "resnet38": (3, 4, 6, 3), "resnet54": (3, 4, 6, 3)}
CNNS = {"cnn6": 4, "cnn10": 4, "cnn14": 6}
V1 = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)) + ((512, 512, 1),) * 5
V1 = V1 + ((512, 1024, 2), (1024, 1024, 1))
V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 2), (6, 160, 3, 1), (6, 320, 1, 1))
FRONT = {32000: (1024, 320, 14000), 16000: (512, 160, 8000), 8000: (256, 80, 4000)}  # n_fft, hop, fmax
HEAD = {"resnet": (2048, 2048), "cnn14": (2048, 2048), "cnn": (512, 512)}
HEAD |= {"mobilenetv1": (1024, 1024), "mobilenetv2": (1280, 1024)}


def front_end(rate: int) -> State:
    """The three constants that a published file holds."""
    n_fft, _, fmax = FRONT[rate]
    kernels = np.fft.fft(np.eye(n_fft))[: n_fft // 2 + 1] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft))
    return {
        "spectrogram_extractor.stft.conv_real.weight": torch.tensor(kernels.real[:, None], dtype=torch.float32),
        "spectrogram_extractor.stft.conv_imag.weight": torch.tensor(kernels.imag[:, None], dtype=torch.float32),
        "logmel_extractor.melW": torch.tensor(mel_filters(rate, n_fft, fmax), dtype=torch.float32),
    }


def mel_filters(rate: int, n_fft: int, fmax: float, fmin: float = 50) -> np.ndarray:
    """64 triangles of area 1, (bin, mel), on Slaney's scale: 200/3 Hz a mel below 1 kHz, then 27 mel to 6.4 kHz."""
    low, high = (3 * f / 200 if f < 1000 else 15 + 27 * math.log(f / 1000) / math.log(6.4) for f in (fmin, fmax))
    mel = np.linspace(low, high, 66)
    p = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    return np.stack([np.interp(bins, p[i : i + 3], [0, 2 / (p[i + 2] - p[i]), 0]) for i in range(64)], axis=1)


def random_state(arch: str, rate: int = 32000, seed: int = 0) -> State:
    """A whole published state dict with random numbers that keep activations at a scale of one."""
    g = torch.Generator().manual_seed(seed)
    state, known = front_end(rate), shapes(arch)
    for name, shape in known.items():
        layer, _, entry = name.rpartition(".")
        gain = entry == "weight" and f"{layer}.running_var" in known  # at 0 a residual branch would be silent
        if gain or entry == "running_var":
            state[name] = torch.rand(shape, generator=g) + 0.5
            state[name] *= 0.6 if name.startswith("resnet") and gain else 1  # else 16 sums in a row would grow
        elif len(shape) > 1:
            bound = math.sqrt(6 / math.prod(shape[1:]))  # a deviation of sqrt(2 / fan in)
            state[name] = torch.empty(shape).uniform_(-bound, bound, generator=g)
        else:
            state[name] = torch.randn(shape, generator=g) * 0.1 if shape else torch.tensor(7)
    state["bn0.running_mean"] = torch.randn(64, generator=g) - 30  # decibels
    state["bn0.running_var"] = torch.rand(64, generator=g) * 100 + 350
    return state


def shapes(arch: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything but the front end."""
    found: dict[str, tuple[int, ...]] = _norm("bn0", 64)
    if arch in CNNS:
        for i in range(CNNS[arch]):
            found |= _block(f"conv_block{i + 1}", 32 * 2**i if i else 1, 64 * 2**i, arch == "cnn6")
    elif arch in RESNETS:
        found |= _block("conv_block1", 1, 64) | _resnet(arch)
        found |= _block("conv_block_after1", 2048 if arch == "resnet54" else 512, 2048)
    else:
        found |= _mobile_v1() if arch == "mobilenetv1" else _mobile_v2()
    last, wide = next(size for name, size in HEAD.items() if arch.startswith(name))
    return found | _linear("fc1", last, wide) | _linear("fc_audioset", wide, 527)


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    entries = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{e}": (channels,) for e in entries} | {f"{name}.num_batches_tracked": ()}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _block(name: str, inputs: int, outputs: int, single: bool = False) -> dict[str, tuple[int, ...]]:
    k = 5 if single else 3
    found = {f"{name}.conv1.weight": (outputs, inputs, k, k)} | _norm(f"{name}.bn1", outputs)
    if not single:
        found |= {f"{name}.conv2.weight": (outputs, outputs, 3, 3)} | _norm(f"{name}.bn2", outputs)
    return found


def _resnet(arch: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    deep, last = arch == "resnet54", 64
    for i, count in enumerate(RESNETS[arch]):
        c = 64 * 2**i
        wide = 4 * c if deep else c
        for b in range(count):
            name = f"resnet.layer{i + 1}.{b}"
            kernels = [(c, last, 1), (c, c, 3), (wide, c, 1)] if deep else [(c, last, 3), (c, c, 3)]
            for n, (out, into, k) in enumerate(kernels, 1):
                found |= {f"{name}.conv{n}.weight": (out, into, k, k)} | _norm(f"{name}.bn{n}", out)
            if b == 0 and (i or deep):
                at = 1 if i else 0  # behind the pool, where there is one
                found[f"{name}.downsample.{at}.weight"] = (wide, last, 1, 1)
                found |= _norm(f"{name}.downsample.{at + 1}", wide)
            last = wide
    return found


def _mobile_v1() -> dict[str, tuple[int, ...]]:
    found = {"features.0.0.weight": (32, 1, 3, 3)} | _norm("features.0.2", 32)
    for i, (into, out, _) in enumerate(V1, 1):
        found |= {f"features.{i}.0.weight": (into, 1, 3, 3)} | _norm(f"features.{i}.2", into)
        found |= {f"features.{i}.4.weight": (out, into, 1, 1)} | _norm(f"features.{i}.5", out)
    return found


def _v2_blocks() -> list[tuple[int, int, int, int]]:
    """Inputs, outputs, stride, expansion of blocks 1 to 17."""
    blocks, last = [], 32
    for expansion, out, count, stride in V2:
        for n in range(count):
            blocks.append((last, out, 1 if n else stride, expansion))
            last = out
    return blocks


def _mobile_v2() -> dict[str, tuple[int, ...]]:
    found = {"features.0.0.weight": (32, 1, 3, 3)} | _norm("features.0.2", 32)
    for i, (into, out, _, expansion) in enumerate(_v2_blocks(), 1):
        name, wide, at = f"features.{i}.conv", into * expansion, 3 if expansion > 1 else 0
        if expansion > 1:
            found |= {f"{name}.0.weight": (wide, into, 1, 1)} | _norm(f"{name}.1", wide)
        found |= {f"{name}.{at}.weight": (wide, 1, 3, 3)} | _norm(f"{name}.{at + 2}", wide)
        found |= {f"{name}.{at + 4}.weight": (out, wide, 1, 1)} | _norm(f"{name}.{at + 5}", out)
    return found | {"features.18.0.weight": (1280, 320, 1, 1)} | _norm("features.18.1", 1280)


def standardised(state: State, x: Tensor, rate: int = 32000) -> Tensor:
    """Waveforms (b, n) to pictures (b, 1, t, 64) behind the first batch norm."""
    n_fft, hop, _ = FRONT[rate]
    x = F.pad(x[:, None], (n_fft // 2, n_fft // 2), mode="reflect")
    kernels = (state[f"spectrogram_extractor.stft.conv_{part}.weight"] for part in ("real", "imag"))
    real, imag = (F.conv1d(x, kernel, stride=hop) for kernel in kernels)
    mel = (real**2 + imag**2).mT @ state["logmel_extractor.melW"]
    decibel = 10 * torch.log10(mel.clamp(min=1e-10))
    return bn(state, "bn0", decibel.mT[..., None])[..., 0].mT[:, None]


def bn(state: State, name: str, x: Tensor) -> Tensor:
    mean, var, gain, bias = (state[f"{name}.{e}"] for e in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, gain, bias)


def conv_bn(state: State, conv: str, norm: str, x: Tensor, groups: int = 1, pool: int = 1) -> Tensor:
    w = state[f"{conv}.weight"]
    x = F.conv2d(x, w, padding=w.shape[-1] // 2, groups=groups)
    return bn(state, norm, F.avg_pool2d(x, pool))


def coarse(arch: str, state: State, picture: Tensor) -> Tensor:
    """Pictures to maps averaged over frequency: (b, channels, frames)."""
    if arch in CNNS:
        x = picture
        for i in range(1, CNNS[arch] + 1):
            x = F.avg_pool2d(_convs(state, f"conv_block{i}", x), 1 if i == 6 else 2)
    elif arch in RESNETS:
        x = F.avg_pool2d(_convs(state, "conv_block1", picture), 2)
        for i, count in enumerate(RESNETS[arch]):
            for b in range(count):
                x = _residual(state, f"resnet.layer{i + 1}.{b}", x, 2 if i and not b else 1)
        x = _convs(state, "conv_block_after1", F.avg_pool2d(x, 2))
    else:
        x = _v1(state, picture) if arch == "mobilenetv1" else _v2(state, picture)
    return x.mean(3)


def _convs(state: State, name: str, x: Tensor) -> Tensor:
    for n in (1, 2):
        if f"{name}.conv{n}.weight" in state:
            x = conv_bn(state, f"{name}.conv{n}", f"{name}.bn{n}", x).relu()
    return x


def _residual(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    y = F.avg_pool2d(x, 2) if stride == 2 else x
    last = 3 if f"{name}.conv3.weight" in state else 2
    for n in range(1, last + 1):
        y = conv_bn(state, f"{name}.conv{n}", f"{name}.bn{n}", y)
        y = y if n == last else y.relu()
    if stride == 2:
        x = conv_bn(state, f"{name}.downsample.1", f"{name}.downsample.2", F.avg_pool2d(x, 2))
    elif f"{name}.downsample.0.weight" in state:
        x = conv_bn(state, f"{name}.downsample.0", f"{name}.downsample.1", x)
    return (x + y).relu()


def _v1(state: State, x: Tensor) -> Tensor:
    x = conv_bn(state, "features.0.0", "features.0.2", x, pool=2).relu()
    for i, (into, _, stride) in enumerate(V1, 1):
        x = conv_bn(state, f"features.{i}.0", f"features.{i}.2", x, groups=into, pool=stride).relu()
        x = conv_bn(state, f"features.{i}.4", f"features.{i}.5", x).relu()
    return x


def _v2(state: State, x: Tensor) -> Tensor:
    x = conv_bn(state, "features.0.0", "features.0.2", x, pool=2).clamp(0, 6)
    for i, (into, out, stride, expansion) in enumerate(_v2_blocks(), 1):
        name, y, at = f"features.{i}.conv", x, 3 if expansion > 1 else 0
        if expansion > 1:
            y = conv_bn(state, f"{name}.0", f"{name}.1", y).clamp(0, 6)
        y = conv_bn(state, f"{name}.{at}", f"{name}.{at + 2}", y, groups=into * expansion, pool=stride).clamp(0, 6)
        y = conv_bn(state, f"{name}.{at + 4}", f"{name}.{at + 5}", y)
        x = x + y if stride == 1 and into == out else y
    return conv_bn(state, "features.18.0", "features.18.1", x).clamp(0, 6)


def embedding(state: State, maps: Tensor) -> Tensor:
    """Maps averaged over frequency to the layer before the classifier."""
    return F.linear(maps.amax(2) + maps.mean(2), state["fc1.weight"], state["fc1.bias"]).relu()


def scores(state: State, h: Tensor) -> Tensor:
    """AudioSet scores between 0 and 1."""
    return F.linear(h, state["fc_audioset.weight"], state["fc_audioset.bias"]).sigmoid()
