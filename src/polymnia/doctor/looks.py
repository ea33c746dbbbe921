"""Media looked at from outside: is the file there, does its header say that it can be read, how long is it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from PIL import Image

from polymnia.data import presence
from polymnia.data.media import FORMATS, MAX_PIXELS, MediaError, audio_length, decode_image
from polymnia.data.video import averaged, frame_count
from polymnia.types import AudioFile, AudioSpec, ImageFile, ImageSpec, Item, Modality, Source, Spec, VideoFile

LOOKED = 500  # items of a split whose headers are read: of more, an even choice (`polymnia data check` reads all)


@dataclass
class Looks:
    """What is known of media, found out once each.

    ``length``: seconds of recordings; ``frames``: how many frames of a video a tower takes; ``guessed``: both, of what
    was not looked at, as the mean of the others of its task and split. ``pictures``: what is kept as one picture.
    """

    length: dict[AudioFile, float] = field(default_factory=dict)
    frames: dict[VideoFile, int] = field(default_factory=dict)
    guessed: dict[AudioFile | VideoFile, float] = field(default_factory=dict)
    pictures: set[ImageFile | VideoFile] = field(default_factory=set)

    def look(self, items: Sequence[Item], specs: Mapping[Modality, Spec]) -> tuple[int, dict[str, str]]:
        """Look at the items of a split: how many were looked into, and why items cannot be used, by id."""
        read = {m for m, spec in specs.items() if isinstance(spec, (AudioSpec, ImageSpec))}
        gone = presence.missing(items, read)
        faults = {id: str(MediaError(path, "No such file or directory")) for id, path in gone.items()}
        there = [i for i in items if i.id not in gone]
        chosen = there if len(there) <= LOOKED else [there[n * len(there) // LOOKED] for n in range(LOOKED)]
        for item in chosen:
            try:
                for m in sorted(read.intersection(item.sources)):
                    self._header(item.sources[m], specs[m])
            except MediaError as error:
                faults[item.id] = str(error)
        if len(chosen) < len(there):
            self._guess([i.sources[m] for i in there for m in read.intersection(i.sources)], specs.get("image"))
        return len(chosen), faults

    def seconds(self, source: AudioFile) -> float:
        return self.length.get(source, self.guessed.get(source, 0.0))

    def pictures_of(self, source: Source) -> float:
        """How many pictures a tower sees of a source: the frames of a video that is averaged, else one."""
        if not isinstance(source, VideoFile):
            return 1.0
        return float(self.frames.get(source, self.guessed.get(source, 1.0)))

    def _header(self, source: Source, spec: Spec) -> None:
        if isinstance(source, AudioFile):
            if source not in self.length:
                self.length[source] = audio_length(source)
        elif isinstance(source, VideoFile) and isinstance(spec, ImageSpec):
            if averaged(source, spec):
                self.frames[source] = self.frames.get(source) or frame_count(source, spec.fps)
            elif source not in self.pictures:
                frame_count(source, spec.fps)
                self.pictures.add(source)
        elif isinstance(source, ImageFile) and source not in self.pictures:
            _picture(source)
            self.pictures.add(source)

    def _guess(self, sources: Sequence[Source], spec: Spec | None) -> None:
        for own, known in (
            ([s for s in sources if isinstance(s, AudioFile)], self.length),
            ([s for s in sources if averaged(s, spec)], self.frames),
        ):
            mean = fmean([known[s] for s in own if s in known] or [0.0])
            self.guessed |= dict.fromkeys((s for s in own if s not in known), mean)
        self.pictures.update(s for s in sources if isinstance(s, (ImageFile, VideoFile)) and not averaged(s, spec))


def _picture(source: ImageFile) -> None:
    """Raise MediaError for a picture whose header says that it cannot be read. Rows of a container are read."""
    if source.index is not None:
        decode_image(source, 1, 1)
        return
    try:
        with Image.open(source.path, formats=FORMATS) as image:
            pixels = image.width * image.height
    except Exception as error:  # on hostile bytes Pillow raises nearly anything
        reason = getattr(error, "strerror", None) or f"not a readable picture: {error}"
        raise MediaError(source.path, reason) from error
    if pixels > MAX_PIXELS:
        raise MediaError(source.path, f"{pixels:,} pixels are more than {MAX_PIXELS:,}")
