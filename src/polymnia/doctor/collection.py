"""Whether the files of a data set are there and whole: counts for each split, and a manifest of every file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polymnia.config import Part, parse_part
from polymnia.data.disk import CORES
from polymnia.data.items import DatasetConfig
from polymnia.data.pack import in_order
from polymnia.data.presence import files, missing, tolerated
from polymnia.doctor import listing
from polymnia.doctor.clips import Clip, Examiner, Status
from polymnia.recipe import Recipe, parse_overrides, plan
from polymnia.types import Captions, Item, Modality, UserError

SHOWN = 5  # files of each kind that are named
ALLOWED = Recipe.model_fields["max_broken"].default  # of sets whose files are expected to be all there
WORST: tuple[Status, ...] = ("missing", "unreadable", "short", "ok")
Progress = Callable[[str, str, int, int], None]  # data set, what is done, done, of how many


@dataclass
class SplitCheck:
    """Items of a split by the worst of their media: ``missing`` and ``unreadable`` ones cannot be used, ``short`` and
    ``ok`` ones are there. ``examples``: the first few of each kind, with the reason."""

    rows: int = 0
    missing: int = 0
    unreadable: int = 0
    short: int = 0
    ok: int = 0
    captions: int = 0
    classes: set[str] = field(default_factory=set)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def present(self) -> int:
        return self.rows - self.missing

    def plain(self) -> dict[str, Any]:
        """The same as data for JSON."""
        numbers = {k: getattr(self, k) for k in ("rows", "present", "missing", "unreadable", "short", "captions")}
        return {**numbers, "classes": len(self.classes), "examples": self.examples}

    def count(self, item: Item, clips: Mapping[Modality, Clip]) -> None:
        worst = min(clips.values(), key=lambda clip: WORST.index(clip.status), default=Clip(""))
        self.rows += 1
        setattr(self, worst.status, getattr(self, worst.status) + 1)
        self.captions += sum(len(s.texts) for s in item.sources.values() if isinstance(s, Captions))
        self.classes.update(item.labels)
        if worst.status != "ok" and len(shown := self.examples.setdefault(worst.status, [])) < SHOWN:
            length = f"{worst.seconds:g} s" if worst.status == "short" else worst.reason
            said = f"{item.id}: {worst.place}" + (f": {length}" if length else "")
            shown.append(said.encode(errors="replace").decode())  # names may be no UTF-8


@dataclass
class SetCheck:
    """What was found out about a data set. ``allowed`` is the share of a split's items that may be missing."""

    name: str
    root: Path
    manifest: Path
    allowed: float
    splits: dict[str, SplitCheck] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """Why the data set is not fit for use."""
        return [
            *(f"{name}: {s.unreadable:,} unreadable" for name, s in self.splits.items() if s.unreadable),
            *(
                f"{name}: {s.missing:,} of {s.rows:,} missing, more than {self.allowed:.0%}"
                for name, s in self.splits.items()
                if s.missing > self.allowed * s.rows
            ),
        ]

    def plain(self) -> dict[str, Any]:
        """The same as data for JSON."""
        splits = {name: split.plain() for name, split in self.splits.items()}
        where = {"name": self.name, "root": str(self.root), "manifest": str(self.manifest)}
        verdict = {"ok": not self.faults, "faults": self.faults, "allowed_missing": self.allowed}
        return {**where, **verdict, "splits": splits}


@dataclass(frozen=True)
class Checking:
    """How to check: ``out`` is the manifest, or the folder of several; see ``Examiner``. ``most_missing`` holds for
    sets that do not say themselves what may be missing."""

    out: Path | None = None
    hashed: bool = True
    min_seconds: float = 0.31  # the PANNs need 9,920 samples at 32 kHz
    most_missing: float = ALLOWED
    workers: int = max(2, CORES)


def check_words(
    words: Sequence[str], recipe: Path | None, how: Checking, progress: Progress = lambda *_: None
) -> list[SetCheck]:
    """What the command line asks for: the data sets of a recipe under key=value words, or NAME ROOT [key=value ...].

    Raises UserError for words that are neither, and as ``check_set``.
    """
    if recipe is not None:
        return check_recipe(plan(recipe, parse_overrides(words)), how, progress)
    if len(words) < 2 or "=" in words[0] or "=" in words[1]:
        raise UserError("give the name of a data set and the folder that it lies in, or --recipe")
    raw = {"use": words[0], "root": words[1], **parse_overrides(words[2:])}
    try:
        part = parse_part("data.datasets", raw)
    except ValueError as error:
        raise UserError(str(error)) from error
    return [check_set(part, how, progress)]


def check_set(part: Part, how: Checking, progress: Progress = lambda *_: None) -> SetCheck:
    """Read a data set, look at every file of it, write the manifest (``<folder>-<name>-check.csv`` unless said).

    A check that was stopped goes on where it was; files that have not changed since the last one are not read again.
    Raises UserError for a data set that cannot be read, and for a manifest inside its folder.
    """
    return _check([part], part.config.root, how, how.out, progress)


def check_recipe(planned: Sequence[Recipe], how: Checking, progress: Progress = lambda *_: None) -> list[SetCheck]:
    """The same for every data set of a recipe's runs; choices of one set at one place are checked together."""
    how = replace(how, most_missing=planned[0].max_broken)
    together: dict[tuple[str, Path], dict[str, Part]] = {}
    for recipe in planned:
        for cfg in (*recipe.stages, *recipe.tasks, *recipe.watch):
            for part in cfg.data:
                root = recipe.data / part.config.root
                placed = part.model_copy(update={"config": part.config.model_copy(update={"root": root})})
                together.setdefault((part.use, root), {})[repr(placed.dump())] = placed
    outs = [_default(use, root, how.out or Path()) for use, root in together]
    if how.out is not None and how.out.suffix == ".csv":
        raise UserError(f"--out {how.out}: a recipe's data sets have a manifest each; give a folder")
    if len(set(outs)) < len(outs):
        raise UserError(f"two data sets would write {max(outs, key=outs.count)}; check them one by one, with --out")
    return [
        _check(list(parts.values()), root, how, out, progress)
        for ((_, root), parts), out in zip(together.items(), outs, strict=True)
    ]


def _default(use: str, root: Path, folder: Path) -> Path:
    return folder / f"{root.resolve().name or 'data'}-{use.rpartition('.')[2]}-check.csv"


def _check(parts: Sequence[Part], root: Path, how: Checking, out: Path | None, progress: Progress) -> SetCheck:
    name = parts[0].use
    out = out or _default(name, root, Path())
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"the manifest {out} would lie inside the data set at {root}; give --out another place")
    progress(name, "reading its tables", 0, 0)
    read = (item for part in parts for item in part.module.items(part.config))
    items = list({(i.id, i.split, *files(i)): i for i in read}.values())
    shares = [_allowed(part.config, how.most_missing) for part in parts]
    found = SetCheck(name, root, out, max(shares))
    known = listing.known(out)
    examiner = Examiner(root, known, how.hashed, how.min_seconds)
    progress(name, "listing its folders", 0, 0)
    with listing.writing(out) as manifest:
        for number, (item, clips) in enumerate(_looked(items, examiner, how.workers), start=1):
            found.splits.setdefault(item.split, SplitCheck()).count(item, clips)
            for modality, clip in clips.items():
                if clip.place or clip.status != "ok":
                    manifest.add(item, modality, clip, clip.changed > 0 and known.get((modality, clip.place)) != clip)
            progress(name, "looking at its files", number, len(items))
    return found


def _looked(items: Sequence[Item], examiner: Examiner, workers: int) -> Iterator[tuple[Item, dict[Modality, Clip]]]:
    """The items in order, each with what is known of its media; few are in memory at a time."""
    gone: dict[Modality, set[str]] = {m: set(missing(items, (m,))) for m in {m for i in items for m in i.sources}}

    def look(number: int) -> tuple[Item, dict[Modality, Clip]]:
        item = items[number]
        return item, {m: examiner.look(m, source, item.id not in gone[m]) for m, source in item.sources.items()}

    return in_order(look, range(len(items)), workers)


def _allowed(config: DatasetConfig, otherwise: float) -> float:
    share = tolerated(config)
    return otherwise if share is None else share
