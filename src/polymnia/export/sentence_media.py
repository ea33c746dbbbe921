"""An exported encoder as a module of sentence-transformers 6: sounds, pictures and texts by ``model.encode``.

    model = SentenceTransformer("out", trust_remote_code=True)
    model.encode(["rain on a roof"]), model.encode(["rain.wav"]), model.encode([Image.open("roof.jpg")])

``modules.json`` names this module, which is why ``trust_remote_code`` is asked for; the code is the installed
polymnia, none is in the folder. The module's own folder is one of ``polymnia export hf``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polymnia.export import pretrained
from polymnia.export.pretrained import Pretrained
from polymnia.types import AudioSpec, Modality, UserError

try:
    from sentence_transformers.base.modality import infer_batch_modality
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise UserError(
        f"this needs sentence-transformers 6 or later ({error}): pip install 'sentence-transformers>=6'"
    ) from error


class Media(InputModule):
    """Inputs of one batch are of one modality: strings are texts, or files of media by their suffix where they exist.

    Sounds without a rate are taken to be at the tower's own. Raises UserError for what the run has no tower for.
    """

    save_in_root = False

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder)
        self.encoder: Pretrained = pretrained.load(self.folder)
        self.model, self.method = self.encoder.model, self.encoder.method  # `.to(device)` reaches them

    @property
    def modalities(self) -> list[Modality]:
        return list(self.encoder.model.modalities)

    def get_embedding_dimension(self) -> int:
        return self.encoder.dim

    def get_config_dict(self) -> dict[str, Any]:
        return {"signature": self.encoder.signature}

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """What ``forward`` takes: the inputs as they are, since media are decoded a few at a time."""
        modality = infer_batch_modality(inputs, supported_modalities=self.modalities)
        if modality not in self.modalities:
            raise UserError(f"this encoder takes {', '.join(self.modalities)}, each alone, not {modality}")
        given = [(prompt or "") + text for text in inputs] if modality == "text" else list(inputs)
        return {"given": given, "modality": modality}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """``sentence_embedding``: unit vectors, as ``Encoder`` gives them."""
        given, e = features["given"], self.encoder
        e.device = str(next(self.model.parameters()).device)
        if features["modality"] == "audio":
            rows = np.concatenate([self._sound(x) for x in given])
        else:
            rows = (
                e.encode_text(given) if features["modality"] == "text" else e.encode_image(list(map(_pixels, given)))
            )
        return {"sentence_embedding": torch.from_numpy(rows).to(e.device)}

    def _sound(self, given: Any) -> np.ndarray:
        spec = self.encoder.model.tower("audio").spec
        assert isinstance(spec, AudioSpec)
        rate = spec.sample_rate
        if isinstance(given, dict):
            given, rate = given["array"], int(given["sampling_rate"])
        return self.encoder.encode_audio([given.cpu().numpy() if isinstance(given, Tensor) else given], rate)

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Copy the folder: nothing in it changes by use. Raises UserError for an encoder that was trained since."""
        if pretrained.sign(self.model, self.method) != self.encoder.settings.content:
            raise UserError(
                "this encoder was changed since it was loaded; polymnia's exports are for encoders of runs"
            )
        shutil.copytree(self.folder, output_path, dirs_exist_ok=True)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **words: Any) -> Media:
        """From a folder, or from the hub, as sentence-transformers finds it."""
        places = ("token", "cache_folder", "revision", "local_files_only")
        found = cls.load_dir_path(model_name_or_path, subfolder, **{k: words[k] for k in places if k in words})
        if found is None:
            raise UserError(f"{model_name_or_path} has no folder '{subfolder}' with an encoder in it")
        return cls(found)


def _pixels(given: Any) -> Any:
    """Arrays of uint8, (height, width, 3), as pictures; all else as it is."""
    if isinstance(given, Tensor):
        given = given.cpu().numpy()
    if not isinstance(given, np.ndarray):
        return given
    if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
        raise UserError(f"pictures as arrays are uint8 (height, width, 3), not {given.dtype} {given.shape}")
    return Image.fromarray(given)
