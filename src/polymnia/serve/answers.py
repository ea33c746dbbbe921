"""From what a service found to what goes over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlencode

from polymnia.data.container import is_container
from polymnia.serve.service import GALLERY, Entry, Match
from polymnia.serve.shapes import Hit, Item, Links, Span
from polymnia.serve.small import LONGEST

# What browsers show or play, and as what it is sent. Nothing else is sent, whatever a name says.
SOUNDS = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
}
PICTURES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
}
VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}
TYPES = SOUNDS | PICTURES | VIDEOS


def item(entry: Entry, gallery: str = GALLERY) -> Item:
    """An item with the links to what can be heard and seen of it."""
    return Item(
        id=entry.id,
        modalities=list(entry.modalities),
        caption=entry.caption,
        topic=entry.topic,
        task=entry.task,
        duration=entry.duration,
        links=_links(entry, gallery),
    )


def hits(found: Sequence[Match], gallery: str) -> list[Hit]:
    """Hits, ranked as they come."""
    return [_hit(rank, match, gallery) for rank, match in enumerate(found, start=1)]


def _hit(rank: int, match: Match, gallery: str) -> Hit:
    shown = item(match.entry, gallery)
    window = None
    if match.start is not None and match.end is not None:
        window = Span(start=match.start, end=match.end)
        shown = shown.model_copy(update={"links": _at(shown.links, window, match.entry)})
    if match.caption is not None:
        shown = shown.model_copy(update={"caption": match.caption})
    return Hit(
        rank=rank,
        score=round(match.score, 6),
        cosine=round(match.cosine, 6),
        modality=match.modality,
        window=window,
        item=shown,
    )


def _links(entry: Entry, gallery: str) -> Links:
    links: dict[str, str] = {}
    sound, picture = entry.media.get("audio"), entry.media.get("image")
    if sound is not None:
        links["spectrogram"] = link("spectrogram", entry.id, gallery)
        if sound.path.suffix.lower() in SOUNDS | VIDEOS:
            ends = "" if sound.seconds is None else f",{sound.start + sound.seconds:g}"
            stretch = f"#t={sound.start:g}{ends}" if sound.start or ends else ""
            links["sound"] = link("media", entry.id, gallery, modality="audio") + stretch
    if picture is not None:
        links["thumbnail"] = link("thumbnail", entry.id, gallery)
        if picture.path.suffix.lower() in PICTURES:
            links["picture"] = link("media", entry.id, gallery, modality="image")
    return Links(**links)


def _at(links: Links, window: Span, entry: Entry) -> Links:
    """The same, at the window that was found: of a recording, or of a video."""
    changed: dict[str, str] = {}
    if links.sound is not None:
        changed["sound"] = f"{links.sound.split('#')[0]}#t={window.start:g},{window.end:g}"
    for name, kind in (("spectrogram", "audio"), ("thumbnail", "image")):
        address, medium = getattr(links, name), entry.media.get(kind)
        if address is not None and medium is not None and (kind == "audio" or is_container(medium.path)):
            start = max(0.0, window.start - medium.start)  # in the item, which may be a stretch itself
            said = {"start": f"{start:g}", "seconds": f"{min(LONGEST, window.end - window.start):g}"}
            changed[name] = address + ("&" if "?" in address else "?") + urlencode(said)
    return links.model_copy(update=changed)


def link(what: str, name: str, gallery: str, **more: str) -> str:
    """The address of something about an item."""
    said = {**({} if gallery == GALLERY else {"gallery": gallery}), **more}
    return f"/api/{what}/{quote(name, safe='')}" + (f"?{urlencode(said)}" if said else "")
