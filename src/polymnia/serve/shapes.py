"""What goes over the wire, with a limit on every field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MOST_HITS = 100
TOGETHER = 2000  # characters of tasks and topics: with ``where`` they are one filter, of `index.grammar.LONGEST`
ALL = f"tasks and topics have at most {TOGETHER} characters together, where ' counts as two"
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Kind = Literal["audio", "image", "text"]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


class Wire(BaseModel):
    """Unknown keys are refused, so that a misspelt filter is no filter that is silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Filters(Wire):
    """What hits must be."""

    modalities: list[Kind] = Field(
        [], max_length=3, description="search among these; default: sounds and pictures, where there are any"
    )
    tasks: list[Word] = Field([], max_length=50, description=f"hits of one of these tasks; {ALL}")
    topics: list[Word] = Field([], max_length=50, description=f"hits of one of these topics; {ALL}")
    shortest: Seconds | None = Field(None, description="seconds")
    longest: Seconds | None = Field(None, description="seconds")
    where: str | None = Field(None, max_length=1000, description="a filter such as duration < 10 AND topic = 'rain'")

    @model_validator(mode="after")
    def _fit_one_filter(self) -> Filters:
        length = sum(len(word) + word.count("'") for word in (*self.tasks, *self.topics))
        if length > TOGETHER:
            raise ValueError(f"tasks and topics have {length} characters together; at most {TOGETHER}")
        return self


class SimilarRequest(Filters):
    """How many items to find, and where."""

    k: int = Field(10, ge=1, le=MOST_HITS)
    after: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="search the run's own test items with its encoder as it was after so many tasks; "
        "default: the index, with the encoder that it was made with",
    )


class SearchRequest(SimilarRequest):
    """A query: ``text``, an uploaded ``file``, items to be ``like``, or several of them; ``unlike`` takes away."""

    text: str | None = Field(None, max_length=1000)
    like: list[ItemId] = Field([], max_length=10, description="ids of items to be like")
    unlike: list[ItemId] = Field([], max_length=10, description="ids of items to be unlike")

    @model_validator(mode="before")
    @classmethod
    def _blank_is_none(cls, given: Any) -> Any:
        """Forms send empty strings for what was left empty."""
        return {k: v for k, v in given.items() if v != ""} if isinstance(given, dict) else given


class AddRequest(Wire):
    """What is known of an uploaded file."""

    caption: str | None = Field(None, max_length=1000)
    topic: Word | None = None


class Span(Wire):
    """The stretch of a recording that was found, in seconds."""

    start: float
    end: float


class Links(Wire):
    """Where an item can be heard and seen; None where it cannot."""

    sound: str | None = None
    picture: str | None = None
    thumbnail: str | None = None
    spectrogram: str | None = None


class Item(Wire):
    """One item."""

    id: str
    modalities: list[Kind]
    caption: str | None
    topic: str | None
    task: str | None
    duration: float | None
    links: Links


class Hit(Wire):
    """An item that was found; ``rank`` counts from 1, ``modality`` is what was found of it.

    ``score`` is the cosine, or, in an index of several encoders, how far it lies above what is usual for each.
    """

    rank: int
    score: float
    cosine: float
    modality: Kind
    window: Span | None
    item: Item


class EncoderState(Wire):
    """An encoder of the run: after ``task`` tasks, the last of them ``name``."""

    task: int
    name: str


class Searched(Wire):
    """Hits, best first, and what was searched with what."""

    gallery: Literal["index", "run"]
    encoder: EncoderState
    seconds: float
    hits: list[Hit]


class Overview(Wire):
    """What there is to search, with what, and what this server takes. ``spaces``: the encoders of the vectors."""

    rows: int
    modalities: list[Kind]
    queries: list[Kind]
    tasks: list[str]
    topics: list[str]
    encoder: EncoderState
    spaces: list[EncoderState]
    states: list[EncoderState]
    allow_add: bool
    upload_bytes: int
    upload_seconds: float
    upload_types: list[str]


class Health(Wire):
    """The server answers."""

    status: Literal["ok"] = "ok"
    version: str


class Heads(Wire):
    """``score[i][j]``: task j after row i; null where it was not measured. ``summary``: the continual numbers."""

    head: str
    score: list[list[float | None]]
    summary: dict[str, float]


class Matrices(Wire):
    """The scores of the run: a row before learning (``after`` 0) and after each task, a column a task."""

    name: str
    tasks: list[str]
    after: list[int]
    heads: list[Heads]


class Problem(Wire):
    """What is wrong, in one sentence."""

    error: str
