"""From a run of the method ``lora`` to adapters of PEFT: a folder a modality, the towers' own weights not in it."""

from __future__ import annotations

from pathlib import Path

from polymnia.config import Part
from polymnia.continual.peft import write_adapter
from polymnia.export import package
from polymnia.methods.lora import Config, Method
from polymnia.models.hub import locate
from polymnia.runs.encoder import load
from polymnia.types import Modality, UserError

README = """\
# Low-rank updates of the polymnia run `{run}`, after {task} tasks

A folder a modality in the layout of PEFT: {where}. With the model that the tower was made from,

    peft.PeftModel.from_pretrained(model, "{first}")

and in polymnia `method: [{{use: lora, rank: {rank}, alpha: {alpha:g}, init: {init}}}]`. Projection heads are not among
them: they are in the run's `encoders/after-{task}.safetensors`.
"""


def export_peft(run: Path, out: Path, task: int | None = None, data: Path | None = None) -> list[Path]:
    """Write the updates of a run into a folder; gives the folders of adapters, ``out``/audio and so on.

    Of a run with updates of their own for every task, they are ``out``/task-1/audio and so on. ``task``: after so many
    tasks (default: the last). ``data``: as for ``polymnia.load``. Raises UserError for a run of another method, and
    where ``out`` already holds something.
    """
    encoder = load(run, task, data)
    method = encoder.method.prompter
    if not isinstance(method, Method):
        used = ", ".join(p.use for p in encoder.recipe.method) or "none that changes towers"
        raise UserError(f"{run}: PEFT's layout is for low-rank updates (lora), and the run's method is {used}")
    adapters = _adapters(method, encoder.task)
    with package.new_folder(out) as partial:
        for folder, number, m in adapters:
            tower, name = encoder.model.tower(m), _hub(encoder.recipe.towers[m])
            write_adapter(partial / folder, method.updates[number][m], tower, name)
        (partial / "README.md").write_text(_readme(run, out, encoder.task, method.cfg, adapters), encoding="utf-8")
    return [out / folder for folder, _, _ in adapters]


def _adapters(method: Method, task: int) -> list[tuple[Path, int, Modality]]:
    """Folder, number of the set (from 0) and modality of all updates that were learned in so many tasks."""
    if not method.cfg.per_task:
        return [(Path(m), 0, m) for m in method.modalities]
    learned = [(n, m) for n in range(task) for m in method.modalities if bool(method.routers[m].left[n])]
    if not learned:
        raise UserError("this run's updates are of its tasks, and it has learned none yet; ask for a later task")
    return [(Path(f"task-{n + 1}") / m, n, m) for n, m in learned]


def _hub(part: Part) -> str | None:
    """The name of a tower's model on the hub; None for one from a folder, which is another's business."""
    model = getattr(part.config, "model", None)
    return None if not isinstance(model, str) or locate(model)[1] else model


def _readme(run: Path, out: Path, task: int, cfg: Config, adapters: list[tuple[Path, int, Modality]]) -> str:
    folders = [folder for folder, _, _ in adapters]
    return README.format(
        run=package.plain(run.resolve().name),
        task=task,
        where=", ".join(f"`{f}`" for f in folders),
        first=folders[0],
        rank=cfg.rank,
        alpha=cfg.alpha,
        init=(Path(out.name) / folders[0]).parent,
    )
