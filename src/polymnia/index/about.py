"""What an index says of itself, as metadata of its column ``vector``: so it changes in one commit with the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa

from polymnia.index.schema import FORMAT, EncoderCard, schema
from polymnia.types import UserError

PREFIX = "polymnia."
CARD = PREFIX + "encoder."
BRIDGE = PREFIX + "bridge."
PRIMARY = {"lance-schema:unenforced-primary-key:position": "1"}  # of `key`: Lance's, for merges that meet


@dataclass(frozen=True, slots=True)
class Settings:
    """``exact_below``: rows of an encoder up to which every row is compared; beyond, an approximate index is made.

    ``recall``: of the true ten nearest, the share that the approximate index must find.
    """

    exact_below: int = 20_000
    recall: float = 0.98


@dataclass(frozen=True, slots=True)
class Tuned:
    """The approximate index that was chosen. ``kind`` "exact": none reached the recall that was asked for.

    ``probes`` of ``partitions`` are looked into; ``refine`` x k candidates are compared by their true vectors.
    ``recall`` is the least of all pairs of modalities in ``recalls`` ("text>audio"); ``milliseconds`` are of one query
    (``exact_milliseconds``: when every row is compared); ``rows`` were there then.
    """

    kind: str
    partitions: int
    probes: int
    refine: int
    recall: float
    recalls: Mapping[str, float]
    milliseconds: float
    exact_milliseconds: float
    rows: int
    tried: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Tuned:
        said = json.loads(text)
        return cls(**{**said, "tried": tuple(said["tried"])})


@dataclass(frozen=True)
class About:
    """Format, encoders by signature, settings, and how approximate search was tuned.

    ``bridges``: encoders, by the signature of older ones whose rows are asked by mapping their queries back.
    """

    cards: Mapping[str, EncoderCard]
    settings: Settings = field(default_factory=Settings)
    tuned: Tuned | None = None
    format: int = FORMAT
    bridges: Mapping[str, EncoderCard] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        said = {PREFIX + "format": str(self.format), PREFIX + "settings": json.dumps(asdict(self.settings))}
        said |= {CARD + s: card.to_json() for s, card in self.cards.items()}
        said |= {BRIDGE + s: card.to_json() for s, card in self.bridges.items() if s in self.cards}
        if self.tuned is not None:
            said[PREFIX + "tuned"] = json.dumps(asdict(self.tuned))
        return said

    def schema(self, dim: int) -> pa.Schema:
        """Of the table."""
        plain = schema(dim)
        for name, told in (("key", PRIMARY), ("vector", self.metadata())):
            at = plain.get_field_index(name)
            plain = plain.set(at, plain.field(at).with_metadata(told))
        return plain


def read_about(found: pa.Schema, uri: str) -> About:
    """Raises UserError for a table that is no index of ours, is of a later format, or whose metadata are damaged."""
    place = found.get_field_index("vector")
    told = {k.decode(): v.decode() for k, v in ((found.field(place).metadata or {}) if place >= 0 else {}).items()}
    version = told.get(PREFIX + "format", "")
    if not version.isdecimal():
        raise UserError(f"{uri} holds a table that polymnia did not write; create an index in another folder")
    if int(version) > FORMAT:
        raise UserError(f"{uri} is of format {version}, this version reads {FORMAT}: install a newer polymnia")
    found_cards = [EncoderCard.from_json(v, uri) for k, v in told.items() if k.startswith(CARD)]
    cards = {c.signature: c for c in sorted(found_cards, key=lambda c: (c.task, c.signature))}
    bridges = {k.removeprefix(BRIDGE): EncoderCard.from_json(v, uri) for k, v in told.items() if k.startswith(BRIDGE)}
    try:
        settings = Settings(**json.loads(told.get(PREFIX + "settings", "{}")))
        tuned = Tuned.from_json(told[PREFIX + "tuned"]) if PREFIX + "tuned" in told else None
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{uri}: its settings are damaged ({[f.name for f in fields(Settings)]}); open an earlier version"
        ) from error
    wanted = schema(next(iter(cards.values())).dim) if cards else None
    if wanted is None or found.remove_metadata() != wanted:
        raise UserError(f"{uri}: the columns of its table are not those of an index; create it again from its vectors")
    return About(cards, settings, tuned, int(version), bridges)
