"""From a run folder to one that ``SentenceTransformer`` loads, in one of two layouts.

``plain``: sentence-transformers' own modules alone (Transformer, Pooling, Dense, Normalize), for the texts of a run
whose text tower is a sentence encoder without prompts, under a head that Dense can be. Needs no polymnia.
``whole``: all that the run has towers for, through ``polymnia.export.sentence_media``; needs polymnia, and
``trust_remote_code=True``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from polymnia.export import hf, package
from polymnia.export.probes import TOLERANCE, Probes, compare, encode, probes
from polymnia.export.source import open_run, stamp, steered
from polymnia.models.heads import HeadConfig
from polymnia.models.hub import hide_broken_torchvision, quiet
from polymnia.models.towers import sentence
from polymnia.runs.encoder import Encoder
from polymnia.types import Modality, UserError
from polymnia.version import __version__

Layout = Literal["plain", "whole"]
STAMP = "polymnia.json"
DENSE = ("identity", "linear", "mlp")  # heads that are layers of Dense
MEDIA = "0_Media"
README = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, polymnia]
---
# {run}

{what} of the polymnia run `{run}` after {task} tasks: unit vectors of {dim} numbers.

Encoder `{signature}`: only vectors of the same signature are comparable. Licence of the weights: not recorded.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder"{trust})
{calls}
```
"""
CALLS = {
    "audio": 'model.encode(["rain.wav"])  # or {"array": samples, "sampling_rate": rate}',
    "image": 'model.encode(["roof.jpg"])  # or PIL images',
    "text": 'model.encode(["rain on a roof"])',
}


def export_sentence(
    run: Path, out: Path, task: int | None = None, data: Path | None = None, layout: Layout | None = None
) -> list[str]:
    """Write a folder for sentence-transformers into ``out``; gives what was written, in words.

    ``layout``: default ``plain`` where the run's texts allow it, else ``whole``. Raises UserError for a run without a
    text tower or whose texts have no plain layout where it is asked for, where the folder does not give the run's
    vectors, and where ``out`` holds something.
    """
    package.refuse_full(out)
    _refuse_absent()
    encoder = open_run(run, task, data)
    if "text" not in encoder.model.modalities:
        raise UserError(f"{run} has no text tower: sentence-transformers is about texts; use `export hf`")
    why = _not_plain(encoder)
    if layout == "plain" and why:
        raise UserError(f"{run} has no plain layout: {why}; leave out --plain")
    chosen: Layout = layout or ("whole" if why else "plain")
    inputs = probes(encoder, run)
    with package.new_folder(out) as folder:
        write(encoder, run, folder, chosen)
        worst = verify(folder, encoder, inputs, chosen)
    said = "texts, by sentence-transformers alone" if chosen == "plain" else "all modalities, with trust_remote_code"
    return [f"{out}: {said}; vectors differ by {worst:.1g} at most"]


def write(encoder: Encoder, run: Path, folder: Path, layout: Layout) -> None:
    """All files of a layout."""
    if layout == "plain":
        with quiet():
            _plain(encoder).save(str(folder), create_model_card=False)
    else:
        inside = folder / MEDIA
        inside.mkdir()
        hf.write(encoder, run, inside)
        kind = "polymnia.export.sentence_media.Media"
        modules = [{"idx": 0, "name": "0", "path": MEDIA, "type": kind}]
        (folder / "modules.json").write_text(json.dumps(modules, indent=2), encoding="utf-8")
        settings = {"model_type": "SentenceTransformer", "prompts": {}, "similarity_fn_name": "cosine"}
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    said = stamp(encoder, run) | {"polymnia": __version__, "layout": layout}
    (folder / STAMP).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(encoder, said, layout), encoding="utf-8")


def verify(folder: Path, encoder: Encoder, inputs: Probes, layout: Layout) -> float:
    """Load a folder back as its users do, and compare; gives the largest difference of a number.

    Raises UserError above ``TOLERANCE``, and for another signature than the encoder's.
    """
    from sentence_transformers import SentenceTransformer

    said = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    if said.get("signature") != encoder.signature:
        raise UserError(f"{folder / STAMP} does not bear the signature {encoder.signature} of the run's encoder")
    with quiet():
        model: Any = SentenceTransformer(
            str(folder), device="cpu", trust_remote_code=layout == "whole", local_files_only=True
        )
    given = {m: raw for m, raw in inputs.items() if m == "text" or layout == "whole"}
    wanted = encode(encoder, given)
    found = {m: _encoded(model, m, raw) for m, raw in given.items()}
    return compare(wanted, found, TOLERANCE, str(folder))


def _encoded(model: Any, m: Modality, raw: list[Any]) -> np.ndarray:
    """By ``model.encode``, which takes the paths of files as strings."""
    return model.encode([str(r) if isinstance(r, Path) else r for r in raw], show_progress_bar=False)


def _refuse_absent() -> None:
    hide_broken_torchvision()
    try:
        import sentence_transformers.base  # noqa: F401 (from 6 on)
    except ImportError as error:
        out = "pip install 'sentence-transformers>=6'"
        raise UserError(f"export sentence-transformers needs it, version 6 or later ({error}): {out}") from error


def _not_plain(encoder: Encoder) -> str:
    """Why the texts have no plain layout; empty where they have."""
    kind = encoder.recipe.heads.get("text", HeadConfig()).kind
    if type(encoder.model.tower("text")) is not sentence.Tower:
        return f"its text tower is {encoder.recipe.towers['text'].use}, not sentence"
    if "text" in steered(encoder):
        return "its method puts prompts into the text tower"
    return "" if kind in DENSE else f"its text head is of kind {kind}, not one of {', '.join(DENSE)}"


def _plain(encoder: Encoder) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    tower: Any = encoder.model.tower("text")
    with tempfile.TemporaryDirectory() as place, quiet():
        tower.encoder.save_pretrained(place), tower.tokenizer.save_pretrained(place)
        modules: list[Any] = [Transformer(place, max_seq_length=tower.spec.max_tokens)]
    modules.append(Pooling(tower.out_dim, tower.pooling))
    linear = [layer for layer in encoder.model.heads["text"].modules() if isinstance(layer, nn.Linear)]
    for number, layer in enumerate(linear, start=1):
        between = nn.ReLU() if number < len(linear) else nn.Identity()
        dense = Dense(layer.in_features, layer.out_features, activation_function=between)
        with torch.no_grad():
            dense.linear.weight.copy_(layer.weight), dense.linear.bias.copy_(layer.bias)
        modules.append(dense)
    return SentenceTransformer(modules=[*modules, Normalize()], device="cpu", similarity_fn_name="cosine")


def _readme(encoder: Encoder, said: dict[str, object], layout: Layout) -> str:
    whole = layout == "whole"
    shown = encoder.model.modalities if whole else ("text",)
    calls = "\n".join(CALLS[m] for m in shown)
    what = f"The encoder ({', '.join(shown)})" if whole else "The text encoder"
    return README.format(**said, what=what, calls=calls, trust=", trust_remote_code=True" if whole else "")
