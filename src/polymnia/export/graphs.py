"""A tower as a graph of ONNX in a file: from what a caller has (samples, token ids, pixels) to unit vectors.

Front ends are inside: their Fourier transforms become ONNX's own. A graph takes any batch, sounds of any length and
texts of any number of tokens.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymnia.export.traceable import WINDOWED, Pictures, Sounds, Texts, WindowedSounds
from polymnia.runs.encoding import MediaEncoder
from polymnia.types import AudioSpec, ImageSpec, Modality, TextSpec, UserError

# Lengths of the clip that a tower is traced with, in training crops. One that happens to need no step that others need
# (as many tokens as there are positions, no rest of a stride) may leave it out of the graph: then the next is tried.
STRETCHES = (2.3, 2.61, 3.07)
MOST = 3 << 29  # bytes of weights inside of a file; more lie beside it, as ONNX's files end at 2 GB


def graph(  # noqa: PLR0913 (a tower, and what its file says)
    encoder: MediaEncoder,
    modality: Modality,
    path: Path,
    prompted: bool,
    said: Mapping[str, object],
    stretch: float = STRETCHES[0],
) -> None:
    """Write the graph of one tower to a file. ``prompted``: the method puts prompts into it; ``said``: its metadata.

    ``stretch``: how long the clip is that it is traced with, in training crops. Raises UserError for a tower that has
    no graph, and without the extra ``onnx``.
    """
    try:
        import onnxscript  # noqa: F401 (torch needs it, and says so less plainly)
    except ImportError as error:
        raise missing(error) from error
    try:
        with torch.no_grad(), _silence():
            exported = traced(encoder, modality, prompted, stretch)
            program: Any = torch.onnx.export(exported, dynamo=True, verbose=False, output_names=["vector"])
    except Exception as error:  # torch raises dozens of kinds, from its tracer to its converter
        raise UserError(_refusal(encoder, modality, prompted, error)) from error
    _name_axes(program.model, "tokens" if modality == "text" else "samples")
    program.model.metadata_props.update({k: str(v) for k, v in said.items()})
    weights = sum(v.const_value.nbytes for v in program.model.graph.initializers.values() if v.const_value is not None)
    program.save(path, external_data=weights > MOST)


def traced(
    encoder: MediaEncoder, modality: Modality, prompted: bool, stretch: float = STRETCHES[0]
) -> torch.export.ExportedProgram:
    """The tower as torch's own graph, for any batch and length. Raises what torch raises where it cannot be traced."""
    module, inputs, axes = _parts(encoder, modality, prompted, stretch)
    return torch.export.export(module.eval(), inputs, dynamic_shapes=axes, strict=False)


def missing(error: ImportError) -> UserError:
    """What to say where the extra is not installed."""
    return UserError(f"export onnx needs onnx, onnxscript and onnxruntime ({error}): pip install 'polymnia[onnx]'")


def _parts(
    encoder: MediaEncoder, modality: Modality, prompted: bool, stretch: float
) -> tuple[nn.Module, tuple[Tensor, ...], Any]:
    """A module, example inputs, and which of their axes may have any length."""
    tower, dynamic = encoder.model.tower(modality), torch.export.Dim.DYNAMIC
    spec = tower.spec
    both = {0: dynamic, 1: dynamic}
    if isinstance(spec, AudioSpec):
        windowed = isinstance(tower, WINDOWED)
        if windowed and prompted:
            raise UserError(
                f"the audio tower ({type(tower).__module__}) takes its prompts in windows: no graph of ONNX"
            )
        module = WindowedSounds(encoder) if windowed else Sounds(encoder)
        n = round((stretch + 1) * module.size) if windowed else round(stretch * max(spec.samples, spec.least))
        return module, (torch.zeros(3, n),), {"waveform": both}
    if isinstance(spec, ImageSpec):
        shape = (3, spec.channels, spec.size, spec.size)
        return Pictures(encoder), (torch.zeros(shape, dtype=torch.uint8),), {"pixels": {0: dynamic}}
    if isinstance(spec, TextSpec):
        ids = tower.prepare(["rain on a roof", "a dog", "wind, and a bell far away"])
        mask = (ids != spec.pad_id).long()
        return Texts(encoder, spec), (ids, mask), {"input_ids": both, "attention_mask": both}
    raise UserError(f"the {modality} tower of this run takes {type(spec).__name__}, not media")


def _name_axes(model: Any, second: str) -> None:
    """Give the axes of any length the names that a reader expects, in place of the tracer's."""
    first = model.graph.inputs[0].shape
    names = {str(axis.value): name for axis, name in zip(first, ("batch", second), strict=False) if _open(axis)}
    words = re.compile("|".join(rf"\b{re.escape(old)}\b" for old in names))
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
    for shape in {id(v.shape): v.shape for v in values if v.shape is not None}.values():
        for at, axis in enumerate(shape):
            if _open(axis) and axis.value is not None:
                shape[at] = words.sub(lambda found: names[found[0]], str(axis.value))


def _open(axis: Any) -> bool:
    return not isinstance(axis, int)


def _refusal(encoder: MediaEncoder, modality: Modality, prompted: bool, error: BaseException) -> str:
    """Which tower has no graph, and the line of torch's message that says most."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if "data-dependent" in reason:
        reason = "it chooses by what it sees, and a graph has no such branches"
    part = type(encoder.model.tower(modality)).__module__
    under = f" under the method {', '.join(encoder.method.names)}" if prompted else ""
    return f"the {modality} tower ({part}){under} has no graph of ONNX: {reason}; use `export hf`"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what torch logs and prints while it traces: packages that are not there, whole graphs on a failure."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "torch.export")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    aside = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(aside), contextlib.redirect_stderr(aside):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
