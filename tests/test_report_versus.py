"""The difference to sequential fine-tuning on the same queries: exact, honest about chance, else left out."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from report_fixture import TASKS, dump, write_run

from polymnia.report import summary, versus, words
from polymnia.report.collect import Estimate, Run
from polymnia.report.folders import read_methods, read_run
from polymnia.report.page import write_report

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("versus")
    names = ("finetune", "er", "ewc", "joint")
    return [write_run(root / f"{n}-{s}", n, s, media=False) for n in names for s in SEEDS]


def rows(folders: list[Path], head: str = "latest") -> dict[str, summary.Row]:
    return {r.label: r for r in summary.rows(read_methods(folders), head)}


def rewrite(folder: Path, change) -> None:
    with np.load(folder / "ranks.npz") as arrays:
        np.savez(folder / "ranks.npz", **change(dict(arrays)))


def hit(rank: int) -> float:
    return 100 * sum(int(rank) <= k for k in (1, 5, 10)) / 3


def test_the_difference_is_that_of_the_averages(folders: list[Path]):
    found = rows(folders)
    gain = found["er"].cells["gain"]
    assert gain.mean == pytest.approx(found["er"].cells["average"].mean - found["finetune"].cells["average"].mean)
    assert gain.low < gain.mean < gain.high and gain.n == len(SEEDS)
    assert "2 seeds" in found["er"].tips["gain"] and " %" in found["er"].tips["gain"]


def test_the_interval_is_that_of_drawing_items_anew_within_their_tasks(folders: list[Path]):
    ranks = {v: [dict(np.load(f / "ranks.npz")) for f in folders if f.name.startswith(v)] for v in ("er", "finetune")}
    items = 24
    values = {}  # task -> item -> mean difference over seeds and the two directions
    for task in TASKS:
        values[task] = [
            sum(
                hit(ranks["er"][s][f"{task}|{d}"][k]) - hit(ranks["finetune"][s][f"{task}|{d}"][k])
                for s in SEEDS
                for d in ("audio>image", "image>audio")
            )
            / (2 * len(SEEDS))
            for k in range(items)
        ]
    rng = random.Random(0)
    means = sorted(
        sum(sum(rng.choices(v, k=items)) / items for v in values.values()) / len(TASKS) for _ in range(4000)
    )
    gain = rows(folders)["er"].cells["gain"]
    assert (gain.low, gain.high) == pytest.approx((means[100], means[3900]), abs=0.35)


def test_the_same_run_under_two_seeds_is_no_surer_than_under_one(tmp_path: Path):
    folders = [write_run(tmp_path / f"{n}0", n, 0, media=False) for n in ("finetune", "er")]
    alone = rows(folders)["er"].cells["gain"]
    for variant in ("finetune", "er"):
        copy = write_run(tmp_path / f"{variant}1", variant, 0, media=False)
        dump(copy / "meta.json", json.loads((copy / "meta.json").read_text()) | {"seed": 1})
        folders.append(copy)
    both = rows(folders)["er"].cells["gain"]
    assert (both.mean, both.low, both.high) == pytest.approx((alone.mean, alone.low, alone.high)) and both.n == 2


def test_captions_of_an_item_are_drawn_together_and_every_direction_weighs_the_same(tmp_path: Path):
    arrays = {
        "after": np.array(1, np.int32),
        "sea|audio>text": np.array([1, 40], np.int32),
        "sea|audio>text|items": np.array(["a", "b"]),
        "sea|text>audio": np.array([1, 1, 40, 3], np.int32),
        "sea|text>audio|items": np.array(["a", "a", "b", "a"]),
    }
    run = Run(tmp_path, {}, {"tasks": ["sea"], "rows": [0, 1]}, ranks=arrays)
    a, b = versus.by_item([run], "sea")
    # two items, four captions: a caption counts half an item; R@1, R@5, R@10 of rank 3 are two of three
    assert (a, b) == pytest.approx(((100 + (100 + 100 + 200 / 3) / 2) / 2, 0))
    assert (a + b) / 2 == pytest.approx((50 + (100 + 100 + 0 + 200 / 3) / 4) / 2)


def test_only_methods_have_one_and_only_through_the_latest_heads(folders: list[Path], tmp_path: Path):
    found = rows(folders)
    assert [label for label, r in found.items() if r.cells.get("gain")] == ["er", "ewc"]
    assert not any(r.cells.get("gain") for r in rows(folders, "stored").values())
    text = write_report(folders, tmp_path / "out").markdown.read_text()
    latest, stored = text.split("## Score")[0].split("## Summary")[1:]
    assert "| vs finetune |" in latest and "vs finetune" not in stored


def test_a_difference_whose_interval_excludes_nothing_is_not_marked(folders: list[Path], tmp_path: Path):
    assert words.difference(Estimate(3.2, None, 1.0, 5.0)) == "+3.2 [+1.0, +5.0] ▲"
    assert words.difference(Estimate(-3.2, None, -5.0, -1.0)) == "−3.2 [−5.0, −1.0] ▼"
    assert words.difference(Estimate(0.2, None, -1.0, 1.0)) == "+0.2 [−1.0, +1.0]"
    report = write_report(folders, tmp_path / "out")
    assert "by more than the choice of queries explains: er" in report.html.read_text()
    assert re.search(r"\+\d+\.\d \[\+\d+\.\d, \+\d+\.\d\] ▲", report.markdown.read_text())


@pytest.mark.parametrize("harm", ["other items", "other score", "older row", "no file", "damaged file"])
def test_ranks_that_do_not_fit_give_no_column(tmp_path: Path, harm: str):
    folders = [write_run(tmp_path / n, n, media=False) for n in ("finetune", "er")]
    path = folders[1] / "ranks.npz"
    if harm == "other items":
        rewrite(folders[1], lambda a: a | {"music|audio>image|items": a["music|audio>image|items"][::-1]})
    elif harm == "other score":  # such as mAP by class, where R@k says something else
        scores = json.loads((folders[1] / "matrix.json").read_text())
        scores["score"]["latest"][-1][0] += 1
        dump(folders[1] / "matrix.json", scores)
    elif harm == "older row":
        rewrite(folders[1], lambda a: a | {"after": np.int32(3)})
    elif harm == "no file":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200])
    found = rows(folders)
    assert not any(r.cells.get("gain") for r in found.values())
    assert "vs finetune" not in write_report(folders, tmp_path / "out").markdown.read_text()


@pytest.fixture
def by_class(tmp_path: Path) -> list[Path]:
    """Runs of two methods whose first task is scored by something that is no recall, 2 and 3 seeds of them."""
    folders = [write_run(tmp_path / f"{n}-{s}", n, s, media=False) for n in ("finetune", "er") for s in (0, 1, 2)][1:]
    for folder in folders:
        scores = json.loads((folder / "matrix.json").read_text())
        scores["score"]["latest"][-1][0] += 1 + read_run(folder).seed
        dump(folder / "matrix.json", scores | {"summary": {}})
    return folders


def test_scores_that_are_not_made_of_ranks_are_compared_seed_by_seed(by_class: list[Path], tmp_path: Path):
    last = {f.name: np.mean(json.loads((f / "matrix.json").read_text())["score"]["latest"][-1]) for f in by_class}
    a, b = (last[f"er-{s}"] - last[f"finetune-{s}"] for s in (1, 2))
    half = 12.706204736174694 * abs(a - b) / 2  # Student's t, 0.975, one degree of freedom; sd / sqrt(2)
    row = rows(by_class)["er"]
    mean = (a + b) / 2
    assert (row.cells["gain"].mean, row.cells["gain"].low, row.cells["gain"].high) == pytest.approx(
        (mean, mean - half, mean + half)
    )
    share = np.mean([100 * (last[f"er-{s}"] / last[f"finetune-{s}"] - 1) for s in (1, 2)])
    assert row.cells["gain_percent"].mean == pytest.approx(share)
    assert "2 seeds; 95 % t interval over differences of the same seed" in row.tips["gain"]
    report = write_report(by_class, tmp_path / "out")
    assert "Student&#39;s t over differences of the same seed" in report.html.read_text()
    assert "by more than the choice of seeds explains" in report.markdown.read_text()
    assert f"| {words.digits(share, ' %', signed=True)} (2 of 3 seeds) |" in report.markdown.read_text()


def test_one_seed_gives_the_difference_without_an_interval(by_class: list[Path], tmp_path: Path):
    pair = [f for f in by_class if f.name.endswith("-1")]
    gain = rows(pair)["er"].cells["gain"]
    assert gain is not None and gain.low is None
    text = write_report(pair, tmp_path / "out").markdown.read_text()
    assert f"| {words.digits(gain.mean, signed=True)} |" in text and "explains" not in text


@pytest.mark.parametrize("harm", ["other items", "other words"])
def test_what_was_scored_on_other_items_or_by_something_else_is_not_compared(by_class: list[Path], harm: str):
    for folder in by_class:
        meta = json.loads((folder / "meta.json").read_text())
        if harm == "other items":  # and no ranks that could tell
            rewrite(folder, lambda a: {"after": a["after"]})
            meta["fingerprint"] = folder.name
        elif folder.name.startswith("er"):
            meta["tasks"][0]["score"] = "mean of audio>image/class_mAP"
        dump(folder / "meta.json", meta)
    assert not rows(by_class)["er"].cells.get("gain")


def test_the_gain_in_percent_is_the_mean_over_seeds(folders: list[Path]):
    last = {f.name: np.mean(json.loads((f / "matrix.json").read_text())["score"]["latest"][-1]) for f in folders}
    expected = np.mean([100 * (last[f"er-{s}"] - last[f"finetune-{s}"]) / last[f"finetune-{s}"] for s in SEEDS])
    assert rows(folders)["er"].cells["gain_percent"].mean == pytest.approx(expected)


def test_the_baseline_is_the_variant_of_that_name_or_the_one_without_a_method(tmp_path: Path):
    plain = write_run(tmp_path / "plain", "plain", media=False)
    other = write_run(tmp_path / "er", "er", media=False)
    methods = read_methods([other, plain])
    assert versus.baseline(methods, methods[0]) is None
    dump(plain / "meta.json", json.loads((plain / "meta.json").read_text()) | {"method": []})
    methods = read_methods([other, plain])
    assert versus.baseline(methods, methods[0]).label == "plain"
    assert [c.title for c in summary.columns(methods, summary.rows(methods, "latest"))][1] == "vs plain"
    methods = read_methods([other, plain, write_run(tmp_path / "finetune", "finetune", media=False)])
    assert versus.baseline(methods, methods[0]).label == "finetune"


def test_the_trainable_share_is_of_what_fine_tuning_trains_or_else_of_everything(tmp_path: Path):
    prompts = write_run(tmp_path / "prompts", "prompts", media=False)
    tuned = write_run(tmp_path / "finetune", "finetune", media=False)
    meta = json.loads((tuned / "meta.json").read_text())
    dump(tuned / "meta.json", meta | {"parameters": {"trainable": 617_283, "total": 1_234_567}})
    assert rows([prompts, tuned])["prompts"].cells["trainable"].mean == pytest.approx(100 * 25_926 / 617_283)
    assert rows([prompts])["prompts"].cells["trainable"].mean == pytest.approx(100 * 25_926 / 1_234_567)
    for folders, whole in (([prompts, tuned], "that fine-tuning trains"), ([prompts], "all parameters of the model")):
        assert f"share of {whole}" in write_report(folders, tmp_path / "out").html.read_text().replace(
            "the parameters that", "that"
        )


def test_the_gain_of_each_seed_stands_in_the_csv_in_points_and_percent(folders: list[Path], tmp_path: Path):
    lines = write_report(folders, tmp_path / "out").csv.read_text().splitlines()
    points = [float(x.split(",")[-1]) for x in lines if x.startswith("er,0,latest,gain_points")]
    a, b = (read_run(f).summary("latest")["average"] for f in (folders[2], folders[0]))
    assert points == [pytest.approx(a - b)]
    assert any(x.startswith("er,0,latest,gain_percent") for x in lines)
    assert not any(x.startswith("finetune,0,latest,gain") for x in lines)
