"""Splits of sets that have no official ones: drawn by a hash of each item, so that everyone draws the same."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from pydantic import Field, NonNegativeInt, model_validator

from polymnia.data.items import DatasetConfig
from polymnia.types import Split, UserError


def place(key: str) -> float:
    """Where a key falls between 0 and 1 (left out): a hash, as good as drawn."""
    return int.from_bytes(blake2b(key.encode(), digest_size=6).digest()) / 2**48


class SharesConfig(DatasetConfig):
    """For sets without official splits: shares (0 to 1) drawn by a hash, so that an item keeps its split."""

    test_share: float = Field(default=0.0, ge=0, le=1)
    valid_share: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _shares_fit(self) -> SharesConfig:
        if self.test_share + self.valid_share > 1:
            raise ValueError("test_share and valid_share add up to more than 1")
        return self

    def drawn(self, key: str) -> Split:
        """The split of everything that has this key."""
        at = place(key)
        if at < self.test_share:
            return "test"
        return "valid" if at < self.test_share + self.valid_share else "train"


class CountsConfig(SharesConfig):
    """The same, or ``test_count`` and ``valid_count`` items: those whose hashes come first. Which ones depends on the
    tables and on what they are asked to leave out, not on the files that are there."""

    test_count: NonNegativeInt = 0
    valid_count: NonNegativeInt = 0

    @model_validator(mode="after")
    def _shares_or_counts(self) -> CountsConfig:
        if (self.test_count or self.valid_count) and (self.test_share or self.valid_share):
            raise ValueError("give test_count and valid_count, or test_share and valid_share, not both kinds")
        return self

    @property
    def holds_out(self) -> bool:
        """Whether anything is held out."""
        return any((self.test_share, self.valid_share, self.test_count, self.valid_count))

    def draw(self, keys: Sequence[str], what: str) -> list[Split]:
        """The split of each item, by its key. Raises UserError where the counts leave nothing to train on."""
        held_out = self.test_count + self.valid_count
        if not held_out:
            return [self.drawn(key) for key in keys]
        if held_out >= len(keys):
            raise UserError(
                f"{what}: test_count {self.test_count:,} and valid_count {self.valid_count:,} leave nothing to train "
                f"on of its {len(keys):,} items; choose less"
            )
        splits: list[Split] = ["train"] * len(keys)
        for rank, at in enumerate(sorted(range(len(keys)), key=lambda i: (place(keys[i]), keys[i], i))[:held_out]):
            splits[at] = "test" if rank < self.test_count else "valid"
        return splits
