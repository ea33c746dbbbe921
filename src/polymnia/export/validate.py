"""The checks that HEAR's public validator makes of a module, and what it would say, all at once instead of one by one.

After hear-validator (2021.1.5). Beyond it: 32 kHz is a rate of HEAR's rules, so that it is none of the problems;
timestamps must be float32, and nothing may carry a gradient.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from polymnia.export.modules import RATES
from polymnia.types import UserError

LENGTHS = (1.07, 1.98, 4.0)  # seconds, for timestamps: two clips each
SCENES, SCENE_SECONDS = 4, 2.74
API = ("load_model", "get_timestamp_embeddings", "get_scene_embeddings")
SIZES = ("scene_embedding_size", "timestamp_embedding_size")


class Problem(NamedTuple):
    """What a module does that HEAR does not want. Warnings do not keep it out."""

    level: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.message}"


def validate(module: ModuleType, model_file_path: str = "", device: str | None = None) -> list[Problem]:
    """Everything that is wrong with a module (empty: it conforms). White noise of the validator's lengths goes in.

    ``device``: default the GPU where there is one.
    """
    lacking = [name for name in API if not callable(getattr(module, name, None))]
    if lacking:
        return [Problem("error", f"the module has no function '{name}'") for name in lacking]
    try:
        model = module.load_model(model_file_path) if model_file_path else module.load_model()
    except Exception as error:  # any fault of a module under test is a finding, not ours
        return [Problem("error", f"load_model failed: {type(error).__name__}: {error}")]
    if not isinstance(model, nn.Module):
        return [Problem("error", f"load_model gave a {type(model).__name__}, not a torch.nn.Module")]
    problems = list(_attributes(model))
    if problems:
        return problems
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(where)
    for seconds in LENGTHS:
        noise = _noise(2, seconds, model.sample_rate, where)
        problems += _guarded(f"get_timestamp_embeddings, {seconds} s", _timestamped, module, model, noise, seconds)
    noise = _noise(SCENES, SCENE_SECONDS, model.sample_rate, where)
    return problems + _guarded(f"get_scene_embeddings, {SCENE_SECONDS} s", _scene, module, model, noise)


def find_module(name: str) -> ModuleType:
    """The module of that name, or the one package in the folder of that name. UserError if there is none."""
    folder = Path(name)
    if folder.is_dir():
        packages = [p.parent for p in sorted(folder.glob("*/__init__.py"))]
        packages = packages or ([folder] if (folder / "__init__.py").exists() else [])
        if len(packages) != 1:
            raise UserError(f"{folder} holds {len(packages)} Python packages: give the folder of one export")
        name = str(packages[0].resolve())
    try:
        return _load(Path(name)) if folder.is_dir() else importlib.import_module(name)
    except UserError:
        raise
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(f"cannot import '{name}': {error}; pip install it, or give its folder") from error


def _load(package: Path) -> ModuleType:
    """The package in a folder, whatever else of its name is installed; what lies beside it hides no library."""
    name, file = package.name, package / "__init__.py"
    if known := sys.modules.get(name):
        if known.__file__ != str(file):
            raise UserError(f"{package}: another '{name}' is loaded, from {known.__file__}; rename the folder")
        return known
    if str(package.parent) not in sys.path:
        sys.path.append(str(package.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # a half of it must not be found later
        raise
    return module


def check_stamps(stamps: np.ndarray, seconds: float) -> Iterator[Problem]:
    """The validator's rules for timestamps (n, t) in milliseconds of clips of ``seconds``."""
    if stamps.shape[1] < 2:
        return
    steps = np.diff(stamps)
    step, length, end = float(steps.mean()), 1000 * seconds, float(stamps.max())
    if steps.max() > 50:
        yield Problem("warning", f"timestamps are up to {steps.max():g} ms apart; 50 ms or less is advised")
    if np.abs(steps - step).max() > 1:
        yield Problem("error", f"timestamps are not regular: off the mean step by {np.abs(steps - step).max():g} ms")
    if stamps.min() > step:
        yield Problem("warning", f"timestamps begin at {stamps.min():g} ms, later than one step")
    if end < length - 2 * step:
        seconds_given = " (seconds instead of milliseconds?)" if end <= seconds + step else ""
        yield Problem("error", f"timestamps end at {end:g} ms of {length:g} ms{seconds_given}")
    elif end < length - step or end < length - 50:
        yield Problem("warning", f"timestamps end at {end:g} ms of {length:g} ms: the end has no embedding")
    if end > length:
        yield Problem("error", f"timestamps end at {end:g} ms, behind the end of the clip at {length:g} ms")


def _attributes(model: nn.Module) -> Iterator[Problem]:
    for name in ("sample_rate", *SIZES):
        value = getattr(model, name, None)
        if type(value) is not int:
            yield Problem("error", f"model.{name} must be an int, not {value!r}")
        elif name == "sample_rate" and value not in RATES:
            yield Problem("error", f"model.sample_rate is {value}; HEAR has {', '.join(map(str, RATES))}")


def _guarded(what: str, check: Any, *given: Any) -> list[Problem]:
    try:
        return [Problem(p.level, f"{what}: {p.message}") for p in check(*given)]
    except Exception as error:
        return [Problem("error", f"{what}: {type(error).__name__}: {error}")]


def _timestamped(module: ModuleType, model: Any, noise: Tensor, seconds: float) -> Iterator[Problem]:
    embeddings, stamps = module.get_timestamp_embeddings(noise, model)
    size = model.timestamp_embedding_size
    yield from _tensor(embeddings, (len(noise), "t", size), "embeddings")
    yield from _tensor(stamps, (len(noise), "t"), "timestamps")
    if stamps.ndim == 2:
        if embeddings.shape[:2] != stamps.shape:
            yield Problem("error", f"{tuple(embeddings.shape)} embeddings have {tuple(stamps.shape)} timestamps")
        yield from check_stamps(stamps.detach().cpu().numpy(), seconds)


def _scene(module: ModuleType, model: Any, noise: Tensor) -> Iterator[Problem]:
    embeddings = module.get_scene_embeddings(noise, model)
    yield from _tensor(embeddings, (len(noise), model.scene_embedding_size), "embeddings")


def _tensor(found: Tensor, shape: tuple[int | str, ...], what: str) -> Iterator[Problem]:
    """``shape``: a letter stands for any number."""
    wanted = f"({', '.join(map(str, shape))})"
    if found.dtype != torch.float32:
        yield Problem("error", f"{what} are {found.dtype}, not torch.float32")
    if found.ndim != len(shape) or any(isinstance(s, int) and s != n for s, n in zip(shape, found.shape, strict=True)):
        yield Problem("error", f"{what} have the shape {tuple(found.shape)}, not {wanted}")
    if found.requires_grad:
        yield Problem("error", f"{what} carry a gradient")


def _noise(clips: int, seconds: float, rate: int, device: torch.device) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return (torch.rand(clips, int(seconds * rate), generator=g) * 2 - 1).to(device)
