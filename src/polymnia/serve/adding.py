"""A file that a client sends, embedded as `polymnia embed` would, and kept beside the index."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pyarrow as pa

from polymnia.data.media import MediaError
from polymnia.data.names import escape
from polymnia.runs.embedding.job import Job
from polymnia.runs.embedding.one import embed_one
from polymnia.runs.encoder import Encoder
from polymnia.types import AudioFile, ImageFile, Modality, UserError

MEDIA = "media"
ROOM = 2_000_000_000  # bytes of all that was added


class Adding:
    """Keeps files in the folder ``media`` of an index, by what is in them, up to ``room`` bytes.

    UserError for an index that is not on this machine's disk.
    """

    def __init__(self, uri: str, room: int = ROOM):
        if "://" in uri or not Path(uri).is_dir():
            raise UserError(f"--allow-add keeps files beside the index, and {uri} is no folder of this machine")
        self.folder, self.room = Path(uri).absolute() / MEDIA, room

    def rows(
        self, encoder: Encoder, file: Path, suffix: str, kind: Modality, caption: str | None, topic: str | None
    ) -> pa.Table:
        """The rows of a file, which is kept. MediaError for what cannot be embedded: then nothing is kept."""
        name = f"{_digest(file)}{suffix}"
        path = self.folder / name
        source = AudioFile(file) if kind == "audio" else ImageFile(file)
        size, root = file.stat().st_size, escape(os.fsencode(self.folder))
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            changed = file.stat().st_mtime_ns
        job = Job(f"added/{name}", kind, source, root, name, caption, topic, None, size, changed)
        found = embed_one(encoder, job)
        self._keep(file, path, size)
        return found

    def _keep(self, file: Path, path: Path, size: int) -> None:
        if path.exists():
            return
        self.folder.mkdir(exist_ok=True)
        if size + sum(p.stat().st_size for p in self.folder.iterdir()) > self.room:
            raise UserError("there is no more room for files that are added; ask whoever runs this server")
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            shutil.copy2(file, partial)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise MediaError(path, f"it could not be kept: {error.strerror}") from error


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
