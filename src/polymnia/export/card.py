"""The README of an export: what the run folder knows of itself, and nothing that it does not know.

Licences of data are what polymnia's reader of each data set says of it; of weights that were read from elsewhere
nothing is recorded in a run, and the card says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from polymnia.export import licences
from polymnia.export.automodel import BARE, Written
from polymnia.export.licences import UNKNOWN
from polymnia.export.pretrained import Settings
from polymnia.export.snippets import of_tower
from polymnia.report import words
from polymnia.report.collect import Method, Run, heads
from polymnia.report.folders import load_json
from polymnia.report.markdown import cell, grid
from polymnia.runs.encoder import Encoder
from polymnia.types import Modality

FRONT = """\
---
library_name: polymnia
tags: [polymnia, continual-learning, embeddings{modalities}]
pipeline_tag: feature-extraction
---
"""
USE = """\
```python
from polymnia.export.pretrained import load    # pip install polymnia

encoder = load("path/to/this/folder")
{calls}
```"""
CALLS = {
    "audio": 'encoder.encode_audio(["rain.wav"])     # float32 (n, {dim}), unit rows; arrays with sample_rate=...',
    "text": 'encoder.encode_text(["rain on a roof"])',
    "image": 'encoder.encode_image(["roof.jpg"])',
}


def card(
    encoder: Encoder, run: Path, settings: Settings, written: Mapping[Modality, Written], prompted: Set[Modality]
) -> str:
    """The whole of it, in Markdown."""
    meta = load_json(run / "meta.json", needed=False)
    learned = f" (the last: {cell(settings.name)})" if settings.name else ""
    intro = (
        f"One embedding space of {words.listed(encoder.model.modalities)}, {encoder.dim} numbers, learned by "
        f"polymnia in {settings.task} of {len(encoder.recipe.tasks)} "
        f"tasks{learned}. Encoder `{encoder.signature}`: only vectors of the same signature are comparable."
    )
    calls = "\n".join(CALLS[m].format(dim=encoder.dim) for m in encoder.model.modalities)
    parts = [
        FRONT.format(modalities="".join(f", {m}" for m in encoder.model.modalities)) + f"# {cell(settings.run)}",
        cell(encoder.recipe.title),
        intro,
        "## Use",
        USE.format(calls=calls),
        *_towers(encoder, settings, written, prompted),
        *_scores(run, meta, settings.task),
        *_method(run, meta, encoder),
        *_data(meta, encoder),
        *_made(meta),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _towers(
    encoder: Encoder, settings: Settings, written: Mapping[Modality, Written], prompted: Set[Modality]
) -> Iterator[str]:
    yield "## Towers"
    lines = []
    for m, part in settings.towers.items():
        kind = encoder.recipe.heads[m].kind if m in encoder.recipe.heads else "identity"
        how = written.get(m)
        where = f"`{how.folder}/`" if how else "`model.safetensors`"
        trained = "as it came or as first stages left it" if part.config.frozen else "learned in the sequence"
        lines.append([m, f"`{cell(part.use)}`", kind, trained, where])
    yield grid(["modality", "tower", "head", "weights", "where"], lines)
    for m, how in written.items():
        if how.bare:
            yield (
                f"The {m} tower needs the method's prompts for the run's vectors, and no class of transformers takes "
                f"them. `{how.folder}/` is the tower without them, for polymnia's loader alone: what `AutoModel` "
                "makes of it are not the vectors of this encoder."
            )
        else:
            yield f"The {m} tower alone, without polymnia:\n\n" + of_tower(encoder, m, how)
    foreign = [p.use for p in (*settings.towers.values(), *settings.method) if "." in p.use]
    if foreign:
        yield f"It needs modules that are not polymnia's: {', '.join(f'`{cell(u)}`' for u in foreign)}."


def _scores(run: Path, meta: dict[str, Any], after: int) -> Iterator[str]:
    """R[i][j] of each head, and the numbers that sum it up."""
    found = Run(run, meta, load_json(run / "matrix.json", needed=False))
    if not any(found.grid(h) for h in ("latest", "stored")):
        yield f"## Scores\n\n{UNKNOWN}: the run folder has no matrix.json."
        return
    method = Method("run", (found,))
    said = {str(t.get("name")): str(t.get("score")) for t in found.task_meta() if t.get("score")}
    own = f"task {after}, {cell(method.tasks[after - 1])}" if 0 < after <= len(method.tasks) else "(before)"
    scores = "; ".join(f"{cell(t)}: {cell(words.score(s))}" for t, s in said.items())
    yield (
        f"## Scores\n\nOn each task (column) after each task (row); this encoder is the row of {own}."
        + (f" {scores}." if scores else "")
    )
    for head in heads([method]):
        lines = [
            [cell(method.tasks[i - 1] if i else "(before)"), *map(words.text, values)]
            for i, values in method.cells(head).items()
        ]
        yield f"### {head.capitalize()} heads\n\n" + grid([cell(w) for w in ("after", *method.tasks)], lines)
        summed = {k: v for k, v in found.summary(head).items() if v is not None}
        yield grid(["number", "value"], [[cell(k.replace("_", " ")), words.digits(v)] for k, v in summed.items()])
    for name, note in found.counts().items():
        if " of " in note and note.split(" of ")[0] != note.split(" of ")[1]:
            yield f"Of the held-out items of {cell(name)}, {cell(note)} were there."


def _method(run: Path, meta: dict[str, Any], encoder: Encoder) -> Iterator[str]:
    chain = [p for p in meta.get("method") or [] if isinstance(p, dict)]
    names = [cell(json.dumps(p, sort_keys=True)) for p in chain]
    yield "## Method\n\n" + ("\n".join(f"- {n}" for n in names) if names else "plain fine-tuning, task after task")
    if "parameters" in meta and isinstance(meta["parameters"], dict):
        yield grid(["parameters", "number"], [[cell(k), f"{v:,}"] for k, v in meta["parameters"].items()])


def _data(meta: dict[str, Any], encoder: Encoder) -> Iterator[str]:
    yield "## Data"
    lines = [[f"`{cell(use)}`", what, cell(said)] for use, what, said in licences.of(encoder.recipe)]
    if lines:
        yield grid(["data set", "used", "licence"], lines)
    counted = [c for c in meta.get("datasets") or [] if isinstance(c, dict)]
    if counted:
        keys = ("name", "split", "official", "present")
        lines = [[cell(c.get(k, UNKNOWN)) for k in keys] for c in counted]
        yield "Items that the tables of each data set name, and those whose files were there:\n\n" + grid(keys, lines)
    tasks = [t for t in meta.get("tasks") or [] if isinstance(t, dict)]
    if tasks:
        splits = ("train", "valid", "test")
        lines = [[cell(t.get("name")), *(str((t.get("items") or {}).get(s, UNKNOWN)) for s in splits)] for t in tasks]
        yield "Items that each task had:\n\n" + grid(["task", *splits], lines)
    else:
        yield f"Items that each task had: {UNKNOWN}."
    if meta.get("synthetic"):
        yield "The data are synthetic: scores on them say nothing of recordings or photographs."
    yield (
        f"Licence of the weights: {UNKNOWN}. That of towers that were read from published checkpoints, and of the "
        "data above, may bind them."
    )


def _made(meta: dict[str, Any]) -> Iterator[str]:
    notes = [cell(n) for n in meta.get("notes") or [] if isinstance(n, str)]
    versions = meta.get("versions") or {}
    yield "## How it was made"
    if notes:
        yield "\n".join(f"- {n}" for n in notes)
    if isinstance(versions, dict) and versions:
        yield "Versions: " + ", ".join(f"{cell(k)} {cell(v)}" for k, v in versions.items()) + "."
    yield "`run-recipe.yaml` is the recipe; a folder under `" + BARE + "/` is no encoder of its own."
