"""From a run folder to a folder of ONNX: a graph a tower, and a config.json that says what goes in.

Every file is run by onnxruntime before the folder is there, on sounds, texts and pictures of several lengths, alone
and together, and must give the vectors of torch within ``TOLERANCE``. Needs the extra ``onnx``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polymnia.export import graphs, onnx_check, package
from polymnia.export.onnx_check import TOKENIZER, TOLERANCE
from polymnia.export.preprocessing import stated
from polymnia.export.probes import probes
from polymnia.export.source import open_run, stamp, steered
from polymnia.models.hub import quiet
from polymnia.runs.encoder import Encoder
from polymnia.types import AudioSpec, Modality, UserError
from polymnia.version import __version__

FORMAT = 1
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
        found = onnx_check.verify(folder, encoder, inputs)
        _tell(folder, encoder, run, found)
    return [f"{out / m}.onnx: vectors differ from torch's by {worst:.1g} at most" for m, worst in found.items()]


def write(encoder: Encoder, run: Path, folder: Path) -> None:
    """The graphs, and the tokenizer of the text tower."""
    said = {"polymnia": __version__, **stamp(encoder, run)}
    prompted = steered(encoder)
    for m in encoder.model.modalities:
        path, words = folder / f"{m}.onnx", said | {"modality": m}
        if m == "audio":
            _sounds(encoder, path, m in prompted, words)
        else:
            graphs.graph(encoder, m, path, m in prompted, words)
        tokenizer = getattr(encoder.model.tower(m), "tokenizer", None)
        if tokenizer is not None:
            with quiet():
                tokenizer.save_pretrained(folder / TOKENIZER)


def _sounds(encoder: Encoder, path: Path, prompted: bool, words: dict[str, object]) -> None:
    """The graph of a tower of sound, traced with clips of other lengths until it holds for all."""
    for stretch in graphs.STRETCHES:
        graphs.graph(encoder, "audio", path, prompted, words, stretch)
        try:
            onnx_check.at_many_lengths(path, encoder)
        except UserError:
            if stretch == graphs.STRETCHES[-1]:
                raise
        else:
            return


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
