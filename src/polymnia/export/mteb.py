"""A run as an encoder of MTEB, which since version 2 scores sounds (MAEB) and pictures (MIEB) beside texts.

    mteb.evaluate(encoder("runs/demo-er-s0-1a2b3c4d"), mteb.get_tasks(tasks=["ClothoT2ARetrieval"]))

Muennighoff et al., MTEB: Massive text embedding benchmark (2023). Recordings are decoded by libsndfile as everywhere
in polymnia, and need neither torchcodec nor torchaudio. Needs the extra ``mteb``.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32
from torch.utils.data import DataLoader

from polymnia.runs.encoder import Encoder, load
from polymnia.types import Modality, UserError

try:
    import datasets
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ImportError as error:
    raise UserError(f"polymnia.export.mteb needs MTEB ({error}): pip install 'polymnia[mteb]'") from error

Vectors = Float32[np.ndarray, "n d"]


def encoder(run: str | Path, task: int | None = None, data: str | Path | None = None, name: str = "") -> MtebEncoder:
    """The encoder of a run folder (as ``polymnia.load`` takes it) for ``mteb.evaluate``.

    ``name``: under which results are filed (default: the folder's). Raises UserError as ``polymnia.load`` does.
    """
    loaded = load(Path(run), task, None if data is None else Path(data))
    return MtebEncoder(loaded, name or Path(run).resolve().name)


class MtebEncoder(AbsEncoder):
    """MTEB's protocol over an encoder. Rows of several modalities are the sum of the unit vectors of those it has.

    An empty text or clip has the vector zero, similar to nothing, and a warning: it must not end hours of evaluation.
    """

    def __init__(self, model: Encoder, name: str):
        self.model = model
        towers = model.recipe.towers
        self.mteb_model_meta = ModelMeta(
            loader=None,
            name=f"polymnia/{name}",
            revision=f"task{model.task}-{model.signature}",  # an encoder's results are never read as another's
            release_date=None,
            languages=None,
            n_parameters=sum(p.numel() for p in model.model.parameters()),
            memory_usage_mb=None,
            max_tokens=None,
            embed_dim=model.dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=False,
            training_datasets=None,
            modalities=list(towers),
        )

    def encode(self, inputs: DataLoader[Any], **about: Any) -> Vectors:
        """A row an input. ``about``: what MTEB says of the task, which changes nothing here.

        Raises UserError for inputs that this run has no tower for, and MediaError for undecodable ones.
        """
        batches = [self._batch(batch) for batch in _undecoded(inputs)]
        return np.concatenate([np.zeros((0, self.model.dim), dtype=np.float32), *batches])

    def _batch(self, batch: Mapping[str, Any]) -> Vectors:
        given: list[Modality] = [m for m in self.model.recipe.towers if m in batch]
        if not given:
            known = ", ".join(self.model.recipe.towers)
            raise UserError(f"this run has towers for {known}; the task gives {', '.join(batch)}")
        return np.sum([self._rows(m, batch[m]) for m in given], axis=0, dtype=np.float32)

    def _rows(self, modality: Modality, raw: Iterable[Any]) -> Vectors:
        if modality == "audio":
            return self._sounds([_sound(r) for r in raw])
        encode = self.model.encode_text if modality == "text" else self.model.encode_image
        return self._filled(list(raw), encode, lambda r: modality == "image" or bool(r.strip()), modality)

    def _sounds(self, sounds: list[tuple[np.ndarray, int]]) -> Vectors:
        out = np.zeros((len(sounds), self.model.dim), dtype=np.float32)
        for rate in {rate for _, rate in sounds}:
            at = [n for n, sound in enumerate(sounds) if sound[1] == rate]
            waves = [sounds[n][0] for n in at]
            out[at] = self._filled(waves, lambda w, r=rate: self.model.encode_audio(w, r), len, "clip")
        return out

    def _filled(
        self, raw: list[Any], encode: Callable[[list[Any]], Vectors], holds: Callable[[Any], Any], what: str
    ) -> Vectors:
        """Vectors of what holds something; zero for the rest."""
        at = [n for n, r in enumerate(raw) if holds(r)]
        if len(at) < len(raw):
            warnings.warn(f"{len(raw) - len(at)} of {len(raw)} inputs are an empty {what}", stacklevel=2)
        out = np.zeros((len(raw), self.model.dim), dtype=np.float32)
        if at:
            out[at] = encode([raw[n] for n in at])
        return out


def _undecoded(inputs: DataLoader[Any]) -> DataLoader[Any]:
    """The same rows with recordings as bytes: decoding them is ours, and needs no FFmpeg."""
    features = getattr(inputs.dataset, "features", None) or {}
    coded = [n for n, f in features.items() if isinstance(f, datasets.Audio) and f.decode]
    if not coded:
        return inputs
    plain: Any = inputs.dataset
    for name in coded:
        plain = plain.cast_column(name, datasets.Audio(decode=False))
    return DataLoader(
        plain, batch_size=inputs.batch_size, collate_fn=inputs.collate_fn, num_workers=inputs.num_workers
    )


def _sound(raw: Any) -> tuple[np.ndarray, int]:
    """Samples, (n,) or (n, channels), and their rate: of a recording in bytes or a file, or decoded by MTEB."""
    if isinstance(raw, Mapping) and "array" not in raw:
        source = raw["path"] if raw.get("bytes") is None else io.BytesIO(raw["bytes"])
        try:
            return soundfile.read(source, dtype="float32")
        except soundfile.SoundFileError as error:
            raise UserError(f"{raw.get('path') or 'a recording'} cannot be decoded by libsndfile: {error}") from error
    array = np.asarray(raw["array"], dtype=np.float32)
    return (array.T if array.ndim == 2 else array), int(raw["sampling_rate"])  # MTEB: (channels, n)
