"""From a run folder to a folder of ONNX: a graph a tower, and a config.json that says what goes in.

Every file is run by onnxruntime before the folder is there, on sounds, texts and pictures of several lengths, alone
and together, and must give the vectors of torch within ``TOLERANCE``. Needs the extra ``onnx``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from polymnia.export import graphs, package
from polymnia.export.preprocessing import stated
from polymnia.export.probes import Probes, encode, prepared, probes
from polymnia.export.source import open_run, stamp, steered
from polymnia.models.hub import quiet
from polymnia.runs.encoder import Encoder
from polymnia.types import AudioSpec, Modality, UserError
from polymnia.version import __version__

FORMAT = 1
TOLERANCE = 1e-4  # of a unit vector's numbers: onnxruntime adds up in another order
TOKENIZER = "tokenizer"
Vectors = Float32[np.ndarray, "n d"]
README = """\
# {run}, after {task} tasks, as ONNX

A graph a tower, from what `config.json` says under `inputs` to float32 unit vectors (batch, {dim}) of the encoder
`{signature}`: only vectors of the same signature are comparable. When it was written, onnxruntime gave torch's vectors
within {worst:.1g} a number ({tolerance:g} was allowed).

```python
import onnxruntime

session = onnxruntime.InferenceSession("{first}.onnx")
{call}
```
"""
CALLS = {
    "audio": 'vectors = session.run(None, {"waveform": waveform})[0]  # float32 (batch, samples) in [-1, 1]',
    "image": 'vectors = session.run(None, {"pixels": pixels})[0]  # uint8 (batch, channels, size, size)',
    "text": 'vectors = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]  # int64 (batch, tokens)',
}


def export_onnx(run: Path, out: Path, task: int | None = None, data: Path | None = None) -> list[str]:
    """Write the graphs of a run's towers into the folder ``out``; gives what was written, in words.

    ``task``: the encoder after so many tasks (default: the last). ``data``: as for ``polymnia.load``. Raises UserError
    for a run that cannot be loaded, a tower or method that has no graph, a graph that gives other vectors, and where
    ``out`` holds something.
    """
    package.refuse_full(out)
    try:
        import onnxruntime  # noqa: F401 (before minutes of tracing)
    except ImportError as error:
        raise graphs.missing(error) from error
    encoder = open_run(run, task, data)
    inputs = probes(encoder, run)
    with package.new_folder(out) as folder:
        write(encoder, run, folder)
        found = verify(folder, encoder, inputs)
        _tell(folder, encoder, run, found)
    return [f"{out / m}.onnx: vectors differ from torch's by {worst:.1g} at most" for m, worst in found.items()]


def write(encoder: Encoder, run: Path, folder: Path) -> None:
    """The graphs, and the tokenizer of the text tower."""
    said = {"polymnia": __version__, **stamp(encoder, run)}
    prompted = steered(encoder)
    for m in encoder.model.modalities:
        graphs.graph(encoder, m, folder / f"{m}.onnx", m in prompted, said | {"modality": m})
        tokenizer = getattr(encoder.model.tower(m), "tokenizer", None)
        if tokenizer is not None:
            with quiet():
                tokenizer.save_pretrained(folder / TOKENIZER)


def verify(folder: Path, encoder: Encoder, inputs: Probes) -> dict[Modality, float]:
    """Run every file from the disk; gives the largest difference of a number for each modality.

    Raises UserError where it is above ``TOLERANCE``, and for a file that bears another encoder's signature.
    """
    wanted, found = encode(encoder, inputs), dict[Modality, float]()
    for m, raw in inputs.items():
        path = folder / f"{m}.onnx"
        session = _open(path)
        if session.get_modelmeta().custom_metadata_map.get("signature") != encoder.signature:
            raise UserError(f"{path} does not bear the signature {encoder.signature} of the run's encoder")
        worst = 0.0
        for at, batch in _batches(encoder, m, raw, folder):
            rows = _run(session, batch, path)
            apart = float(np.abs(rows[: len(at)] - wanted[m][at]).max())
            if not apart <= TOLERANCE:  # so written that NaN fails, too
                raise UserError(
                    f"{path.name}: a batch of {' x '.join(map(str, rows.shape))} vectors differs from torch's by "
                    f"{apart:.2g}, more than {TOLERANCE:g}; nothing was written"
                )
            worst = max(worst, apart)
        found[m] = worst
    return found


def _batches(
    encoder: Encoder, m: Modality, raw: list[Any], folder: Path
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
        yield rows, {"pixels": x.numpy()} if m == "image" else _ids(encoder, some, x, folder)


def _ids(encoder: Encoder, texts: list[str], x: Tensor, folder: Path) -> dict[str, Any]:
    """Token ids by the tokenizer that lies in the folder, if the tower has one; else the tower's own."""
    spec = encoder.model.tower("text").spec
    if not (folder / TOKENIZER).is_dir():
        return {"input_ids": x.numpy(), "attention_mask": (x != spec.pad_id).long().numpy()}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER, local_files_only=True)
    words = {"padding": True, "truncation": True, "max_length": spec.max_tokens, "return_tensors": "np"}
    found = tokenizer(texts, **words)
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


def _tell(folder: Path, encoder: Encoder, run: Path, found: dict[Modality, float]) -> None:
    """config.json and README."""
    said = {"format": FORMAT, "kind": "onnx", "polymnia": __version__, **stamp(encoder, run), "tolerance": TOLERANCE}
    eats = stated(encoder.model)
    for m, words in eats.items():
        words |= {"file": f"{m}.onnx", "differs": found[m], "inputs": _inputs(encoder, m)}
        spec = encoder.model.tower(m).spec
        if isinstance(spec, AudioSpec):
            words["most_samples"] = round(spec.max_seconds * spec.sample_rate)
            words["longer"] = "give the middle most_samples of it; shorter clips are zero-padded inside"
        if m == "text" and (folder / TOKENIZER).is_dir():
            words["tokenizer"] = TOKENIZER
        elif m == "text":
            words["tokenizer"] = "polymnia.models.towers.tiny_text: ids of words by their crc32"
    text = json.dumps({**said, "towers": eats}, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    first = next(iter(eats))
    words = {**said, "first": first, "call": CALLS[first], "worst": max(found.values())}
    (folder / "README.md").write_text(README.format(**words), encoding="utf-8")


def _inputs(encoder: Encoder, m: Modality) -> dict[str, Any]:
    """Names, types and axes."""
    spec = encoder.model.tower(m).spec
    if m == "audio":
        return {"waveform": {"type": "float32", "axes": ["batch", "samples"]}}
    if m == "image":
        return {"pixels": {"type": "uint8", "axes": ["batch", spec.channels, spec.size, spec.size]}}
    return {k: {"type": "int64", "axes": ["batch", "tokens"]} for k in ("input_ids", "attention_mask")}
