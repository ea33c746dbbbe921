"""Published PANNs checkpoints into a network, strictly; a file that does not fit is told what it is."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from polymnia.models.panns.archs import ARCHS
from polymnia.models.panns.front import FRONTS, IMAG, MEL, REAL, constants
from polymnia.models.panns.network import Network
from polymnia.models.weights import read_training
from polymnia.types import UserError

ORIGIN = "ResNet38_mAP=0.434.pth, Cnn14_mAP=0.431.pth and others from https://zenodo.org/record/3987831"
CLOSE = 1e-3  # of the largest value: between two front ends of the same shapes, filters differ by far more
COUNTER = "num_batches_tracked"  # not in files of torch before 0.4.1, and read by no layer here


def load(net: Network, path: Path, arch: str, rate: int) -> None:
    """Load a checkpoint of the public layout; ``arch`` and ``rate`` (Hz) are the recipe's.

    The three constants of the front end may be absent, and must be this rate's if they are there. Raises UserError for
    a file that is missing, damaged, of another architecture or of another front end.
    """
    state = read_training(path, ORIGIN)
    _refuse_other_front_ends(state, path, rate)
    weights, own = {k: v for k, v in state.items() if k not in (REAL, IMAG, MEL)}, net.state_dict()
    if faults := _faults(weights, own):
        raise UserError(f"{path} is no checkpoint of {arch}: {faults[0]}{_more(faults)}. {_way_out(weights, arch)}")
    net.load_state_dict(own | weights)


def _faults(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """What keeps weights from fitting, the tensor first whose absence or shape tells most."""
    wrong = [
        f"{k} is {tuple(weights[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    missing = [f"{k} is missing" for k in own if k not in weights and not k.endswith(COUNTER)]
    return missing + [f"{k} is too many" for k in weights if k not in own] + wrong


def _more(faults: list[str]) -> str:
    return f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""


def _way_out(weights: dict[str, Tensor], arch: str) -> str:
    """Which architecture a file is, or comes nearest to."""
    with torch.device("meta"):  # shapes only
        faults = {name: len(_faults(weights, make().state_dict())) for name, make in ARCHS.items()}
    nearest = min(faults, key=lambda name: (faults[name], name != arch))
    if not faults[nearest]:
        return f"It is one of {nearest}: set arch: {nearest}"
    return f"It fits none of {', '.join(ARCHS)} ({nearest} comes nearest). Get {ORIGIN}"


def _refuse_other_front_ends(state: dict[str, Tensor], path: Path, rate: int) -> None:
    wrong = _differing(state, rate)
    if not wrong:
        return
    fits = [r for r in FRONTS if not _differing(state, r)]
    out = f"it is for {fits[0]} Hz: set rate: {fits[0]}" if fits else f"only the front ends of {_rates()} Hz are known"
    raise UserError(f"{path} has another front end ({wrong}) than that of {rate} Hz, a wrong sample rate; {out}")


def _differing(state: dict[str, Tensor], rate: int) -> str:
    """The first front-end tensor of a checkpoint that is not this rate's; empty if all are, or there are none."""
    for key, own in constants(FRONTS[rate]).items():
        if key not in state:
            continue
        if state[key].shape != own.shape:
            return f"{key} is {tuple(state[key].shape)}, not {tuple(own.shape)}"
        if not (state[key] - own).abs().max() < CLOSE * own.abs().max():  # not a number differs too
            return f"{key} has other values" + (", of other mel bands" if key == MEL else "")
    return ""


def _rates() -> str:
    return ", ".join(map(str, FRONTS))
