"""Synthetic run folders in the shape that a run leaves behind: for the tests of the report, and for looking at it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw

TASKS = ("nature", "animals", "machines", "music")
STEPS = 40
ITEMS = 24  # held-out items a task, a query each in both directions
POINTS = 3 * 2 * ITEMS  # R@1, R@5 and R@10 of every query of a task
# name -> (what a new task gains, what the next task takes away of it, share of parameters trained, seconds)
PROFILES: dict[str, tuple[float, float, float, float]] = {
    "finetune": (46.0, 11.0, 1.0, 61.0),
    "ewc": (42.0, 7.5, 1.0, 88.0),
    "lwf": (43.0, 5.0, 1.0, 83.0),
    "er": (44.0, 3.2, 1.0, 97.0),
    "er + lwf": (42.5, 1.9, 1.0, 118.0),
    "prompts": (35.0, 0.6, 0.021, 74.0),
}


def write_suite(root: Path, seeds: int = 3, *, media: bool = True) -> list[Path]:
    """Six methods and a joint run, ``seeds`` folders each."""
    names = [*PROFILES, "joint"]
    return [write_run(root / f"{n}-s{s}".replace(" ", ""), n, s, media=media) for n in names for s in range(seeds)]


def write_run(folder: Path, variant: str, seed: int = 0, *, name: str = "demo", media: bool = True) -> Path:
    """One finished run folder with everything in it."""
    folder.mkdir(parents=True)
    rng = random.Random(f"{variant}/{seed}")
    dump(folder / "meta.json", meta(variant, seed, name))
    scores = matrix(variant, rng)
    dump(folder / "matrix.json", scores)
    np.savez(folder / "ranks.npz", **ranks(scores["score"]["latest"][-1], variant, seed))
    if variant == "prompts":
        dump(folder / "taskmap.json", task_map(rng))
    lines = log(variant, rng)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if media:
        dump(folder / "examples.json", examples(folder, variant, rng))
    return folder


def dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def meta(variant: str, seed: int, name: str) -> dict:
    share, seconds = PROFILES.get(variant, (0, 0, 1.0, 240.0))[2:]
    return {
        "name": name,
        "variant": variant,
        "seed": seed,
        "hash": f"{abs(hash_of(variant + str(seed))):08x}",
        "recipe_title": "Four small worlds of sound and picture, one after another",
        "synthetic": True,
        "versions": {"polymnia": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "environment": {"device": "cpu", "cores": 2, "deterministic": True},
        "seconds": seconds + seed,
        "started": f"2026-09-01T10:0{seed}:00",
        "parameters": {"trainable": round(share * 1_234_567), "total": 1_234_567}
        | ({"stored": 61_728} if variant == "prompts" else {}),
        "tasks": [
            {
                "name": t,
                "index": i,
                "items": {"train": 96, "valid": 24, "test": ITEMS},
                "pairs": [["audio", "image"], ["audio", "text"]],
                "failed": [{"id": "nature/0007", "reason": "<b>empty</b> file"}] if t == "nature" else [],
                "score": "mean of R@1, R@5 and R@10 over audio > image and audio > text, both directions",
            }
            for i, t in enumerate(TASKS, 1)
        ],
        "notes": ["Towers are small and start from random weights."],
    }


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode()[-4:], "big")


def matrix(variant: str, rng: random.Random) -> dict:
    gain, loss = PROFILES.get(variant, (38.0, 0.0, 1.0, 0.0))[:2]
    base = [12.0, 14.5, 9.0, 16.0]
    after = [0, 4] if variant == "joint" else [0, 1, 2, 3, 4]
    latest, stored = [], []
    for i in after:
        row, kept = [], []
        for j in range(1, 5):
            noise = rng.gauss(0, 0.9)
            if variant == "joint" and i:
                value = base[j - 1] + gain + 2 * j + noise
            elif i >= j:
                value = base[j - 1] + gain + 2 * j - loss * (i - j) + noise
            else:
                value = base[j - 1] + 1.1 * i + noise
            row.append(100 * round(value / 100 * POINTS) / POINTS if i == 4 else round(value, 3))
            kept.append(round(value + (0.35 * loss * (i - j) if i > j else 0), 3))
        latest.append(row)
        stored.append(kept)
    score = {"latest": latest, "stored": stored}
    return {
        "tasks": list(TASKS),
        "rows": after,
        "score": score,
        "values": {h: {t: metrics(g, j) | routing(variant, j) for j, t in enumerate(TASKS)} for h, g in score.items()},
        "summary": {h: summary(g) if variant != "joint" else joint_summary(g) for h, g in score.items()},
        "ceiling": {t: 100.0 - 3 * j for j, t in enumerate(TASKS)},
        "counts": {t: "24 of 24" if j else "23 of 24" for j, t in enumerate(TASKS)},
    }


def ranks(final: list[float], variant: str, seed: int) -> dict[str, np.ndarray]:
    """Ranks of single queries that make up the final scores; what is hard for one method is mostly so for another."""
    rng = random.Random(f"ranks/{variant}/{seed}")
    out = {"after": np.int32(len(TASKS))}
    for task, score in zip(TASKS, final, strict=True):
        points = round(score / 100 * POINTS)
        order = sorted(range(2 * ITEMS), key=lambda query: query + rng.gauss(0, 6))
        found = np.full(2 * ITEMS, 40, np.int32)
        found[order[: points // 3]] = 1
        found[order[points // 3]] = (40, 8, 3)[points % 3]  # what is left: none, R@10, or R@5 and R@10
        for which, direction in enumerate(("audio>image", "image>audio")):
            out[f"{task}|{direction}"] = found[which::2]
            out[f"{task}|{direction}|items"] = np.array([f"{task}-{k}" for k in range(ITEMS)])
    return out


def metrics(grid: list[list[float]], j: int) -> dict[str, list[float | None]]:
    column = [row[j] for row in grid]
    return {
        "audio>image/R@1": [round(v * 0.5, 3) for v in column],
        "audio>image/N": [ITEMS for _ in column],
        "audio>image/M": [ITEMS for _ in column],
        "audio>image/R@10": [round(min(99.0, v * 1.2), 3) for v in column],
        "image>audio/R@10": [round(min(99.0, v * 1.15), 3) for v in column],
        "topic:dog/audio>text/R@10": [None for _ in column],
    }


def routing(variant: str, j: int) -> dict[str, list[float | None]]:
    """How often an input meets the prompts of its task, from when these are there; the last has no text."""
    right = {"routing/audio": 90.0 - 10 * j, "routing/text": 60.0 + j} if variant == "prompts" else {}
    if j == len(TASKS) - 1:
        right.pop("routing/text", None)
    return {name: [None] * (j + 1) + [value] * (4 - j) for name, value in right.items()}


def task_map(rng: random.Random) -> dict:
    """Maps of the tasks: names, prompts and features of sounds."""
    maps = {}
    for name, spread in {"semantic": 0.5, "prompts/audio": 0.02, "data/audio": 0.5}.items():
        square = np.zeros((4, 4))
        square[np.triu_indices(4, 1)] = [round(0.5 + spread * rng.random(), 6) for _ in range(6)]
        maps[name] = (square + square.T).tolist()
    return {"tasks": list(TASKS), "maps": maps}


def joint_summary(grid: list[list[float]]) -> dict[str, float | None]:
    return {"average": sum(grid[-1]) / 4, "forgetting": None, "bwt": None, "fwt": None, "plasticity": None}


def summary(r: list[list[float]]) -> dict[str, float | None]:
    """The definitions of the specification, written out for four tasks."""
    own = [r[j + 1][j] for j in range(4)]
    return {
        "average": sum(r[4]) / 4,
        "average_incremental": sum(sum(r[i][:i]) / i for i in range(1, 5)) / 4,
        "forgetting": sum(max(r[k][j] for k in range(j + 1, 4)) - r[4][j] for j in range(3)) / 3,
        "bwt": sum(r[4][j] - own[j] for j in range(3)) / 3,
        "fwt": sum(r[j][j] - r[0][j] for j in range(1, 4)) / 3,
        "plasticity": sum(own) / 4,
    }


def log(variant: str, rng: random.Random) -> list[dict]:
    extra = {"lwf": ["lwf"], "ewc": ["ewc"], "er": ["er"], "er + lwf": ["er", "lwf"]}.get(variant, [])
    strength = {"lwf": 0.21, "ewc": 0.012, "er": 0.4}
    lines: list[dict] = []
    for index, task in enumerate(TASKS, 1):
        for step in range(STEPS):
            fade = 2.9 * 2.7 ** (-step / 14) + 0.6 + rng.uniform(-0.08, 0.08)
            terms = {"contrastive/audio-image": fade, "contrastive/audio-text": fade * 1.15}
            active = extra if index > 1 else []
            terms |= {t: strength[t] * (1 + 0.4 * rng.random()) for t in active}
            line = {"kind": "step", "task": task, "index": index, "step": step, "epoch": step // 10, "lr": 0.001}
            line |= {"loss": sum(terms.values()), "terms": terms}
            if variant == "lwf":
                line["facts"] = {"lwf/kept/audio-image": 0.25 * index}
            if step % 8 == 0 and active:
                line["ratio"] = {t: strength[t] * rng.uniform(0.6, 1.5) for t in active}
            lines.append(line)
        lines.append({"kind": "task", "index": index, "name": task, "seconds": 14.2, "steps": STEPS})
        lines.append({"kind": "eval", "after": index})
    if variant == "finetune":
        lines.append({"kind": "warning", "message": "the <i>temperature</i> reached its bound at step 31"})
    return lines


def examples(folder: Path, variant: str, rng: random.Random) -> dict:
    """Eight items a task with small media; retrieval that gets right with learning and partly wrong again."""
    (folder / "examples").mkdir()
    items = {}
    for j, task in enumerate(TASKS):
        for k in range(8):
            key = f"{task}-{k}"
            tone(folder / f"examples/{key}.wav", 180 * (j + 1) + 35 * k)
            picture(folder / f"examples/{key}.png", j, k)
            items[key] = {
                "caption": f"a {task} sound, number {k}, <script>alert(1)</script>" if k == 0 else f"{task} no. {k}",
                "audio": f"examples/{key}.wav",
                "image": f"examples/{key}.png",
                "topic": task,
            }
    queries = []
    for j, task in enumerate(TASKS, 1):
        for d, direction in enumerate(("audio>image", "text>audio", "image>text")):
            results = {
                str(i): ranking(task, i, j, variant, rng)
                for i in sorted({0, j, 4} - ({1, 2, 3} if variant == "joint" else set()))
            }
            queries.append({"task": task, "direction": direction, "query": f"{task}-{d}", "results": results})
            queries[-1]["caption"] = items[f"{task}-{d}"]["caption"] if direction.startswith("text") else None
    return {"items": items, "queries": queries}


def ranking(task: str, after: int, own: int, variant: str, rng: random.Random) -> list[dict]:
    loss = PROFILES.get(variant, (0, 0.0, 0, 0))[1]
    right = 0.15 if after < own else max(0.1, 0.85 - 0.06 * loss * (after - own))
    out = []
    for k in rng.sample(range(8), 5):
        topic = task if rng.random() < right else rng.choice([t for t in TASKS if t != task])
        out.append({"id": f"{topic}-{k}", "score": round(0.9 - 0.07 * len(out), 4), "hit": topic == task})
    return out


def tone(path: Path, hertz: float) -> None:
    time = np.arange(2000, dtype=np.float32) / 8000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time), 8000, subtype="PCM_U8")


def picture(path: Path, hue: int, k: int) -> None:
    image = Image.new("RGB", (64, 64), [(42, 94, 70), (164, 98, 42), (66, 74, 96), (120, 52, 92)][hue])
    draw = ImageDraw.Draw(image)
    corner, size = 8 + 3 * k, 18 + 2 * k
    shape = [draw.ellipse, draw.rectangle, draw.rounded_rectangle, draw.chord][hue]
    extra = {"start": 20, "end": 240} if hue == 3 else {}
    shape((corner, corner, corner + size, corner + size), fill=(244, 232, 205), **extra)
    image.save(path)
