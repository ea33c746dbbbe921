"""HEAR's tasks on a model behind HEAR's common API, and the files that this leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymnia.embed.cache import signature
from polymnia.eval.hear import results, tasks
from polymnia.eval.hear.embeddings import HearEncoder
from polymnia.eval.hear.runner import Options, Progress, score
from polymnia.eval.probes.device import pick
from polymnia.types import UserError


class ModuleEncoder:
    """A model behind HEAR's two functions, as the runner takes it. ``device``: auto takes a GPU where there is one.

    ``module`` gives ``get_scene_embeddings`` and ``get_timestamp_embeddings`` of (audio, model). ``settings``: what
    else decides what the functions give.
    """

    def __init__(self, module: ModuleType, model: nn.Module, settings: str = "", device: str = "auto"):
        if not isinstance(getattr(model, "sample_rate", None), int):
            raise UserError(f"{module.__name__}: its model has no sample_rate: it does not keep HEAR's common API")
        self.module, self.device = module, pick(device)
        self.model, self.sample_rate = model.to(self.device).eval(), model.sample_rate
        whole = f"{module.__name__} {settings} {signature(model)}"
        self.signature = hashlib.blake2b(whole.encode(), digest_size=12).hexdigest()

    @torch.no_grad()
    def get_scene_embeddings(self, audio: Float[Tensor, "n s"]) -> Float[Tensor, "n d"]:
        return self.module.get_scene_embeddings(audio.to(self.device), self.model)

    @torch.no_grad()
    def get_timestamp_embeddings(
        self, audio: Float[Tensor, "n s"]
    ) -> tuple[Float[Tensor, "n t d"], Float[Tensor, "n t"]]:
        return self.module.get_timestamp_embeddings(audio.to(self.device), self.model)


def evaluate(
    encoder: HearEncoder,
    root: Path,
    out: Path,
    wanted: Sequence[str] = (),
    options: Options | None = None,
    rate: int | None = None,
    progress: Progress | None = None,
    said: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Score an encoder on the tasks of a folder; a JSON a task in ``out``, embeddings under ``out/embeddings``.

    A task whose JSON says the same encoder, probe and settings is not run again. Gives the results of the tasks.
    Raises UserError as ``tasks.find`` and ``score`` do.
    """
    options = options or Options()
    done = []
    for task in tasks.find(root, wanted):
        path = out / f"{task.name}.json"
        facts = {"name": task.task, "mode": task.mode, "request": _request(task, encoder, options, rate)}
        result = results.read(path)
        if result is None or result.get("request") != facts["request"]:
            result = {**score(task, encoder, out / "embeddings", options, rate, progress), **facts}
            results.write(path, result)
        value = "no value" if result["score"] is None else f"{result['score']:.2f}"
        said(f"{task.name}: {result['primary']} {value} (N {result['N']})")
        done.append(result)
    return done


def _request(task: tasks.Task, encoder: HearEncoder, options: Options, rate: int | None) -> str:
    """A digest of what decides a result: the task's files, sizes and times of recordings, the encoder, the probe."""
    digest = hashlib.blake2b(f"2 {encoder.signature} {options} {rate}".encode(), digest_size=12)
    for name in (tasks.METADATA, tasks.VOCABULARY, *(f"{split}.json" for split in task.splits)):
        digest.update((task.folder / name).read_bytes())
    for split in task.splits:
        for path in tasks.audio(task, split, tasks.names(task, split), rate or encoder.sample_rate):
            stat = path.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def summarise(done: Sequence[dict[str, Any]], out: Path, full16: Sequence[str]) -> str:
    """The table over the benchmark's tasks as Markdown; written into ``out`` beside its numbers as JSON.

    Raises UserError for a name in ``full16`` that is no task.
    """
    rows = results.table(done)
    text = results.markdown(rows, full16)
    means = {
        name: dict(zip(("mean", "over"), results.mean(rows, names), strict=True))
        for name, names in (("table3", results.TABLE3), ("full16", full16))
    }
    results.write(out / "summary.json", {"tasks": [r._asdict() for r in rows], **means})
    (out / "summary.md").write_text(text + "\n", encoding="utf-8")
    return text
