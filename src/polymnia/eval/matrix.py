"""Every continual number, from one matrix of scores.

R[i][j] is the score on task j after learning task i; row 0 is before any training, tasks count from 1 in the formulas.
So ``R`` is a list of rows, and its row i holds the scores of task 1, 2, ... in columns 0, 1, ... An entry that was not
measured is None or NaN, a short row is filled up with NaN, and a row that does not exist (a joint run has only the
first and the last) is None or empty: rows keep their index.

T is the number of tasks learned so far, ``len(R) - 1``. A task that has no score in any row (it lacks the modality) is
left out of the means; a number that still needs an entry that is missing is NaN, never a mean over what happens to be
there. Nothing here changes its arguments. Sources: Lopez-Paz & Ranzato, "Gradient Episodic Memory", 2017 (transfer);
Chaudhry et al., "Riemannian Walk", 2018 (forgetting, intransigence).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from polymnia.types import UserError

Row = Sequence[float | int | None] | np.ndarray | None
Scores = Sequence[Row] | np.ndarray
PRIMARY = re.compile(r"(audio|image|text)>(audio|image|text)/R@(1|5|10)")


def average(R: Scores, i: int | None = None) -> float:
    """A_i = mean over j <= i of r[i][j]. A_T, the default, is also called "last"."""
    r, tasks, i = _read(R, i)
    return _mean([r[i, j] for j in tasks if j <= i])


def average_incremental(R: Scores) -> float:
    """Mean over i = 1..T of A_i (from the first i that has a task with scores)."""
    _, tasks, last = _read(R)
    return _mean([average(R, i) for i in range(min(tasks, default=last + 1), last + 1)])


def forgetting(R: Scores, i: int | None = None) -> float:
    """F_i = mean over j < i of ( max over j <= k < i of r[k][j] - r[i][j] ); > 0 forgets, may be < 0 (Chaudhry)."""
    r, tasks, i = _read(R, i)
    return _mean([r[j:i, j].max() - r[i, j] for j in tasks if j < i])


def backward_transfer(R: Scores) -> float:
    """BWT = mean over j < T of ( r[T][j] - r[j][j] ); < 0 forgets (Lopez-Paz & Ranzato)."""
    r, tasks, last = _read(R)
    return _mean([r[last, j] - r[j, j] for j in tasks if j < last])


def forward_transfer(R: Scores) -> float:
    """FWT = mean over j >= 2 of ( r[j-1][j] - r[0][j] ); > 0: earlier tasks help before learning."""
    r, tasks, _ = _read(R)
    return _mean([r[j - 1, j] - r[0, j] for j in tasks if j >= 2])


def plasticity(R: Scores) -> float:
    """Mean over j of r[j][j]: how well the newest task is learned."""
    r, tasks, _ = _read(R)
    return _mean([r[j, j] for j in tasks])


def intransigence(R: Scores, joint: Row) -> float:
    """Mean over j of ( joint[j] - r[j][j] ): what learning one after another costs; ``joint`` has a score a task."""
    r, tasks, last = _read(R)
    reference = _matrix([joint], last)[0]
    return _mean([reference[j] - r[j, j] for j in tasks])


def lpi_average(R: Scores) -> float:
    """AvgP of LPI = mean over j of mean over i >= j of r[i][j]."""
    r, tasks, _ = _read(R)
    return _mean([r[j:, j].mean() for j in tasks])


def lpi_forgetting(R: Scores) -> float:
    """Forget of LPI = mean over j < T of ( r[T][j] - max over j <= k < T of r[k][j] ); < 0 forgets."""
    r, tasks, last = _read(R)
    return _mean([r[last, j] - r[j:last, j].max() for j in tasks if j < last])


def gain_points(R: Scores, finetune: Scores) -> float:
    """A_T - A_T(sequential fine-tuning), in points."""
    return average(R) - average(finetune)


def gain_percent(R: Scores, finetune: Scores) -> float:
    """( A_T - A_T(sequential fine-tuning) ) / A_T(sequential fine-tuning), in percent; NaN if that is 0."""
    return 100 * _ratio(gain_points(R, finetune), average(finetune))


def paper_transfer(continual: float, counterpart: float) -> float:
    """Forward or backward transfer as the audio paper uses the words: score - score of the counterpart, in points.

    The counterpart is the same system not trained continually: CLAP on the new task (forward), Wav2CLIP, frozen after
    audio-image, on the old one (backward). Neither is FWT or BWT.
    """
    return continual - counterpart


def trainable_share(trained: int, trained_by_finetuning: int) -> float:
    """Parameters trained in one step / parameters trained by sequential fine-tuning, in percent."""
    return 100 * _ratio(trained, trained_by_finetuning)


def stored_share(added: int, total: int) -> float:
    """Parameters added after T tasks / all parameters, in percent."""
    return 100 * _ratio(added, total)


def compatibility(own: float, stale: float, upgraded: float) -> float:
    """Share of a stale index's loss that an adapter wins back: (upgraded - stale) / (self - stale), 1 is all.

    ``own`` (the spec's "self"): new queries, gallery embedded anew. ``stale``: new queries, old vectors. ``upgraded``:
    new queries, old vectors through the adapter. NaN when nothing was lost.
    """
    return _ratio(upgraded - stale, own - stale)


def summary(R: Scores, joint: Row = None) -> dict[str, float]:
    """All numbers of one matrix by name. Those that this matrix does not define are left out (NaN is not JSON)."""
    numbers = (
        average,
        average_incremental,
        forgetting,
        backward_transfer,
        forward_transfer,
        plasticity,
        lpi_average,
        lpi_forgetting,
    )
    out = {number.__name__: number(R) for number in numbers}
    if joint is not None:
        out["intransigence"] = intransigence(R, joint)
    return {name: value for name, value in out.items() if not math.isnan(value)}


def scalar(metrics: Mapping[str, float], keys: Sequence[str] | None = None) -> float:
    """r[i][j]: one number for a task, from its metrics; NaN for a task that has none of them.

    Default: the mean over both directions and k in {1, 5, 10} of retrieval from the task's own gallery. With ``keys``:
    the mean of those of the named metrics that the task has.
    """
    wanted = [key for key in metrics if PRIMARY.fullmatch(key)] if keys is None else [k for k in keys if k in metrics]
    return _mean([metrics[key] for key in wanted])


def _read(R: Scores, i: int | None = None) -> tuple[Float[np.ndarray, "rows tasks"], list[int], int]:
    """The matrix with tasks counted from 1 (column 0 is empty), the tasks that have any score, and i (default T)."""
    last = max(len(R) - 1, 0)
    i = last if i is None else i
    if not 0 <= i <= last:
        raise UserError(f"no row {i} in a matrix of {len(R)} rows")
    r = _matrix(R, last)
    return r, [j for j in range(1, last + 1) if not np.isnan(r[:, j]).all()], i


def _matrix(R: Scores, tasks: int) -> Float[np.ndarray, "rows tasks"]:
    out = np.full((len(R), tasks + 1), math.nan)
    for i, row in enumerate(R):
        scores = [math.nan if x is None else float(x) for x in (() if row is None else row)][:tasks]
        out[i, 1 : len(scores) + 1] = scores
    return out


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _ratio(part: float | int, whole: float | int) -> float:
    return part / whole if whole else math.nan
