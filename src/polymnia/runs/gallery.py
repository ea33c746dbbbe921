"""The vectors of a run's items by one of its encoders: embedded once, and kept in the run folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polymnia.runs.encoder import Encoder, Vectors
from polymnia.types import Captions, ImageFile, Item, Modality, Source


def media_of(item: Item, modality: Modality) -> Sequence[object]:
    """What is embedded of an item: its file, or each of its texts."""
    source = item.sources[modality]
    return source.texts if isinstance(source, Captions) else (source,)


def encode(encoder: Encoder, modality: Modality, media: Sequence[object]) -> Vectors:
    """Unit rows of media of one modality."""
    encode = {"audio": encoder.encode_audio, "image": encoder.encode_image, "text": encoder.encode_text}
    return encode[modality](media)  # type: ignore[operator]


def gallery(run: Path, encoder: Encoder, items: Sequence[Item], modality: Modality) -> Float[Tensor, "n d"]:
    """Vectors of all items, a row a caption; from the run folder if they were made by this encoder for these items."""
    said = [[i.id, _content(i.sources[modality])] for i in items]
    digest = hashlib.blake2b(json.dumps(said).encode(), digest_size=12).hexdigest()
    path = run / "search" / f"{modality}-{encoder.signature}.safetensors"
    with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
        if file.metadata() == {"items": digest}:
            return file.get_tensor("vectors")
    media = [source for item in items for source in media_of(item, modality)]
    vectors = torch.from_numpy(encode(encoder, modality, media))
    with suppress(OSError):  # a folder that cannot be written can still be searched
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        save_file({"vectors": vectors}, partial, {"items": digest})
        os.replace(partial, path)
    return vectors


def _content(source: Source) -> object:
    """What changes with a medium, but not when its folder is moved."""
    if isinstance(source, Captions):
        return source.texts
    place = [source.index] if isinstance(source, ImageFile) else [source.start, source.seconds]
    with suppress(OSError):  # what is missing will be told by the decoder
        stat = source.path.stat()
        place += [stat.st_size, stat.st_mtime_ns]
    return place
