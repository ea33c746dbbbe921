"""Writes a world to disk once, as ordinary wav and png files and one ``scenes.json``, and finds it there again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import wave
from collections.abc import Iterator, Sequence
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from jaxtyping import Bool, Int
from PIL import Image
from rich.console import Console
from rich.progress import track

from polymnia.data.synth import picture, sound
from polymnia.data.synth.scene import FAMILIES, Scene, World, combinations, describe
from polymnia.types import AudioFile, Item, UserError

POOLS = ("train", "valid", "test", "base")  # the place of a pool is its part of the random seed: append only
VERSION = 1  # of the rendering: count up when the same settings would give other bytes
INDEX = "scenes.json"


class Job(NamedTuple):
    """One scene to be rendered: ``combo`` is its place in its domain, ``instance`` its number in the combination."""

    id: str
    pool: str
    scene: Scene
    combo: int
    instance: int

    def rng(self, seed: int) -> np.random.Generator:
        """The only source of randomness of this scene: it depends on no other scene and on no order."""
        place = list(FAMILIES).index(self.scene.domain) * 144 + self.combo
        return np.random.default_rng([seed, POOLS.index(self.pool), place, self.instance])


def folder(root: Path, world: World) -> Path:
    """Where a world lies: its name holds a hash of everything that decides its bytes."""
    settings = {"version": VERSION, **{name: getattr(world, name) for name in World.model_fields}}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return root / f"soundworld-{digest}"


def chosen(world: World, domain: str) -> list[int]:
    """The combinations of a domain that exist in this world: a random draw when ``combos`` limits them."""
    if world.combos is None:
        return list(range(144))
    rng = np.random.default_rng([world.seed, len(POOLS), list(FAMILIES).index(domain)])
    return sorted(rng.permutation(144)[: world.combos].tolist())


def jobs(world: World) -> Iterator[Job]:
    """All scenes of a world, in the order of ``scenes.json``."""
    for domain in FAMILIES:
        scenes = combinations(domain)
        for pool in POOLS:
            for combo in chosen(world, domain):
                for instance in range(getattr(world, pool)):
                    yield Job(f"sw-{pool}-{domain}-{combo:04d}-{instance}", pool, scenes[combo], combo, instance)


def ensure(root: Path, world: World) -> Path:
    """The folder of the world, written now unless a finished one is there.

    The files are made beside it and renamed into place in one step, under a lock: of two processes one writes and
    the other waits, and what an interrupted write left behind is removed by the next.
    """
    target = folder(root, world)
    if (target / INDEX).exists():
        return target
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{target.name}.lock"):
        if not (target / INDEX).exists():
            draft = root / f".{target.name}.partial"
            for leftover in (draft, target):  # a target without an index was tampered with: it is ours, make it anew
                shutil.rmtree(leftover, ignore_errors=True)
            _write(draft, world)
            os.replace(draft, target)
    return target


def read(target: Path) -> list[dict[str, Any]]:
    """The entries of ``scenes.json``, one a scene, in a fixed order."""
    return json.loads((target / INDEX).read_text(encoding="utf-8"))["scenes"]


def ceiling(items: Sequence[Item], cuts: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """The retrieval that ambiguous captions allow on these items: expected R@k of a perfect reader, in percent.

    The keys are those of ``eval/evaluators/retrieval.py``; sounds and pictures have the same ceiling.

    The reader knows the attributes of every sound or picture and what each caption mentions, and nothing else: not
    which wording, noise or place belongs together. Ties are broken at random. A caption *fits* the m items that have
    all it mentions, its own among them.

    ``text>audio/R@k``: which attributes go unmentioned does not depend on their values, so the m items are equally
    likely, and the chance to have the right one in the first k is min(k, m) / m; the mean over captions is exact.

    ``audio>text/R@k``: a hit is any of the item's own captions in the first k of all captions. One that fits m items
    is from this one with chance 1 / m, so the reader ranks captions that fit by small m. If the first k end inside
    n captions of equal m, r of them own, with s places left, and no own one before, the chance is
    1 - C(n - r, s) / C(n, s). Exact for this reader; at k > 1 the reader itself is the best only approximately,
    since which captions stem from one item is not independent.

    Raises:
        UserError: an item is not of a world on disk, or has no sound.
    """
    says, owner = _mentions(items)
    tags = sorted({tag for item in items for tag in item.labels})
    lacks = np.array([[tag not in item.labels for tag in tags] for item in items], np.int64)
    needs = np.array([[tag in said for tag in tags] for said in says], np.int64)
    fits = needs @ lacks.T == 0
    fit_count = fits.sum(1)
    scores: dict[str, float] = {}
    for k in cuts:
        found = np.minimum(k, fit_count) / fit_count
        hits = [_hit(fit_count[fits[:, i]], owner[fits[:, i]] == i, k) for i in range(len(items))]
        for other in ("audio", "image"):
            scores[f"text>{other}/R@{k}"] = 100 * float(np.mean(found))
            scores[f"{other}>text/R@{k}"] = 100 * float(np.mean(hits))
    return scores


def _mentions(items: Sequence[Item]) -> tuple[list[frozenset[str]], Int[np.ndarray, " captions"]]:
    """What every caption of the items mentions, and the number of the item that it belongs to."""
    known: dict[Path, dict[str, list[dict[str, Any]]]] = {}
    says, owner = [], []
    for number, item in enumerate(items):
        source = item.sources.get("audio")
        home = source.path.parent.parent if isinstance(source, AudioFile) else Path()
        if home not in known:
            if not (home / INDEX).exists():
                raise UserError(f"'{item.id}' is not an item of soundworld: only those have a ceiling")
            known[home] = {scene["id"]: scene["captions"] for scene in read(home)}
        for caption in known[home][item.id]:
            says.append(frozenset(caption["says"]))
            owner.append(number)
    return says, np.array(owner, np.int64)


def _hit(fit_count: Int[np.ndarray, " n"], own: Bool[np.ndarray, " n"], places: int) -> float:
    """The chance of an own caption in the first ``places``, captions in order of ``fit_count``, ties at random."""
    for level in np.unique(fit_count):
        tied = fit_count == level
        n, r = int(tied.sum()), int(own[tied].sum())
        if n > places:
            return 1 - comb(n - r, places) / comb(n, places)
        if r:
            return 1.0
        places -= n
    return 0.0


def _write(draft: Path, world: World) -> None:
    for part in ("audio", "image"):
        (draft / part).mkdir(parents=True)
    todo = list(jobs(world))
    bar = track(todo, "writing soundworld", console=Console(stderr=True))
    scenes = [_render(draft, world, job) for job in bar]  # 2 ms each: a pool of threads or processes gains nothing
    settings = {"version": VERSION, **world.model_dump(include=set(World.model_fields))}
    (draft / INDEX).write_text(json.dumps({"settings": settings, "scenes": scenes}), encoding="utf-8")


def _render(draft: Path, world: World, job: Job) -> dict[str, Any]:
    for_sound, for_picture, for_text = job.rng(world.seed).spawn(3)  # so that a change of one leaves the others alone
    audio, image = f"audio/{job.id}.wav", f"image/{job.id}.png"
    with wave.open(str(draft / audio), "wb") as file:
        file.setparams((1, 2, sound.RATE, 0, "NONE", ""))
        samples = sound.render(job.scene, world.seconds, for_sound)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    pixels = picture.render(job.scene, world.size, for_picture)
    Image.fromarray(pixels).save(draft / image, compress_level=1)
    captions = describe(job.scene, world.captions, world.mention, for_text)
    return {
        "id": job.id,
        "pool": job.pool,
        "domain": job.scene.domain,
        "combo": job.combo,
        "audio": audio,
        "image": image,
        "labels": job.scene.labels,
        "captions": [{"text": c.text, "says": c.says} for c in captions],
    }
