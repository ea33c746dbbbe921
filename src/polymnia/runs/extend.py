"""A finished run goes on with more tasks, without learning again what it knows.

The longer run has a folder of its own, that of the recipe with all tasks. Its encoders after the tasks that were
learned before are those of the shorter run, scored anew as there is more to score; then it goes on from the shorter
run's last checkpoint. What the methods hold for each task (stored heads, prompts, routers) gets room for more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from polymnia.continual.chain import sequential
from polymnia.data.disk import read_json
from polymnia.recipe import Recipe, validate
from polymnia.runs import assemble
from polymnia.runs.adapters import FOLDER as ADAPTERS
from polymnia.runs.encoder import load, other_names, read_recipe
from polymnia.runs.life import Run, Session
from polymnia.runs.record import Log
from polymnia.runs.study import one
from polymnia.runs.weights import read_tensors, without
from polymnia.train import checkpoint
from polymnia.types import UserError

MORE = ("tasks", "watch")


@dataclass(frozen=True)
class Earlier:
    """The shorter run: its folder, recipe, what it said of itself, and its last checkpoint."""

    folder: Path
    recipe: Recipe
    meta: Mapping[str, Any]
    state: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Earlier:
        """Raises UserError for a run that is not finished, or cannot go on."""
        recipe, meta = read_recipe(folder), read_json(folder / "meta.json")
        if not meta.get("finished"):
            raise UserError(f"{folder} is not finished: `polymnia run {folder}/recipe.yaml` first")
        if not sequential(recipe.method):
            raise UserError(f"{folder} learned all its tasks at once: there is nothing that one more could follow")
        kept = checkpoint.found(folder / "checkpoints")
        if not kept:
            raise UserError(f"{folder} has no checkpoints to go on from; run the whole recipe")
        return cls(folder, recipe, meta, checkpoint.load(kept[-1][1], recipe.hash))

    @property
    def tasks(self) -> int:
        return len(self.meta["tasks"])


def longer(earlier: Earlier, more: Mapping[str, Any], origin: str, data: Path | None = None) -> Recipe:
    """The recipe of a run with more tasks. ``more`` has ``tasks``, and ``watch`` if it likes.

    Raises UserError for other keys, and where there is no task.
    """
    strange = [k for k in more if k not in MORE]
    if strange:
        raise UserError(f"{origin}: unknown key '{strange[0]}'; all else is the run's: give tasks, and watch")
    if not more.get("tasks"):
        raise UserError(f"{origin} has no tasks; give tasks: [{{name: ..., pairs: ..., data: ...}}]")
    raw = json.loads(earlier.recipe.model_dump_json()) | ({"data": str(data)} if data else {})
    for key in MORE:
        added = more.get(key) or []
        if not isinstance(added, list):
            raise UserError(f"{origin}: {key} is a list")
        raw[key] = [*raw[key], *added]
    return validate(raw, origin)


def extend(
    run: Path,
    more: Path | Mapping[str, Any],
    data: Path | None = None,
    on_step: Callable[[str, int, int], None] = lambda *_: None,
) -> Run:
    """Learn the tasks of ``more`` (a YAML file, or what it says) behind those of a finished run. Raises UserError.

    Killed anywhere, the same call goes on. So does ``polymnia run`` on the new folder's recipe, once what was learned
    before is taken over; earlier it learns all tasks.
    """
    earlier = Earlier.read(run)
    origin = str(more) if isinstance(more, Path) else "more tasks"
    recipe = longer(earlier, _read(more) if isinstance(more, Path) else more, origin, data)
    if checkpoint.found(recipe.folder / "checkpoints"):  # it has begun: it goes on as any run does
        return one(recipe, on_step)
    return Session(recipe, on_step, lambda session, log: take_over(session, log, earlier)).go()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(said, dict):
        raise UserError(f"{path} is no mapping; give tasks: [...]")
    return said


def take_over(session: Session, log: Log, earlier: Earlier) -> dict[str, Any]:
    """Make a new session one that has learned what the earlier run did. Gives the state that it goes on from."""
    _same_so_far(session, earlier)
    prompter = session.method.prompter
    model, method, prompts = (_copied(m) for m in (session.model, session.method, prompter))
    known: dict[str, list[str]] = {}
    said = {line.get("message") for line in log.lines()} - {None}
    for line in Log(earlier.folder / "log.jsonl").lines():
        if line.get("message") in said:  # of broken items, which are broken still
            continue
        if line["kind"] != "eval":
            log.write(line.pop("kind"), **line)
            continue
        after = line["after"]
        state = read_tensors(earlier.folder / "encoders" / f"after-{after}.safetensors")
        session.model.load_state_dict(widened(_under(state, "model."), model), strict=False)
        if prompter is not None:
            prompter.load_state_dict(prompts | widened(_under(state, "method."), prompts))
        session.model.eval(), session.method.eval()
        session.score(after, log)
        known[str(after)] = [load(earlier.folder, after).signature, *other_names(earlier.folder, after)]
    for learned in (earlier.folder / ADAPTERS).glob("learned-*.safetensors"):
        (session.folder / ADAPTERS).mkdir(exist_ok=True)
        shutil.copy2(learned, session.folder / ADAPTERS / learned.name)
    session.extends = {"run": earlier.folder.name, "encoders": known}
    return {
        "model": without(model, session.unmoved) | widened(earlier.state["model"], model),
        "method": method | widened(earlier.state["method"], method),
        "lesson": earlier.tasks,
        "seconds": earlier.meta["seconds"],
    }


def _copied(module: nn.Module | None) -> dict[str, Tensor]:
    return {} if module is None else {k: v.clone() for k, v in module.state_dict().items()}


def widened(old: Mapping[str, Tensor], blank: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with room for more tasks: what is new is as in ``blank``, and what has grown begins with the old.

    Raises UserError for tensors that ``blank`` has not, or that are larger than its.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in old.items():
        there = blank.get(name)
        shapes = None if there is None else zip(tensor.shape, there.shape, strict=True)
        if shapes is None or there.dim() != tensor.dim() or any(a > b for a, b in shapes):
            raise UserError(f"the run cannot be extended: its '{name}' does not fit a run of more tasks")
        grown = there.clone()
        grown[tuple(slice(0, n) for n in tensor.shape)] = tensor
        out[name] = grown
    return out


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _same_so_far(session: Session, earlier: Earlier) -> None:
    """Raises UserError where the first tasks are not those that were learned, or stand on other first stages."""
    watched = {w.name for w in earlier.recipe.watch}
    whole = session.curriculum
    first = replace(whole, tasks=whole.tasks[: earlier.tasks], watch=[t for t in whole.watch if t.name in watched])
    if assemble.fingerprint(first) != earlier.meta["fingerprint"]:
        raise UserError(
            f"the items of the tasks that {earlier.folder} learned are others now: its data changed, or a new task is "
            "tested with what an old one learned; give --data, or run the whole recipe"
        )
    if list(session.stage_keys) != list(earlier.meta["stages"]):
        raise UserError(f"the first stages of {earlier.folder} were done by another version; run the whole recipe")
