"""Continual numbers worked out by hand on a matrix of three tasks."""

import copy
import math

import numpy as np
import pytest

from polymnia.eval import matrix
from polymnia.types import UserError

# row i: after task i; columns: tasks 1, 2, 3
R = [
    [10.0, 20.0, 30.0],
    [80.0, 25.0, 28.0],
    [60.0, 70.0, 40.0],
    [65.0, 50.0, 90.0],
]
JOINT = [85.0, 75.0, 88.0]
BY_HAND = {
    "average": (65 + 50 + 90) / 3,
    "average_incremental": (80 + (60 + 70) / 2 + (65 + 50 + 90) / 3) / 3,
    "forgetting": ((80 - 65) + (70 - 50)) / 2,
    "backward_transfer": ((65 - 80) + (50 - 70)) / 2,
    "forward_transfer": ((25 - 20) + (40 - 30)) / 2,
    "plasticity": (80 + 70 + 90) / 3,
    "intransigence": ((85 - 80) + (75 - 70) + (88 - 90)) / 3,
    "lpi_average": ((80 + 60 + 65) / 3 + (70 + 50) / 2 + 90) / 3,
    "lpi_forgetting": ((65 - 80) + (50 - 70)) / 2,
}


def test_every_number_is_the_one_worked_out_by_hand() -> None:
    assert matrix.summary(R, JOINT) == pytest.approx(BY_HAND)
    assert matrix.summary(np.array(R), np.array(JOINT)) == pytest.approx(BY_HAND)


def test_intermediate_averages_and_forgettings() -> None:
    assert [matrix.average(R, i) for i in (1, 2, 3)] == pytest.approx([80, 65, 205 / 3])
    assert matrix.forgetting(R, 2) == pytest.approx(80 - 60)
    assert math.isnan(matrix.forgetting(R, 1)) and math.isnan(matrix.average(R, 0))


def test_forgetting_looks_at_earlier_rows_only_so_that_it_may_be_negative() -> None:
    improved = [[0, 0], [50, 0], [70, 60]]
    assert matrix.forgetting(improved) == -20
    assert matrix.lpi_forgetting(improved) == 20
    assert matrix.backward_transfer(improved) == 20


def test_forgetting_does_not_count_what_was_known_before_the_task_was_learned() -> None:
    lucky = [[95, 0, 0], [50, 90, 0], [50, 60, 0], [50, 60, 10]]
    # task 1: max(50, 50) - 50; task 2: 60 - 60, although 90 was scored before it was learned
    assert matrix.forgetting(lucky) == 0
    assert matrix.lpi_forgetting(lucky) == 0


def test_the_best_earlier_row_need_not_be_the_first() -> None:
    late = [[0, 0, 0], [50, 0, 0], [80, 60, 0], [40, 60, 70]]
    assert matrix.forgetting(late) == pytest.approx(((80 - 40) + 0) / 2)
    assert matrix.backward_transfer(late) == pytest.approx(((40 - 50) + 0) / 2)


def test_arguments_are_never_changed() -> None:
    given: list = [[1.0, None], None, [3.0], []]
    array = np.array(R)
    before, array_before = copy.deepcopy(given), array.copy()
    matrix.summary(given, [1.0])
    matrix.summary(array, array[0])
    assert given == before and (array == array_before).all()


def test_a_task_without_any_score_is_left_out() -> None:
    without = [[row[0], None, row[2]] for row in R]
    assert matrix.average(without) == pytest.approx((65 + 90) / 2)
    assert matrix.forgetting(without) == pytest.approx(80 - 65)
    assert matrix.forward_transfer(without) == pytest.approx(40 - 30)
    assert matrix.lpi_average(without) == pytest.approx(((80 + 60 + 65) / 3 + 90) / 2)
    assert matrix.summary([[math.nan] * 3 for _ in R]) == {}


def test_average_incremental_starts_at_the_first_task_with_a_score() -> None:
    without = [[None, row[1], row[2]] for row in R]
    assert matrix.average_incremental(without) == pytest.approx((70 + (50 + 90) / 2) / 2)


def test_a_joint_run_has_its_last_row_only_and_claims_nothing_else() -> None:
    for missing in (None, [], [None, None, None]):
        assert matrix.summary([R[0], missing, missing, R[3]]) == pytest.approx({"average": BY_HAND["average"]})


def test_one_missing_entry_makes_undefined_only_what_needs_it() -> None:
    holed = copy.deepcopy(R)
    holed[2][0] = math.nan  # r[2][1] is needed by the maximum, by A_2 and by AvgP
    assert set(matrix.summary(holed)) == {"average", "backward_transfer", "forward_transfer", "plasticity"}


def test_a_run_in_progress_counts_the_tasks_learned_so_far() -> None:
    assert matrix.average(R[:3]) == pytest.approx(65)
    assert matrix.plasticity(R[:3]) == pytest.approx(75)
    assert matrix.summary(R[:1]) == {} and matrix.summary([]) == {}
    assert set(matrix.summary(R[:2])) == {"average", "average_incremental", "plasticity", "lpi_average"}


def test_forward_transfer_needs_the_row_before_training() -> None:
    assert math.isnan(matrix.forward_transfer([None, *R[1:]]))
    assert "forward_transfer" not in matrix.summary([None, *R[1:]])


def test_a_row_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="no row 7"):
        matrix.average(R, 7)


def test_gains_in_points_and_in_percent() -> None:
    tuned = [[0, 0], [40, 0], [20, 60]]
    ours = [[0, 0], [40, 0], [30, 70]]
    assert matrix.gain_points(ours, tuned) == pytest.approx(10)
    assert matrix.gain_percent(ours, tuned) == pytest.approx(25)
    assert math.isnan(matrix.gain_percent(ours, [[0], [0]]))


def test_shares_and_the_papers_transfer() -> None:
    assert matrix.trainable_share(242, 10_000) == pytest.approx(2.42)
    assert matrix.stored_share(1, 4) == 25
    assert matrix.paper_transfer(41.5, 43.0) == -1.5


def test_compatibility_is_the_share_won_back() -> None:
    assert matrix.compatibility(80.0, 20.0, 65.0) == pytest.approx(0.75)
    assert matrix.compatibility(80.0, 20.0, 20.0) == 0
    assert matrix.compatibility(80.0, 20.0, 10.0) < 0
    assert math.isnan(matrix.compatibility(50.0, 50.0, 60.0))


def test_the_scalar_of_a_task_is_the_mean_of_its_own_gallery() -> None:
    both = {f"{d}/R@{k}": v for d, v in (("audio>text", 10.0), ("text>audio", 30.0)) for k in (1, 5, 10)}
    noise = {
        "audio>text/R@50": 99.0,
        "audio>text/mAP@10": 99.0,
        "audio>text/N": 99.0,
        "union/audio>text/R@1": 99.0,
        "topic:rain/audio>text/R@10": 99.0,
        "zeroshot/pooled": 44.0,
    }
    assert matrix.scalar(both | noise) == pytest.approx(20)
    assert matrix.scalar(both | noise, ["zeroshot/pooled", "text>audio/R@1"]) == pytest.approx(37)
    assert matrix.scalar(noise, ["zeroshot/pooled", "image>audio/R@1"]) == pytest.approx(44)
    assert math.isnan(matrix.scalar(noise)) and math.isnan(matrix.scalar(both, ["zeroshot/pooled"]))
