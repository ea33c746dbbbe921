"""How many numbers a run trains, stores and holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from polymnia.runs.life import Session

ASIDE = {"teacher", "importances", "anchors"}  # modules of these names (EWC's the latter two) serve training alone


def sizes(session: Session) -> dict[str, int]:
    """Numbers by what they are for, each counted once, however many modules share it.

    ``trainable``: trained in one step, that of the first task. ``total``: parameters of the model (with the heads kept
    after each task), of whole towers, frozen fronts and cached ones included, and of the methods, without teachers.
    ``stored``, where a method prompts: parameters and floating buffers (centres of routers) that it adds for all
    tasks, which are there from the start; a part of ``total``. ``teacher``, where there are any: copies that only
    training needs.
    """
    base = {id(p): p.numel() for part in (session.model, *session.towers.values()) for p in part.parameters()}
    method, prompter = session.method, session.method.prompter
    added = {id(p): p.numel() for name, p in method.named_parameters() if not _of_teacher(name)}
    kept = {} if prompter is None else _kept(prompter, base)
    found = {"trainable": session.trainable, "total": sum((base | added | kept).values())}
    if prompter is not None:
        found["stored"] = sum(kept.values())
    copies = {id(t): t.numel() for name, t in _state(method).items() if _of_teacher(name) and id(t) not in base}
    return found | ({"teacher": sum(copies.values())} if copies else {})


def _kept(prompter: nn.Module, base: dict[int, int]) -> dict[int, int]:
    """What a saved encoder holds of a method that prompts, beside the towers and heads that it has anyway."""
    state = {name: t for name, t in _state(prompter).items() if not _of_teacher(name)}
    return {id(t): t.numel() for t in state.values() if id(t) not in base}


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating buffers that are saved: the very tensors, so that shared ones are known by identity."""
    return {k: t for k, t in module.state_dict(keep_vars=True).items() if t.is_floating_point()}


def _of_teacher(name: str) -> bool:
    return not ASIDE.isdisjoint(name.split("."))
