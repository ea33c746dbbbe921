"""Events and their measures, on cases that are worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import median_filter

from polymnia.eval.hear.events import (
    EVENT,
    Event,
    Postprocessing,
    activity,
    agreement,
    detect,
    median,
    segment_error,
)


def dogs(*starts: float, label: str = "dog", length: float = 100.0) -> list[Event]:
    return [Event(label, s, s + length) for s in starts]


@pytest.mark.parametrize(
    ("true", "found", "pairs"),
    [
        (dogs(0, 1000), dogs(0, 1000), 2),
        (dogs(0), dogs(200), 1),  # the collar itself still counts
        (dogs(1000), dogs(1201), 0),
        (dogs(1000), dogs(1000, label="cat"), 0),
        (dogs(1000), dogs(950, 1050), 1),  # no event counts twice
        (dogs(950, 1050), dogs(1000), 1),
        (dogs(0, 100, 200), dogs(90, 110), 2),
        (dogs(1000, 1300), dogs(1150, 900), 2),  # nearest first would pair 1150 with 1000 and lose 900
        (dogs(100, 250, 400), dogs(250, 400, 550), 3),  # a chain: each takes the later one
        (dogs(), dogs(5), 0),
    ],
)
def test_as_many_events_as_possible_are_matched_within_the_collar(true, found, pairs) -> None:
    got = agreement({"a": true}, {"a": found}, collar=200.0)
    assert got == (len(true), len(found), pairs)
    assert got.f_measure == pytest.approx(200 * pairs / (len(true) + len(found)) if true or found else 0)


def test_the_f_measure_is_over_all_files_and_events_of_other_files_do_not_match() -> None:
    true, found = {"a": dogs(0), "b": dogs(0, 500), "c": []}, {"a": dogs(0), "b": dogs(), "c": dogs(500)}
    got = EVENT["event_onset_200ms_fms"](true, found, ("dog",))
    assert got == pytest.approx(100 * 2 * 1 / (3 + 2))


def test_where_the_end_counts_it_may_be_off_by_a_fifth_of_the_true_length() -> None:
    true = [Event("c4", 0, 1000)]
    for end, hit in ((1200, 1), (1201, 0), (800, 1), (799, 0)):
        assert agreement({"a": true}, {"a": [Event("c4", 0, end)]}, 50.0, 0.2).pairs == hit
    short = [Event("c4", 0, 100)]  # a fifth is 20 ms, so the collar of 50 ms holds
    assert agreement({"a": short}, {"a": [Event("c4", 0, 150)]}, 50.0, 0.2).pairs == 1


def test_a_large_dense_case_has_the_largest_matching() -> None:
    rng = np.random.default_rng(0)
    starts = np.sort(rng.uniform(0, 20_000, 150))
    moved = rng.permutation(starts + rng.uniform(-50, 50, 150))  # a perfect matching exists
    assert agreement({"a": dogs(*starts)}, {"a": dogs(*moved)}, 50.0001).pairs == 150


def test_the_error_rate_counts_substitutions_deletions_and_insertions_by_segment() -> None:
    true = {"a": [Event("dog", 0, 2500), Event("cat", 1000, 2000)]}  # segments: d, dc, d
    found = {"a": [Event("cat", 0, 1500), Event("dog", 2999, 3000), Event("dog", 3200, 3300)]}  # c, c, d, d
    # substitution in the first, deletion in the second, nothing in the third, insertion in the fourth; 4 active
    assert segment_error(true, found, ("dog", "cat")) == pytest.approx(3 / 4)
    assert segment_error(true, true, ("dog", "cat")) == 0
    assert segment_error(true, {}, ("dog", "cat")) == 1
    assert math.isnan(segment_error({"a": []}, found, ("dog", "cat")))


def test_a_frame_at_the_end_of_an_event_is_in_it() -> None:
    times = np.arange(5) * 50.0
    got = activity([Event("dog", 50, 150), Event("cat", 60, 90)], times, {"dog": 0, "cat": 1})
    assert got[:, 0].tolist() == [False, True, True, True, False]
    assert not got[:, 1].any()  # falls between two frames


@pytest.mark.parametrize("ms", [0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 900.0])
def test_the_median_filter_is_scipys_of_the_probabilities(ms: float) -> None:
    rng = np.random.default_rng(1)
    for frames in (1, 4, 33):
        p, times = rng.random((frames, 3)), np.arange(frames) * 50.0
        width = round(ms / 50) if frames > 1 else 0
        wanted = median_filter(p, size=(width, 1)) if width else p
        assert np.array_equal(median(p > 0.5, times, ms), wanted > 0.5)


def test_runs_of_frames_become_events_if_they_last() -> None:
    times = np.arange(12) * 50.0
    active = np.zeros((12, 2), dtype=bool)
    active[[0, 1, 2, 6, 7, 11], 0] = True
    active[:, 1] = True
    got = detect(active, times, ("dog", "cat"), Postprocessing(0.0, 50.0))
    assert got == [Event("dog", 0, 100), Event("cat", 0, 550), Event("dog", 300, 350)]
    assert detect(active, times, ("dog", "cat"), Postprocessing(0.0, 51.0)) == got[:2]
    assert detect(active, times, ("dog", "cat"), Postprocessing(150.0, 0.0)) == [
        Event("dog", 0, 100),
        Event("cat", 0, 550),
        Event("dog", 300, 350),
        Event("dog", 550, 550),  # mirrored at the end: two of three
    ]
