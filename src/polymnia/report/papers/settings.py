"""Finished runs by setting: the seeds of one resolved recipe on the same data, and nothing else, are joined."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymnia.report import words
from polymnia.report.collect import Run
from polymnia.report.folders import load_json
from polymnia.report.published import read_yaml
from polymnia.types import UserError

# Keys of a resolved recipe that do not tell two settings apart: the seed, and where and with what a run is done.
APART = {"seed", "title", "data", "out", "cache", "device", "workers", "threads", "checkpoint_every", "jobs"}
APART |= {"anchors"}
# Keys in which a method may differ from what it is compared with, seed by seed.
OWN = {"name", "variant", "method", "heads", "objective", "watch", "eval", "examples"}
SHOWN = 3  # keys that a label names


@dataclass(frozen=True)
class Setting:
    """The runs of one recipe, a seed each, in order. ``recipe`` is resolved, without what does not tell it apart."""

    recipe: dict[str, Any]
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return self.runs[0].key[0]

    @property
    def variant(self) -> str:
        return str(self.recipe.get("variant") or "")

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(r.seed for r in self.runs)

    @property
    def comparable(self) -> str:
        """Equal for settings that differ in the method alone: the same data, towers and training."""
        kept = {k: v for k, v in self.recipe.items() if k not in OWN}
        kept["tasks"] = [{k: v for k, v in t.items() if k != "objective"} for t in self.recipe.get("tasks") or []]
        return json.dumps([kept, state(self.runs[0])], sort_keys=True)


def state(run: Run) -> dict[str, Any]:
    """What data a run had: the items, and how many of each set it was scored on."""
    return {"fingerprint": run.meta.get("fingerprint"), "scored": run.counts()}


def read_settings(folders: Sequence[Path]) -> tuple[list[Setting], list[str]]:
    """Settings in the order in which their first run is named, and in words which folders were skipped and why.

    Raises UserError for a folder that is none of a run.
    """
    groups: dict[str, tuple[dict[str, Any], dict[int, Run]]] = {}
    skipped = []
    for path in dict.fromkeys(p.resolve() for p in folders):
        if (path / "report.html").exists() and not (path / "meta.json").exists():
            continue  # `runs/*` also names the folder that a study wrote its report into
        why, run, recipe = _read(path)
        if run is None:
            skipped.append(f"{path.name}: {why}")
            continue
        own = {k: v for k, v in recipe.items() if k not in APART}
        key = json.dumps([run.key, own, state(run)], sort_keys=True)
        runs = groups.setdefault(key, (own, {}))[1]
        if run.seed in runs:
            skipped.append(f"{path.name}: the same setting and seed as {runs[run.seed].path.name}")
        else:
            runs[run.seed] = run
    return [Setting(own, tuple(r for _, r in sorted(runs.items()))) for own, runs in groups.values()], skipped


def _read(path: Path) -> tuple[str, Run | None, dict[str, Any]]:
    """A finished run with its recipe, or why there is none."""
    meta = load_json(path / "meta.json", needed=True)
    if not meta.get("finished"):
        return "not finished", None, {}
    run = Run(path, meta, load_json(path / "matrix.json", needed=True))
    if run.learned < len(run.tasks):
        return f"not finished: {run.learned} of {len(run.tasks)} tasks learned", None, {}
    recipe = read_yaml(path / "recipe.yaml", f"is {path} the folder of a run?")
    for kind in ("tasks", "watch", "method"):
        entries = recipe.get(kind) or []
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise UserError(f"{path / 'recipe.yaml'}: {kind} is no list of mappings; is {path} the folder of a run?")
    if recipe.get("eval_split", "test") != "test":
        return f"scored on its {recipe['eval_split']} items, not on the test items", None, {}
    return "", run, recipe


def labels(settings: Sequence[Setting]) -> list[str]:
    """What tells the settings of one row apart: the variant, then the keys in which those of one variant differ."""
    out = []
    for setting in settings:
        peers = [s for s in settings if s.variant == setting.variant]
        out.append(", ".join(w for w in (setting.variant, _differing(setting, peers)) if w))
    return out


def _differing(setting: Setting, peers: Sequence[Setting]) -> str:
    if len(peers) < 2:
        return ""
    own, *_ = flat = [dict(flatten(s.recipe | state(s.runs[0]))) for s in (setting, *peers)]
    keys = dict.fromkeys(k for f in flat for k in f)
    differing = [k for k in keys if len({json.dumps(f.get(k)) for f in flat}) > 1]
    said = [f"{k}={own.get(k)}" for k in differing[:SHOWN]]
    more = len(differing) - len(said)
    return ", ".join(said) + (f" and {words.count(more, 'more key')}" if more else "")


def flatten(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a recipe; entries of a list are named by their ``name`` or ``use``, else by place."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from flatten(value, f"{path}.{key}".lstrip("."))
    elif isinstance(tree, list) and any(isinstance(e, dict) for e in tree):
        for place, entry in enumerate(tree):
            yield from flatten(entry, f"{path}.{entry_name(entry) or place}")
    else:
        yield path, tree


def entry_name(entry: Any) -> str:
    return str(entry.get("name") or entry.get("use") or "") if isinstance(entry, dict) else ""


def at(tree: Any, path: str) -> Any:
    """What stands at a dotted path; None where nothing does. A list of parts is the sorted names of them."""
    for part in filter(None, path.split(".")):
        if isinstance(tree, list):
            tree = next((e for e in tree if entry_name(e) == part), None)
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
    if isinstance(tree, list) and tree and all(isinstance(e, dict) and "use" in e for e in tree):
        return sorted(str(e["use"]) for e in tree)
    return tree
