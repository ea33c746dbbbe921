"""polymnia: one embedding space for audio, text and images, taught task after task.

``run(recipe, overrides)`` trains and measures; ``load(folder)`` gives the encoder that came out, ``embed_files``
embeds with it. All import torch only when they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymnia.version import __version__

if TYPE_CHECKING:
    from polymnia.runs.embedding.embed import Embedded
    from polymnia.runs.encoder import Encoder
    from polymnia.runs.life import Run
    from polymnia.runs.study import Study

__all__ = ["__version__", "embed_files", "extend", "load", "run", "study"]


def run(recipe: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Run:
    """One run: train, evaluate after every task, write the run folder. Resumes where an earlier call stopped.

    ``recipe`` is a path, or the same content as a mapping; ``overrides`` are dotted keys. A recipe with several
    variants or seeds is a study: give ``only`` and ``seeds``, or call ``study``.
    """
    from polymnia.runs.study import single

    return single(recipe, overrides or {})


def study(recipe: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Study:
    """Every variant and seed of a recipe, and a report that compares them."""
    from polymnia.runs.study import study as run_study

    return run_study(recipe, overrides or {})


def extend(run: str | Path, more: str | Path | Mapping[str, Any], data: str | Path | None = None) -> Run:
    """A finished run with more tasks: what it learned before is taken over, not learned again.

    ``more``: ``tasks`` as a recipe has them (and ``watch``), or the path of a YAML file with them; ``data``: where the
    run's data folder is now.
    """
    from polymnia.runs.extend import extend as go_on

    return go_on(Path(run), Path(more) if isinstance(more, str) else more, None if data is None else Path(data))


def load(folder: str | Path, task: int | None = None, data: str | Path | None = None) -> Encoder:
    """The encoder of a run: after its last task, or after task number ``task`` (0: before the first).

    ``data``: where the run's data folder is now, needed only if a frozen tower reads its own file from there.
    """
    from polymnia.runs.encoder import load as load_encoder

    return load_encoder(Path(folder), task, None if data is None else Path(data))


def embed_files(run: str | Path, source: str | Path | None, out: str | Path, **options: Any) -> Embedded:
    """Embed a folder, a manifest or (None) the run's own items into the folder ``out``; what is there is kept.

    ``options`` are those of ``polymnia embed``: ``runs.embedding.ask.Ask`` and ``runs.embedding.work.How`` say which.
    """
    from polymnia.runs.embedding.embed import embed
    from polymnia.runs.embedding.embed import options as apart

    ask, how = apart({"source": None if source is None else Path(source), **options})
    return embed(Path(run), Path(out), ask, how)
