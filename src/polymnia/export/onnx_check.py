"""Graphs of ONNX run by onnxruntime, from the disk, and compared with torch: alone, in batches, at many lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from polymnia.export.probes import Probes, encode, prepared
from polymnia.export.traceable import WINDOWED
from polymnia.runs.encoding import MediaEncoder
from polymnia.types import AudioSpec, Modality, UserError

TOLERANCE = 1e-4  # of a unit vector's numbers: onnxruntime adds up in another order
TOKENIZER = "tokenizer"
LENGTHS, STEP = 16, 0.01  # clips that are each so many seconds longer than the one before: every rest of a stride
Vectors = Float32[np.ndarray, "n d"]


def verify(folder: Path, encoder: MediaEncoder, inputs: Probes) -> dict[Modality, float]:
    """Run every file; gives the largest difference of a number for each modality.

    Raises UserError where it is above ``TOLERANCE``, and for a file that bears another encoder's signature.
    """
    wanted, found = encode(encoder, inputs), dict[Modality, float]()
    for m, raw in inputs.items():
        path = folder / f"{m}.onnx"
        session = _open(path)
        if session.get_modelmeta().custom_metadata_map.get("signature") != encoder.signature:
            raise UserError(f"{path} does not bear the signature {encoder.signature} of the run's encoder")
        batches = _batches(encoder, m, raw, folder)
        found[m] = max(_compared(session, path, batch, wanted[m][at]) for at, batch in batches)
    return found


def at_many_lengths(path: Path, encoder: MediaEncoder) -> None:
    """Compare a graph with torch on clips of all rests that a stride may leave. Raises UserError where they differ."""
    session = _open(path)
    for batch, rows in _lengths(encoder):
        _compared(session, path, batch, rows)


def _compared(session: Any, path: Path, batch: dict[str, Any], wanted: Vectors) -> float:
    """The largest difference of a number, of as many rows as are wanted. Raises UserError above ``TOLERANCE``."""
    rows = _run(session, batch, path)
    apart = float(np.abs(rows[: len(wanted)] - wanted).max())
    if not apart <= TOLERANCE:  # so written that NaN fails, too
        shapes = ", ".join(f"{k} {' x '.join(map(str, v.shape))}" for k, v in batch.items())
        raise UserError(
            f"{path.name}: vectors of {shapes} differ from torch's by {apart:.2g}, more than {TOLERANCE:g}; nothing "
            "was written"
        )
    return apart


def _lengths(encoder: MediaEncoder) -> Iterator[tuple[dict[str, Any], Vectors]]:
    """Clips of noise, and what torch makes of them. None for towers of windows, whose strides are in each window."""
    tower = encoder.model.tower("audio")
    spec = tower.spec
    if not isinstance(spec, AudioSpec) or isinstance(tower, WINDOWED):
        return
    rng, most = np.random.default_rng(0), round(spec.max_seconds * spec.sample_rate)
    first = min(round(1.3 * max(spec.samples, spec.least)), most)
    sizes = {min(first + round(k * STEP * spec.sample_rate), most) for k in range(LENGTHS)}
    for n in sorted(sizes):
        clip = np.float32(rng.uniform(-0.5, 0.5, n))
        yield {"waveform": clip[None]}, encoder.encode_audio([clip], spec.sample_rate)


def _batches(
    encoder: MediaEncoder, m: Modality, raw: list[Any], folder: Path
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Inputs of the graph, and which of ``raw`` their first rows are: alone and together. Sounds, which are of unlike
    lengths, stand together with themselves, and with themselves backwards."""
    if m == "audio":
        for at, x in enumerate(wave.numpy() for wave in prepared(encoder, m, raw)):
            yield [at], {"waveform": x}
            yield [at, at], {"waveform": np.concatenate([x, x, x[:, ::-1], -x[:, ::-1]])}
        return
    for rows in (*([at] for at in range(len(raw))), [0, len(raw) - 1], list(range(len(raw)))):
        some = [raw[at] for at in rows]
        (x,) = prepared(encoder, m, some)
        yield rows, {"pixels": x.numpy()} if m == "image" else ids(encoder, some, x, folder)


def ids(encoder: MediaEncoder, texts: list[str], x: Tensor, folder: Path) -> dict[str, Any]:
    """Token ids by the tokenizer that lies in the folder, if the tower has one; else ``x``, the tower's own."""
    spec = encoder.model.tower("text").spec
    if not (folder / TOKENIZER).is_dir():
        return {"input_ids": x.numpy(), "attention_mask": (x != spec.pad_id).long().numpy()}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER, local_files_only=True)
    found = tokenizer(texts, padding=True, truncation=True, max_length=spec.max_tokens, return_tensors="np")
    return {k: np.asarray(found[k], dtype=np.int64) for k in ("input_ids", "attention_mask")}


def _open(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors reach us as exceptions
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its kinds have no common base
        raise UserError(f"onnxruntime does not open {path.name}: {str(error).splitlines()[0]}") from error


def _run(session: Any, batch: dict[str, Any], path: Path) -> Vectors:
    try:
        return session.run(None, batch)[0]
    except Exception as error:
        shapes = ", ".join(f"{k} {v.shape}" for k, v in batch.items())
        raise UserError(f"onnxruntime does not run {path.name} on {shapes}: {str(error).splitlines()[0]}") from error
