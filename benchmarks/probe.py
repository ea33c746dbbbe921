"""Probes of ESC-50's size: our sweep over C beside the same sweep with scikit-learn's ``LogisticRegression``.

Run alone: ``OMP_NUM_THREADS=2 python benchmarks/probe.py`` (2,000 clips x 2,048 features, 50 classes, 5 folds; a few
minutes). scikit-learn is measured on the first rotation, and for tags on ``SOME`` of them, scaled to all.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from polymnia.eval.evaluators import probe
from polymnia.eval.probes import folds
from polymnia.eval.probes.logreg import COARSE, SWEEP, Logistic, sweep

SOME = 5


def problem(clips: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rectified features as a pooled convolutional network gives them, classes, and five folds of whole recordings."""
    rng = np.random.default_rng(0)
    y, fold = np.arange(clips) % classes, np.arange(clips) // classes % 5
    style = rng.normal(size=(64, width))  # what recordings share, whatever their class
    x = 0.12 * rng.normal(size=(classes, width))[y] + 0.3 * rng.normal(size=(clips, 64)) @ style / 8
    return np.maximum(x + 0.5 * rng.normal(size=(clips, width)), 0).astype(np.float32).astype(float), y, fold


def by_scikit_learn(train: probe.Rows, valid: probe.Rows, test: probe.Rows) -> float:
    """The same search and the same refit; one cold start a C."""

    def fit(rows: probe.Rows, c: float):  # noqa: ANN202
        scale = StandardScaler().fit(rows.x)
        model = LogisticRegression(C=c, max_iter=1000).fit(scale.transform(rows.x), rows.y.argmax(1))
        return lambda other: model.score(scale.transform(other.x), other.y.argmax(1))

    best = sweep(lambda c: fit(train, c)(valid))
    return fit(train.join(valid), best)(test)


def tags(rows: probe.Rows, classes: int) -> tuple[float, float]:
    """Seconds of the coarse C for all tags at once, and for one model a tag: several a clip, none excludes another."""
    x = StandardScaler().fit_transform(rows.x)
    y = rows.y | np.random.default_rng(1).permutation(rows.y)
    start = time.perf_counter()
    together = Logistic(x, y, exclusive=False)
    for c in SWEEP[::COARSE]:
        together.fit(c)
    middle = time.perf_counter()
    for k in range(SOME):
        for c in SWEEP[::COARSE]:
            LogisticRegression(C=c, max_iter=1000).fit(x, y[:, k])
    return middle - start, (time.perf_counter() - middle) * classes / SOME


def main() -> None:
    """Measure and print the table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=50)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    x, y, fold = problem(args.clips, args.width, args.classes)
    rows = probe.Rows(x, np.eye(args.classes, dtype=bool)[y])
    rotations = [[rows.take(part) for part in rotation] for rotation in folds.official(fold)]
    took: dict[str, list[float]] = {}
    hits: dict[str, list[float]] = {}
    for kind in ("logreg", "linear"):
        cfg, winner = probe.Config(kind=kind), None
        for train, valid, test in rotations:
            start = time.perf_counter()
            predict, winner = probe.FIT[kind](cfg, train, valid, winner)
            took.setdefault(kind, []).append(time.perf_counter() - start)
            hits.setdefault(kind, []).append(float((predict(test.x).argmax(1) == test.y.argmax(1)).mean()))
    start = time.perf_counter()
    hits["scikit-learn"] = [by_scikit_learn(*rotations[0])]
    took["scikit-learn"] = [time.perf_counter() - start]
    out = [
        f"{args.clips:,} x {args.width:,}, {args.classes} classes, {torch.get_num_threads()} threads",
        "",
        "| probe | first rotation, s | all five, s | accuracy, first | accuracy, all |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in took.items():
        whole = (f"{sum(seconds):.1f}", f"{100 * np.mean(hits[name]):.2f}") if len(seconds) > 1 else ("-", "-")
        out.append(f"| {name} | {seconds[0]:.1f} | {whole[0]} | {100 * hits[name][0]:.2f} | {whole[1]} |")
    ratio = took["scikit-learn"][0] / took["logreg"][0]
    together, apart = tags(rotations[0][0], args.classes)
    out += [
        "",
        f"classes: the sweep of one rotation is {ratio:.1f} times as fast as scikit-learn's",
        f"tags: seven C for {args.classes} of them {together:.1f} s beside {apart:.1f} s, "
        f"{apart / together:.1f} times as fast",
    ]
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
