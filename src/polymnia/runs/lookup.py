"""Searching an index by words, by files, and by more or less of what is in it: loads the encoders that it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32

from polymnia.data.names import unescape
from polymnia.data.windows import read_whole, read_windows
from polymnia.index import popularity
from polymnia.index.hit import Hit
from polymnia.index.reader import Reader
from polymnia.index.rows import sample, vectors
from polymnia.index.schema import EncoderCard
from polymnia.index.truth import QUERIES, Queries
from polymnia.index.where import column, quoted, to_sql
from polymnia.runs.embedding.plans import SHOWN
from polymnia.runs.embedding.windows import make_windows, pooled
from polymnia.runs.encoder import Encoder, load, other_names
from polymnia.runs.intake import padded
from polymnia.runs.search import kind_of
from polymnia.runs.upgrading.bridge import Bridge
from polymnia.types import AudioFile, AudioSpec, ImageFile, Modality, UserError

Vector = Float32[np.ndarray, " d"]
Medium = str | Path | ImageFile | AudioFile
MEDIA = "modality != 'text'"
EXAMPLE = ("encoder", "modality", "root", "source", "entry", "start", "end", "caption", "vector")
LONGEST = 600.0  # seconds of an item that are embedded to ask for more like it
LEAST = 1e-6  # length of a query that points somewhere


@dataclass(frozen=True, slots=True)
class Weights:
    """Of Rocchio's rule: what the ``query``, the mean of what it should be ``like`` and ``unlike`` count.

    Rocchio, "Relevance feedback in information retrieval" (1971); the values are those of Manning, Raghavan and
    Schuetze, "Introduction to Information Retrieval", section 9.1.1.
    """

    query: float = 1.0
    like: float = 0.75
    unlike: float = 0.15

    def __post_init__(self) -> None:
        if not all(np.isfinite(w) and w >= 0 for w in (self.query, self.like, self.unlike)):
            raise UserError("weights are numbers of at least 0; what is `unlike` is subtracted anyway")


@dataclass(frozen=True, slots=True)
class Query:
    """``words``: a text, or the path of a recording or a picture. ``like`` and ``unlike``: ids of items, or paths.

    ``text`` and ``file``: what is one or the other whatever it looks like; of who may not name files of this machine
    take these, and only ids.
    """

    words: str | None = None
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    weights: Weights = field(default_factory=Weights)
    text: str | None = None
    file: tuple[Modality, Path] | None = None

    def __post_init__(self) -> None:
        if self.words is None and self.text is None and self.file is None and not self.like:
            raise UserError("nothing is asked: give words, a file, or --like an item")


class Encoders:
    """The encoders of cards, loaded when they are first needed.

    ``runs``: folders to look in instead of where the cards say; ``data``: where frozen towers read their own files.
    """

    def __init__(self, runs: Sequence[Path] = (), data: Path | None = None):
        self.runs, self.data = tuple(runs), data
        self._loaded: dict[str, Encoder] = {}
        self._bridges: dict[tuple[str, str], Bridge] = {}

    def get(self, card: EncoderCard) -> Encoder:
        """Raises UserError where the run is not there, or its encoder is not the card's."""
        if card.signature not in self._loaded:
            self._loaded[card.signature] = self._load(card)
        return self._loaded[card.signature]

    def into(self, index: Reader, card: EncoderCard) -> Encoder | Bridge:
        """What encodes queries into the space of a card: its encoder, or a newer one whose queries are mapped back."""
        newer = index.about.bridges.get(card.signature)
        if newer is None:
            return self.get(card)
        if (card.signature, newer.signature) not in self._bridges:
            encoder = self.get(newer)
            self._bridges[card.signature, newer.signature] = Bridge(encoder, self._places(newer)[0], card.task)
        return self._bridges[card.signature, newer.signature]

    def _places(self, card: EncoderCard) -> tuple[Path, ...]:
        return self.runs or (Path(os.fsdecode(unescape(card.run))),)

    def _load(self, card: EncoderCard) -> Encoder:
        found = []
        for run in self._places(card):
            if not run.exists():
                raise UserError(f"the run {run} of the index's encoder is not there: say where it is, --run FOLDER")
            encoder = load(run, card.task, self.data)
            if card.signature in (encoder.signature, *other_names(run, card.task)):
                return encoder
            found.append(f"{run} after task {card.task} is the encoder {encoder.signature}")
        raise UserError(
            f"{'; '.join(found)}; the index needs {card.signature} ({card.recipe or card.run}, {card.name}): give the "
            "run that made its vectors, or bring the index to this encoder (`polymnia index upgrade`)"
        )


def find(
    index: Reader,
    query: Query,
    encoders: Encoders,
    k: int = 10,
    modality: Modality | Literal["any"] | None = None,
    where: str | None = None,
    **how: Any,
) -> list[Hit]:
    """The ``k`` items (``how``: see ``Reader.search``) nearest to a query; those that it names are no hits.

    ``modality`` None: sounds and pictures where there are any, since to words other words are nearest, captions of
    whatever sound they are of; "any": all rows. Raises UserError for a query, filter or run that is not there,
    MediaError for a broken file. Hits are counted: see ``index.popularity``.
    """
    asked = ask(index, query, encoders)
    examples = {*query.like, *query.unlike}
    named = index.wholes(examples, ["id"])["id"].unique().to_pylist() if examples else []
    if where is not None:
        to_sql(where)  # whole in itself, before it is joined with another
    if modality is None and index.count(MEDIA):
        where = MEDIA if where is None else f"({where}) AND {MEDIA}"
    wanted = None if modality == "any" else modality
    hits = index.search(asked, k, wanted, where, without=named, **how)[0]
    if not index.past:
        popularity.count(index.uri, dict.fromkeys(h.id for h in hits))
    return hits


def ask(index: Reader, query: Query, encoders: Encoders) -> dict[str, Float32[np.ndarray, "1 d"]]:
    """The query as a unit vector of each encoder that has rows: Rocchio's rule on unit vectors, scaled to unit length.

    Raises UserError for items that are neither in the index nor files, and for a query that cancels itself out.
    """
    spaces = {s: index.cards[s] for s in index.spaces}
    if not spaces:
        raise UserError(f"{index.uri} is empty: `polymnia index add {index.uri} VECTORS`")
    return {s: _mixed(index, query, card, encoders)[None] for s, card in spaces.items()}


def _mixed(index: Reader, query: Query, card: EncoderCard, encoders: Encoders) -> Vector:
    said = [] if query.words is None else [_said(query.words, encoders.into(index, card))]
    said += [] if query.text is None else [encoded(encoders.into(index, card), "text", query.text)]
    said += [] if query.file is None else [encoded(encoders.into(index, card), *query.file)]
    like, unlike = ([_example(index, n, card, encoders) for n in names] for names in (query.like, query.unlike))
    return rocchio(said, like, unlike, query.weights)


def rocchio(said: Sequence[Vector], like: Sequence[Vector], unlike: Sequence[Vector], weights: Weights) -> Vector:
    """The unit vector of a query from the means of its parts. Raises UserError where nothing is left of it."""
    groups = ((said, weights.query), (like, weights.like), (unlike, -weights.unlike))
    parts = [weight * np.mean(vectors, axis=0) for vectors, weight in groups if vectors]
    if len(parts) == 1 and not unlike:  # alone, whatever its weight
        return _unit(np.mean(said or like, axis=0), "nothing")
    return _unit(np.sum(parts, axis=0), "what it is like cancels out what it is unlike")


def _unit(vector: np.ndarray, why: str) -> Vector:
    length = float(np.linalg.norm(vector))
    if not length > LEAST:
        raise UserError(f"the query points nowhere: {why}; give other weights or examples")
    return (vector / length).astype(np.float32)


def _example(index: Reader, name: str, card: EncoderCard, encoders: Encoders) -> Vector:
    """The vector of an item of the index, whose modalities count alike, or of a file."""
    rows = index.wholes([name], EXAMPLE)
    if rows.num_rows:
        own = rows.filter(pc.equal(rows["encoder"], card.signature))
        if own.num_rows:
            return _unit(vectors(own).mean(axis=0), f"the vectors of {name} cancel each other out")
        return _anew(rows, name, card, encoders)
    if not Path(name).is_file():
        raise UserError(f"'{name}' is neither the id of an item of {index.uri} nor a file")
    return _said(name, encoders.into(index, card))


def _anew(rows: pa.Table, name: str, card: EncoderCard, encoders: Encoders) -> Vector:
    """An item that has no row of this encoder yet: from its file."""
    own = encoders.get(card)  # and no bridge: what is in the index is no query
    for row in rows.drop_columns(["vector"]).to_pylist():
        if row["modality"] == "text" and row["caption"] and len(row["caption"]) < SHOWN:
            return encoded(own, "text", row["caption"])
        if row["root"] and row["source"] and row["modality"] != "text":
            path = Path(os.fsdecode(unescape(row["root"])), os.fsdecode(unescape(row["source"])))
            if path.is_file():
                return encoded(own, row["modality"], _stretch(path, row))
    raise UserError(
        f"'{name}' has no vector of the encoder {card.signature} yet, and its file is not here: give a file"
    )


def _stretch(path: Path, row: Mapping[str, Any]) -> Medium:
    """What of a file an item is: all of it, an entry of an archive, or a stretch of a recording."""
    if row["modality"] != "audio":
        return path if row["entry"] is None else ImageFile(path, row["entry"])
    start = row["start"] or 0.0
    return AudioFile(path, start, min(LONGEST, (row["end"] or np.inf) - start))


def _said(words: str, encoder: Encoder | Bridge) -> Vector:
    kind = kind_of(words)
    return encoded(encoder, kind, words if kind == "text" else Path(words))


def encoded(encoder: Encoder | Bridge, kind: Modality, medium: Medium) -> Vector:
    """A text or a file; of a recording that is longer than a window its windows' vectors joined, as in an index."""
    if kind == "text":
        return encoder.encode_text([str(medium)])[0]
    if kind == "image":
        return encoder.encode_image([medium if isinstance(medium, ImageFile) else Path(medium)])[0]
    spec = encoder.model.specs.get("audio")
    source = medium if isinstance(medium, AudioFile) else AudioFile(Path(medium))
    if not isinstance(spec, AudioSpec):
        return encoder.encode_audio([source])[0]  # says what this run lacks
    size, hop = make_windows(encoder).samples(spec.sample_rate)
    _, wave = read_whole(source, spec.sample_rate, size)
    waves = [wave] if wave is not None else read_windows(source, spec.sample_rate, size, hop)
    made = [encoder.encode_batch("audio", [padded(np.clip(w, -1, 1), spec)])[0] for w in waves]
    return pooled(np.stack(made)) if len(made) > 1 else made[0]


def questions(index: Reader, encoders: Encoders) -> Queries:
    """Texts as people may ask for what is in the index, by encoder: captions and topics of some of its rows.

    For ``Index.settle``, which otherwise knows only queries of the modalities that the index has rows of.
    """
    said: dict[str, Mapping[Modality, np.ndarray]] = {}
    for signature in index.spaces:
        card = index.cards[signature]
        if "text" in card.modalities:
            rows = sample(index.table, f"{column('encoder')} = {quoted(signature)}", 4 * QUERIES, ("caption", "topic"))
            texts = [row["caption"] or row["topic"] for row in rows.to_pylist()]
            texts = [t for t in dict.fromkeys(texts) if t and t.strip()][:QUERIES]
            if texts:
                said[signature] = {"text": encoders.into(index, card).encode_text(texts)}
    return said
