"""What stands behind and beside the scores: metrics in words, their sizes, topics, watched sets, counted facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_fixture import TASKS, dump, write_run

from polymnia.report import metrics, notes, words
from polymnia.report.folders import read_methods
from polymnia.report.logs import fact_means
from polymnia.report.page import write_report


def edit(path: Path, change: dict[str, Any]) -> None:
    dump(path, json.loads(path.read_text()) | change)


def watch(folder: Path, values: dict[str, dict[str, list[float | None]]]) -> Path:
    matrix = json.loads((folder / "matrix.json").read_text())
    for head in matrix["values"].values():
        head |= values
    edit(folder / "matrix.json", {"values": matrix["values"], "watched": list(values)})
    return folder


def test_sizes_stand_beside_the_metric_that_they_belong_to():
    one = dict.fromkeys(("audio>text/R@1", "union/audio>text/R@1", "zeroshot/pooled", "topic:a/audio>text/R@10"), [])
    sizes = {"audio>text/N": 3, "audio>text/M": 6, "union/audio>text/M": 60, "zeroshot/N": 5, "zeroshot/classes": 2}
    table = one | {k: [None, metrics.estimate([v])] for k, v in sizes.items()}
    found = {metric: metrics.sizes(table, metric) for metric in one}
    assert list(found.values()) == [(3, 6), (3, 60), (5, 2), (None, 6)]


def test_metrics_are_listed_without_sizes_and_topics_apart(tmp_path: Path):
    method = read_methods([write_run(tmp_path / "a", "er", media=False)])[0]
    plain = {r.name for r in metrics.metric_rows(method, "latest")}
    assert plain == {"R@1, audio → image", "R@10, audio → image", "R@10, image → audio"}
    assert {r.name for r in metrics.metric_rows(method, "latest", topics=True)} == {"dog: R@10, audio → text"}
    first = metrics.metric_rows(method, "latest")[0]
    assert (first.queries, first.gallery, len(first.values)) == (24, 24, 5)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("audio>text/R@1", "R@1, audio → text"),
        ("union/image>audio/MedR", "median rank, image → audio, among all tasks seen"),
        ("audio>image/class_mAP", "mAP by class, audio → image"),
        ("zeroshot/pooled", "zero-shot accuracy"),
        ("mine/own", "own, mine"),
        ("bare", "bare"),
    ],
)
def test_a_metric_is_called_by_words(key: str, said: str):
    assert words.metric(key) == said


def test_a_score_is_told_in_words_whether_it_is_a_sentence_or_keys():
    assert words.score("the mean of R@1 and R@5") == "mean of R@1 and R@5"
    assert words.score("mean of R@1, R@5, R@10 in both directions, own gallery").startswith("mean of R@1, R@5")
    both = "mean of audio>image/class_mAP, image>audio/class_mAP"
    assert words.score(both) == "mean mAP by class (audio → image and image → audio)"
    assert words.score("mean of zeroshot/pooled") == "zero-shot accuracy"


def test_tasks_that_are_not_scored_alike_are_told_apart(tmp_path: Path):
    folder = write_run(tmp_path / "a", "er", media=False)
    tasks = json.loads((folder / "meta.json").read_text())["tasks"]
    assert "the mean of R@1" in notes.scored(read_methods([folder]))
    tasks[1]["score"] = "mean of zeroshot/pooled"
    edit(folder / "meta.json", {"tasks": tasks})
    said = notes.scored(read_methods([folder]))
    assert "of nature the mean of R@1" in said and "of animals the zero-shot accuracy" in said
    assert "Tasks are not scored alike" in said


def test_watched_sets_have_tables_of_their_own_and_no_part_in_the_scores(tmp_path: Path):
    probe = {"probe/accuracy": [50.0, 55.0, 60.0, 58.0, 57.5], "probe/std": [0.0] * 5, "probe/N": [80] * 5}
    er = watch(write_run(tmp_path / "er", "er", media=False), {"a probe": probe})
    short = {"probe/accuracy": [50.0, 61.0], "probe/std": [0.0] * 2, "probe/N": [80] * 2}
    joint = watch(write_run(tmp_path / "joint", "joint", media=False), {"a probe": short})
    (table,) = metrics.watched(read_methods([er, joint]), "latest")
    assert (table.name, table.metric, table.queries) == ("a probe", "accuracy of a probe on the features", 80)
    assert table.stages == ["before", *[f"after {t}" for t in TASKS]]
    lines = {label: ([v and v.mean for v in values], change) for label, values, change in table.lines}
    assert lines["er"] == ([50.0, 55.0, 60.0, 58.0, 57.5], pytest.approx(7.5))
    assert lines["joint"] == ([50.0, None, None, None, 61.0], pytest.approx(11))
    report = write_report([er, joint], tmp_path / "out")
    assert "a probe" not in [c for row in report.table for c in row]
    assert "### a probe: accuracy of a probe on the features" in report.markdown.read_text()
    assert "Watched, never trained" in report.html.read_text()


def test_a_watched_set_that_is_retrieved_from_is_summed_up_as_a_task_is(tmp_path: Path):
    columns = {f"{d}/R@{k}": [float(k)] * 5 for d in ("audio>text", "text>audio") for k in (1, 5, 10)}
    folder = watch(write_run(tmp_path / "a", "er", media=False), {"far": columns | {"audio>text/N": [9.0] * 5}})
    (table,) = metrics.watched(read_methods([folder]), "latest")
    assert table.lines[0][1][0].mean == pytest.approx(16 / 3) and table.queries == 9


def test_what_a_method_counts_is_averaged_over_the_steps_of_a_task(tmp_path: Path):
    folders = [write_run(tmp_path / str(s), "lwf", s, media=False) for s in (0, 1)]
    found = fact_means(read_methods(folders)[0])
    assert found == {"lwf/kept/audio-image": {t: pytest.approx(0.25 * i) for i, t in enumerate(TASKS, 1)}}
    page = write_report(folders, tmp_path / "out").html.read_text()
    assert "lwf/kept/audio-image" in page and "75 %" in page
