"""An index that follows its encoder: measured, decided, and carried over without the media it was made of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from polymnia.data.names import unescape
from polymnia.index.rows import sample, vectors
from polymnia.index.schema import EncoderCard
from polymnia.index.store import Index
from polymnia.index.where import column, quoted
from polymnia.runs.compatibility import Upgrades
from polymnia.runs.embedding.card import card_of
from polymnia.runs.encoder import load, other_names
from polymnia.runs.lookup import Encoders, questions
from polymnia.runs.upgrading.advice import MARGIN, Advice, advise
from polymnia.runs.upgrading.apply import kinds, upgrade_rows
from polymnia.runs.upgrading.lazily import Again, Budget, embed_again, seconds_again
from polymnia.spaces.adapter import KINDS
from polymnia.types import Modality, UserError

Mode = Literal["auto", "vectors", "queries", "lazy"]
SAMPLE = 2048  # rows that are compared with anchors
MOST_LOST = 10.0  # points that an upgrade may cost
Say = Callable[[str], None]


@dataclass(frozen=True)
class How:
    """``mode``: ``auto`` does for each encoder and modality what was measured to be best; ``vectors`` maps all;
    ``queries`` leaves all rows, and maps queries of the new encoder back; ``lazy`` maps as ``auto`` does, then embeds
    what was mapped again within ``budget``. ``queries``: modalities that people ask with. ``margin``, ``most_lost``:
    points, see ``decide``. ``force``: map even where too much is lost, or ``lazy`` would keep. ``dry``: measure only.
    """

    mode: Mode = "auto"
    queries: tuple[Modality, ...] = ()
    budget: Budget = Budget()
    margin: float = MARGIN
    most_lost: float = MOST_LOST
    force: bool = False
    dry: bool = False


@dataclass
class Upgraded:
    """What was found and done. ``advices`` one for each encoder and modality that was not the new one's.

    ``seconds`` of mapping; ``all_again``: what embedding everything would take, estimated from a few media.
    """

    card: EncoderCard
    advices: list[Advice]
    mapped: int = 0
    left: int = 0
    seconds: float = 0.0
    all_again: float | None = None
    again: Again | None = None
    bridged: tuple[str, ...] = ()


def upgrade(
    uri: str, run: Path, task: int | None = None, data: Path | None = None, how: How | None = None, say: Say = print
) -> Upgraded:
    """Bring an index to the encoder of ``run`` after ``task`` tasks (default: the last).

    Raises UserError for vectors of another run, a run without anchors, and where more would be lost than ``most_lost``
    points (unless ``force``); the index is then as it was. Killed at any moment, it is so, too, or done.
    """
    how = how or How()
    _whole_budget(how)
    index = Index.open(uri)
    encoder = load(run, task, data)
    card = card_of(encoder, run)
    present = kinds(index)
    old = {s for s, _ in present} - {card.signature}
    for signature in sorted(old):
        _same_run(index.cards[signature], card, run, data)
    done = Upgraded(card, [])
    if old:
        upgrades = Upgrades.of(run, KINDS)
        after = {s: index.cards[s].task for s in old}
        found = {
            (s, m): advise(
                upgrades,
                after[s],
                card.task,
                m,
                how.queries,
                how.margin,
                _shares(index, upgrades, s, m, card.task),
                back=how.mode == "queries",
            )
            for s, m in present
            if s in old
        }
        done.advices = list(found.values())
        done.all_again = seconds_again(index, encoder)
        if not how.dry:
            _carry_out(index, card, found, how, done)
    if how.mode == "lazy" and not how.dry:
        say("embedding again, most important first")
        done.again = embed_again(index, encoder, card, how.budget)
    if not how.dry:
        index.settle(questions(index, Encoders((run,), data)) if index.unsettled else None)
    return done


def _shares(index: Index, upgrades: Upgrades, signature: str, modality: Modality, new: int) -> dict[int, float] | None:
    """Which share of the index's rows is like the items of each task: by the nearest anchor of a sample of them."""
    own = f"{column('encoder')} = {quoted(signature)} AND {column('modality')} = {quoted(modality)}"
    some = torch.from_numpy(np.array(vectors(sample(index.table, own, SAMPLE))))
    old = index.cards[signature].task
    return upgrades.anchors.nearest_tasks(some, old, modality, range(1, max(old, new) + 1)) or None


def _carry_out(
    index: Index, card: EncoderCard, found: dict[tuple[str, Modality], Advice], how: How, done: Upgraded
) -> None:
    if how.mode == "queries":
        lost = [a for a in found.values() if a.loss > how.most_lost]
        if lost and not how.force:
            raise UserError(_too_much(lost, how))
        index.bridge({s: card for s, _ in found})
        done.bridged = tuple(sorted({s for s, _ in found}))
        done.left = index.count()
        return
    if how.mode == "vectors" or (how.mode == "lazy" and how.force):
        found = {k: replace(a, action="upgrade") for k, a in found.items()}
    else:  # what should be embedded again is mapped first: at once with ``auto``, until its turn comes with ``lazy``
        found = {k: replace(a, action="upgrade") if a.action == "re-embed" else a for k, a in found.items()}
    lost = [a for a in found.values() if a.action == "upgrade" and a.loss > how.most_lost]
    if lost and not how.force and not (how.mode == "lazy" and how.budget == Budget()):
        raise UserError(_too_much(lost, how))
    index.ask_directly({s for s, _ in found})
    began = time.perf_counter()
    if any(a.action == "upgrade" for a in found.values()):
        moved = upgrade_rows(index, card, found)
        done.mapped, done.left = moved.mapped, moved.left
    else:
        index.add_encoder(card)  # what is added from now on is of the new one
        done.left = index.count()
    done.seconds = time.perf_counter() - began


def _too_much(lost: Sequence[Advice], how: How) -> str:
    worst = max(lost, key=lambda a: a.loss)
    c = worst.chosen
    leave, what = "leave them (--mode auto, or --mode queries)", f"mapped {worst.modality} vectors"
    if how.mode == "queries":
        leave, what = "ask each encoder's in its own space (--mode auto)", f"queries mapped back to {worst.modality}"
    again = "embed all of them again (--mode lazy without a budget)"
    better = leave if c["kept"] >= c["self"] else again
    return (
        f"{what} would find {c[worst.way]:.1f} on held-out anchors, {worst.loss:.1f} points less than the best other "
        f"way and more than --max-loss {how.most_lost:g}: {better}, or pass --force. Nothing was changed"
    )


def _same_run(old: EncoderCard, new: EncoderCard, run: Path, data: Path | None) -> None:
    """The rows' encoder must be that of the same run after another task: anchors of other runs say nothing of it."""
    try:
        known = load(run, old.task, data).signature
    except UserError:
        known = ""
    if old.signature not in (known, *other_names(run, old.task)):
        place = os.fsdecode(unescape(old.run))
        raise UserError(
            f"the index holds vectors of the encoder {old.signature} ({place} after task {old.task}), which is not of "
            f"{run}: give the run that they were made with; if that is gone, embed the media again into a new index"
        )


def _whole_budget(how: How) -> None:
    if how.budget != Budget() and how.mode != "lazy":
        raise UserError(f"a budget of items or seconds is for --mode lazy, not for --mode {how.mode}")
