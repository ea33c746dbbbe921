"""Classified clips in official folds, of which some are held out. Probes rotate over ``Item.fold`` by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import model_validator

from polymnia.config import nearest
from polymnia.data.items import DatasetConfig, Template, captions
from polymnia.types import AudioFile, Captions, Item, Modality, Source, Split, UserError

# not "this is a sound of {}": zero-shot evaluation asks with a sentence that was never a caption
TEMPLATES = (
    "a recording of {}",
    "an audio clip of {}",
    "{} can be heard",
    "the noise of {}",
    "you can hear {}",
    "{}",
)


class FoldsConfig(DatasetConfig):
    """``test_fold`` (``all``: every clip is a test clip, for zero-shot) and ``valid_fold`` are held out. A clip's
    captions are ``templates`` filled with its class; ``names`` replaces the words for a class."""

    test_fold: int | Literal["all"] = 1
    valid_fold: int | None = None
    templates: tuple[Template, ...] = TEMPLATES
    names: dict[str, str] = {}

    @model_validator(mode="after")
    def _folds_make_sense(self) -> FoldsConfig:
        if self.test_fold == "all" and self.valid_fold is not None:
            raise ValueError("valid_fold: test_fold: all leaves no clips for validation")
        if self.valid_fold == self.test_fold:
            raise ValueError(f"valid_fold and test_fold are both {self.test_fold}; choose different folds")
        return self

    def split(self, fold: int) -> Split:
        """The split of a clip of this fold."""
        if self.test_fold in ("all", fold):
            return "test"
        return "valid" if fold == self.valid_fold else "train"

    def item(self, audio: AudioFile, name: str, category: str, fold: int, origin: str) -> Item:
        """A clip of one class: clips of a class are positives of each other."""
        sources: dict[Modality, Source] = {"audio": audio}
        if self.templates:
            sources["text"] = self.text(category)
        return Item(name, sources, category, category, self.split(fold), (category,), fold, (origin,))

    def text(self, category: str) -> Captions:
        """The captions of a class; underscores become spaces."""
        return captions(self.templates, self.names.get(category, category.replace("_", " ")))

    def check_folds(self, folds: Iterable[int], what: str) -> None:
        """Raises UserError for a held-out fold that the set does not have."""
        there = sorted(set(folds))
        for key, fold in (("test_fold", self.test_fold), ("valid_fold", self.valid_fold)):
            if fold not in (None, "all") and fold not in there:
                raise UserError(f"{key}: {what} has no fold {fold}; folds: {', '.join(map(str, there))}")

    def check_names(self, categories: Iterable[str], what: str) -> None:
        """Raises UserError for a class in ``names`` that the set does not have."""
        known = sorted(set(categories))
        for name in self.names:
            if name not in known:
                raise UserError(f"names: {what} has no class '{name}'; {nearest(name, known)}")
