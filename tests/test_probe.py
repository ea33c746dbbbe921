"""The parts of the probes: HEAR's trainer, the solver of logistic regression, the sweep, the splits."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import ParameterGrid
from test_evaluators import Known, blobs, sound

from polymnia.eval.evaluators import probe
from polymnia.eval.probes import folds, trainer
from polymnia.eval.probes.device import pick
from polymnia.eval.probes.logreg import SWEEP, Logistic, sweep
from polymnia.types import EvalData, UserError

POINT = trainer.Point(0, "xavier_uniform", 1e-2)
QUICK = trainer.Settings(epochs=30, every=3, batch=16, hidden=8, device="cpu")


def rows(n: int, seed: int = 0, classes: int = 3) -> tuple[torch.Tensor, np.ndarray]:
    g = torch.Generator().manual_seed(seed)
    y = np.eye(classes, dtype=bool)[np.arange(n) % classes]
    return 2 * torch.from_numpy(y).float() + torch.randn(n, classes, generator=g), y


def scripted(values: Sequence[float]):
    """A value that says what it is told, the last word for ever, and counts how often it was asked."""
    asked: list[float] = []

    def value(logits: np.ndarray) -> float:
        asked.append(values[min(len(asked), len(values) - 1)])
        return asked[-1]

    return value, asked


def fit(value, **changes) -> trainer.Fitted:
    x, y = rows(40)
    return trainer.train([POINT], QUICK._replace(**changes), x, y, x, y, value, exclusive=True)[0]


def test_the_kits_grid_has_sixteen_points_of_which_its_shuffle_draws_eight() -> None:
    space = {
        "hidden_layers": [1, 2],
        "initialization": ["xavier_uniform", "xavier_normal"],
        "lr": [3.2e-3, 1e-3, 3.2e-4, 1e-4],
        "batch_size": [1024],
        "patience": [20],
    }
    wanted = [trainer.Point(p["hidden_layers"], p["initialization"], p["lr"]) for p in ParameterGrid(space)]
    axes = (space["hidden_layers"], space["initialization"], space["lr"])
    assert trainer.grid(*axes) == wanted and len(wanted) == 16
    random.Random(42).shuffle(wanted)
    assert trainer.grid(*axes, draw=8, seed=42) == wanted[:8]


def test_hidden_layers_are_linear_norm_dropout_relu_with_xavier_gains() -> None:
    torch.manual_seed(0)
    net = trainer._network(trainer.Point(2, "xavier_normal", 1e-3), trainer.Settings(), 2048, 50)
    kinds = ["Linear", "BatchNorm1d", "Dropout", "ReLU"]
    assert [type(m).__name__ for m in net] == [*kinds, *kinds, "Linear"]
    assert [tuple(net[k].weight.shape) for k in (0, 4, 8)] == [(1024, 2048), (1024, 1024), (50, 1024)]
    assert net[2].p == 0.1
    # gain 1 before any activation, sqrt 2 behind a ReLU; deviation = gain * sqrt(2 / (in + out))
    for k, gain, fans in ((0, 1, 3072), (4, math.sqrt(2), 2048), (8, math.sqrt(2), 1074)):
        assert net[k].weight.std().item() == pytest.approx(gain * math.sqrt(2 / fans), rel=0.03)
    assert len(trainer._network(POINT, trainer.Settings(), 8, 3)) == 1


def test_training_stops_after_so_many_validations_without_a_gain_and_keeps_the_first_best() -> None:
    value, asked = scripted([0.1, 0.5, 0.5, 0.4])
    found = fit(value, epochs=500, patience=4)
    assert (found.epoch, found.value) == (6, 0.5)  # the second validation of one every three epochs
    assert len(asked) == 2 + 4


def test_the_kept_weights_are_those_of_the_best_validation_not_the_last() -> None:
    best, _ = scripted([0.1, 0.9, 0.2])
    kept = fit(best, epochs=12, patience=20)
    early, _ = scripted([0.1, 0.9])
    x, _ = rows(40)
    assert kept.epoch == 6
    assert np.array_equal(kept.logits(x), fit(early, epochs=6).logits(x))
    assert not np.array_equal(kept.logits(x), fit(early, epochs=9, every=9).logits(x))


def test_a_lower_loss_breaks_ties_only_where_asked() -> None:
    value, _ = scripted([0.5])
    assert fit(value, epochs=30).epoch == 3
    assert fit(value, epochs=30, ties=True).epoch == 30  # the loss of a linear layer on its own rows keeps falling
    assert fit(None, epochs=30).epoch == 30  # no score at all: the loss decides


def test_a_score_without_a_value_is_never_a_gain() -> None:
    value, _ = scripted([math.nan, 0.3, math.nan, math.inf])
    found = fit(value, epochs=12)
    assert (found.epoch, found.value) == (6, 0.3)
    nothing, _ = scripted([math.nan])
    assert fit(nothing, epochs=6).value == -math.inf


def test_rows_keep_their_order_and_a_last_row_alone_joins_the_step_before() -> None:
    steps = list(trainer._batches(33, QUICK))
    assert steps == [slice(0, 16), slice(16, 33)]
    assert list(trainer._batches(3, QUICK)) == [slice(0, 3)]
    drawn = list(trainer._batches(33, QUICK._replace(reshuffle=True)))
    assert sorted(torch.cat(drawn).tolist()) == list(range(33))
    assert torch.cat(drawn).tolist() != list(range(33))


def test_training_repeats_itself_and_leaves_the_global_stream_alone() -> None:
    x, y = rows(40)
    point = trainer.Point(2, "xavier_normal", 1e-2)
    before = torch.get_rng_state()
    found = [trainer.train([point], QUICK, x, y, x, y, None, True)[0].logits(x) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(*found)
    other = trainer.train([point], QUICK._replace(seed=1), x, y, x, y, None, True)[0].logits(x)
    assert not np.array_equal(found[0], other)


def test_a_single_row_or_a_missing_device_is_refused() -> None:
    x, y = rows(1)
    with pytest.raises(UserError, match="two training rows"):
        trainer.train([trainer.Point(1, "xavier_normal", 1e-2)], QUICK, x, y, x, y, None, True)
    with pytest.raises(UserError, match="there is no 'cuda:9'"):
        pick("cuda:9")
    assert pick("cpu") == torch.device("cpu")


def test_later_folds_reuse_the_point_that_won_on_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    used, train = [], trainer.train

    def counted(points, *rest):
        used.append([p.lr for p in points])
        return train(points, *rest)

    monkeypatch.setattr(trainer, "train", counted)
    items, vectors = blobs(3, 75, 2.5)
    cfg = probe.Config(folds=True, epochs=6, lr=(1e-1, 1e-5), init=("xavier_normal",))
    probe.evaluate(cfg, Known(vectors), EvalData(tuple(items), (), ()))
    assert used == [[1e-1, 1e-5], *[[1e-1]] * 4]


@pytest.mark.parametrize("exclusive", [True, False])
def test_linear_points_side_by_side_are_what_each_is_alone(exclusive: bool) -> None:
    x, y = rows(40)
    points = trainer.grid((0,), ("xavier_uniform", "xavier_normal"), (1e-1, 1e-2))

    def value(logits: np.ndarray) -> float:  # some stop long before others
        return round(float((logits.argmax(1) == y.argmax(1)).mean()), 1)

    together = trainer.train(points, QUICK._replace(epochs=60, patience=3), x, y, x, y, value, exclusive)
    assert len({f.epoch for f in together}) > 1
    for point, one in zip(points, together, strict=True):
        alone = trainer.train([point], QUICK._replace(epochs=60, patience=3), x, y, x, y, value, exclusive)[0]
        assert (one.epoch, one.value) == (alone.epoch, alone.value)
        assert one.logits(x) == pytest.approx(alone.logits(x), abs=1e-4)


def test_hears_predictor_reads_what_a_line_cannot_separate() -> None:
    rng = np.random.default_rng(0)
    items, vectors = [], {}
    for n in range(240):
        at = rng.uniform(-1, 1, size=2)
        name = str(n)
        items.append(sound(name, topic="same" if at[0] * at[1] > 0 else "other"))
        vectors[name] = [list(4 * at)]
    data = EvalData(tuple(items[:140]), tuple(items[140:180]), tuple(items[180:]))
    settings = {"epochs": 60, "points": 1, "lr": (3.2e-3,)}
    assert probe.evaluate(probe.Config(kind="hear", **settings), Known(vectors), data)["probe/accuracy"] > 85
    assert probe.evaluate(probe.Config(kind="linear", **settings), Known(vectors), data)["probe/accuracy"] < 75


@pytest.mark.parametrize("c", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize(("classes", "n", "d"), [(4, 90, 6), (2, 90, 6), (3, 20, 50)])
def test_the_solver_has_scikit_learns_optimum(c: float, classes: int, n: int, d: int) -> None:
    rng = np.random.default_rng(1)
    target = np.arange(n) % classes
    x = rng.normal(size=(n, d)) * np.linspace(0.1, 5, d) + 3 + 0.5 * rng.normal(size=(classes, d))[target]
    theirs = LogisticRegression(C=c, max_iter=50_000, tol=1e-10).fit(x, target)
    ours = Logistic(x, np.eye(classes, dtype=bool)[target], exclusive=True)
    ours.fit(100.0)  # another start
    predict = ours.fit(c)
    weight = predict(np.eye(d)) - predict(np.zeros((1, d)))  # of the two classes, the first has logits of 0

    def objective(logits: np.ndarray, w: np.ndarray) -> float:
        picked = logits[np.arange(n), target]
        return float((np.logaddexp.reduce(logits, axis=1) - picked).mean() + (w**2).sum() / (2 * c * n))

    logits = theirs.decision_function(x)
    logits = np.stack([0 * logits, logits], axis=1) if classes == 2 else logits
    gap = objective(predict(x), weight) - objective(logits, theirs.coef_)
    assert -1e-9 < gap < 2e-5
    if n > d:  # fewer rows than features lie in a flat valley, where many logits are as good
        both = predict(x), logits
        ours_, theirs_ = (z - z.mean(1, keepdims=True) for z in both)
        assert np.abs(ours_ - theirs_).max() < 5e-3 * np.abs(theirs_).max()


def test_classes_that_go_together_are_solved_as_one_against_the_rest() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(120, 5))
    y = x @ rng.normal(size=(5, 6)) + rng.normal(size=(120, 6)) > 0
    y[:, 4], y[:, 5] = False, True  # seen never, seen always: not learned
    got = Logistic(x, y, exclusive=False).fit(0.5)(x)
    for k in range(4):
        theirs = LogisticRegression(C=0.5, max_iter=50_000, tol=1e-10).fit(x, y[:, k]).decision_function(x)
        assert np.abs(got[:, k] - theirs).max() < 5e-3 * np.abs(theirs).max()
    assert (got[:, 4:] == 0).all()


def test_a_class_that_training_lacks_is_never_chosen() -> None:
    x = np.array([[0.0], [1.0], [0.1], [0.9]])
    y = np.eye(3, dtype=bool)[[0, 2, 0, 2]]
    got = Logistic(x, y, exclusive=True).fit(10.0)(x)
    assert got.argmax(1).tolist() == [0, 2, 0, 2] and (got[:, 1] == -np.inf).all()


@pytest.mark.parametrize("peak", [-6.0, -2.3, 0.375, 1.9, 6.0])
def test_the_sweep_finds_a_peak_to_an_eighth_of_a_decade_in_fifteen_fits(peak: float) -> None:
    asked: list[float] = []

    def value(c: float) -> float:
        asked.append(c)
        return -abs(math.log10(c) - peak)

    found = math.log10(sweep(value))
    assert abs(found - peak) <= 1 / 16 + 1e-9
    assert len(asked) == len(set(asked)) <= 15
    assert (len(SWEEP) - 1, SWEEP[0], SWEEP[-1]) == (96, pytest.approx(1e-6), pytest.approx(1e6))


@pytest.mark.parametrize("kind", ["logreg", "knn"])
def test_the_chosen_setting_is_fitted_again_with_the_validation_rows(kind: str) -> None:
    """Class z stands in no training row: only who was refitted can name it."""
    items, vectors = blobs(8, 60, 0.3)
    train = tuple(i for i in items[:30] if i.topic != "z")
    data = EvalData(train, tuple(items[30:45]), tuple(items[45:]))
    cfg = probe.Config(kind=kind, c=(1.0,), neighbours=(3,))
    assert probe.evaluate(cfg, Known(vectors), data)["probe/accuracy"] == 100


def test_the_sweep_takes_the_strongest_of_equals() -> None:
    assert sweep(lambda c: 1.0) == pytest.approx(1e-6)
    assert sweep(lambda c: float(c > 0.999)) == pytest.approx(1.0)


def test_multilabel_quality_is_scikit_learns_macro_average_precision_over_classes_with_a_positive() -> None:
    rng = np.random.default_rng(3)
    scores, y = rng.normal(size=(50, 7)), rng.random((50, 7)) < 0.3
    y[:, 2] = False
    kept = y.any(0)
    wanted = average_precision_score(y[:, kept], scores[:, kept], average="macro")
    assert probe._quality(probe.Config(multilabel=True), scores, y) == pytest.approx(wanted)


def test_resplit_tests_training_items_alone_each_always_on_the_same_side() -> None:
    items, vectors = blobs(5, 400, 0.3)
    embed = Known(vectors)
    y = np.eye(3, dtype=bool)[[n % 3 for n in range(400)]]
    (split,) = folds.internal([i.id for i in items], 0.2, y)
    assert sorted(np.concatenate(split)) == list(range(400))
    assert all(abs(len(part) - wanted) < 30 for part, wanted in zip(split, (240, 80, 80), strict=True))
    (half,) = folds.internal([i.id for i in items[:200]], 0.2, y[:200])
    assert half.test.tolist() == [r for r in split.test if r < 200]
    other, _ = blobs(6, 9, 0.3)
    got = probe.evaluate(probe.Config(kind="logreg", resplit=0.2), embed, EvalData(tuple(items), (), tuple(other)))
    assert got["probe/N"] == len(split.test) and got["probe/accuracy"] == 100


def test_settings_that_contradict_are_refused() -> None:
    with pytest.raises(ValidationError, match="features as they are"):
        probe.Config(kind="hear", standardise=True)
    with pytest.raises(ValidationError, match="two ways to split"):
        probe.Config(folds=True, resplit=0.1)
    scaled = {kind: probe.Config(kind=kind).scaled for kind in ("linear", "hear", "logreg", "knn")}
    assert scaled == {"linear": False, "hear": False, "logreg": True, "knn": True}
