"""From a run folder to a folder of the Hugging Face kind: safetensors, config.json, and a card that tells the run.

``polymnia.export.pretrained`` loads it. Towers that are models of transformers lie in subfolders that it opens itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from polymnia.config import Part
from polymnia.export import automodel, card, package, preprocessing, pretrained
from polymnia.export.automodel import Written
from polymnia.export.modules import elsewhere
from polymnia.export.probes import TOLERANCE, Probes, compare, encode, prepared, probes
from polymnia.export.source import open_run, stamp, steered
from polymnia.models.heads import HeadConfig, build_head
from polymnia.runs.encoder import Encoder
from polymnia.runs.encoding import sign
from polymnia.runs.weights import read_tensors, save_tensors
from polymnia.types import Modality, UserError
from polymnia.version import __version__


def export_hf(run: Path, out: Path, task: int | None = None, data: Path | None = None) -> list[str]:
    """Write a run's encoder into the folder ``out``; gives what was written, in words.

    ``task``: the encoder after so many tasks (default: the last). ``data``: as for ``polymnia.load``. It is loaded
    back and compared with the run's own vectors before ``out`` is there. Raises UserError for a run that cannot be
    loaded, where ``out`` holds something, and where the copy does not give the same vectors.
    """
    package.refuse_full(out)
    encoder = open_run(run, task, data)
    inputs = probes(encoder, run)
    with package.new_folder(out) as folder:
        written = write(encoder, run, folder)
        apart = verify(folder, encoder, inputs, written)
    lines = [f"{out}: encoder {encoder.signature}, loaded back; vectors differ by {apart:.1g} at most"]
    return lines + [f"{out / w.folder}: the {m} tower, by {w.opens}" for m, w in written.items() if not w.bare]


def write(encoder: Encoder, run: Path, folder: Path) -> dict[Modality, Written]:
    """All files of an export; gives the towers that lie in transformers' layout."""
    prompted = steered(encoder)
    written = automodel.save(encoder, folder, prompted)
    settings = describe(encoder, run, {m: w.folder for m, w in written.items()})
    state = pretrained.parts(encoder.model, encoder.method)
    beside = pretrained.apart(settings.folders)
    save_tensors(folder / pretrained.WEIGHTS, {k: v for k, v in state.items() if not k.startswith(beside)})
    _write_json(folder / pretrained.SETTINGS, settings.model_dump(mode="json"))
    _write_json(folder / "preprocessor_config.json", preprocessing.stated(encoder.model))
    (folder / "run-recipe.yaml").write_text(elsewhere(encoder.recipe), encoding="utf-8")
    (folder / "README.md").write_text(card.card(encoder, run, settings, written, prompted), encoding="utf-8")
    return written


def describe(encoder: Encoder, run: Path, folders: dict[Modality, str]) -> pretrained.Settings:
    """config.json: what the encoder is made of, with no path of this machine in it."""
    recipe = encoder.recipe
    towers = {m: _portable(p, f"./{folders[m]}" if m in folders else None) for m, p in recipe.towers.items()}
    tasks = len(encoder.model.stored)
    settings = pretrained.Settings(
        model_type="polymnia",
        format=pretrained.FORMAT,
        polymnia=__version__,
        **stamp(encoder, run),
        content="",
        tasks=tasks,
        seed=recipe.seed,
        cross=len(encoder.model.cross) > 0,
        channels_last=any(t.train.channels_last for t in recipe.tasks),
        towers=towers,
        heads=dict(recipe.heads),
        method=tuple(_portable(p, None) for p in recipe.method),
        folders=folders,
    )
    return settings.model_copy(update={"content": _content(encoder, settings)})


def verify(folder: Path, encoder: Encoder, inputs: Probes, written: dict[Modality, Written]) -> float:
    """Load an export back, and compare; gives the largest difference of a number. Raises UserError for a fault.

    Weights must be the same to the bit, which the signature of the content tells; vectors of ``inputs`` within
    ``TOLERANCE``, by the export's own loader and by transformers' classes with the head from its file.
    """
    wanted = encode(encoder, inputs)
    again = pretrained.load(folder, modules=[p.use for p in (*encoder.recipe.towers.values(), *encoder.recipe.method)])
    if again.signature != encoder.signature:
        raise UserError(f"{folder} bears the signature {again.signature}, the run {encoder.signature}")
    worst = compare(wanted, encode(again, inputs), TOLERANCE, str(folder))
    for m, how in written.items():
        if not how.bare:
            compare(*_by_transformers(folder, encoder, m, how, inputs), 1e-4, str(folder / how.folder))
    return worst


@torch.no_grad()
def _by_transformers(folder: Path, encoder: Encoder, m: Modality, how: Written, inputs: Probes) -> Any:
    """Vectors by the encoder and by the files in transformers' layout, for inputs that are one window of sound."""
    tower: Any = encoder.model.tower(m)
    own, other = [], []
    head = build_head(encoder.recipe.heads.get(m, HeadConfig()), tower.out_dim, encoder.dim, torch.Generator())
    state = read_tensors(folder / how.folder / f"head-{m}.safetensors")
    head.load_state_dict({k: v for k, v in state.items() if not k.startswith((automodel.PROJECTION, "identity"))})
    most = getattr(tower, "window", None)  # of sound: longer clips are means over windows, which the tower makes
    for x in (x for x in prepared(encoder, m, inputs[m]) if most is None or x.shape[1] <= most):
        h = automodel.features(how, folder, tower, x)
        other.append(torch.nn.functional.normalize(head.eval()(h), dim=-1))
        own.append(encoder.model.project(m, tower(x)))
    return {m: torch.cat(own).numpy()}, {m: torch.cat(other).numpy()}


def _portable(part: Part, model: str | None) -> Part:
    """A part without files of its own: its weights are in the export. ``model``: where in it transformers' are."""
    changes: dict[str, Any] = {}
    for key, value in part.config:
        if isinstance(value, Path):
            changes[key] = None
        elif isinstance(value, Part):
            changes[key] = _portable(value, None)
        elif key == "model" and model is not None:
            changes[key] = model
    return part.model_copy(update={"config": part.config.model_copy(update=changes)})


def _content(encoder: Encoder, settings: pretrained.Settings) -> str:
    """The signature that the encoder has under the settings of the export."""
    towers = {m: encoder.model.tower(m) for m in encoder.model.modalities}
    before = {m: t.settings for m, t in towers.items()}
    try:
        for m, tower in towers.items():
            tower.settings = pretrained.told(settings.towers[m])
        return sign(encoder.model, encoder.method)
    finally:
        for m, tower in towers.items():
            tower.settings = before[m]


def _write_json(path: Path, said: Any) -> None:
    path.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
