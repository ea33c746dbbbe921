"""What a report says of methods that prompt: shares, routing, LPI's numbers, claims of papers, the map of tasks."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_fixture import TASKS, dump, write_run
from rich.console import Console

from polymnia.report import columns, notes, summary, taskmap, words
from polymnia.report.collect import Estimate
from polymnia.report.folders import read_methods
from polymnia.report.page import write_report
from polymnia.report.tables import Report, print_table


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("prompts")
    return [write_run(root / f"{n}{s}", n, s, media=False) for n in ("finetune", "prompts", "joint") for s in (0, 1)]


@pytest.fixture(scope="module")
def report(folders: list[Path]) -> Report:
    return write_report(folders, folders[0].parent / "out")


def edit(path: Path, change: dict[str, Any]) -> None:
    dump(path, json.loads(path.read_text()) | change)


def rows(folders: list[Path]) -> dict[str, summary.Row]:
    return {r.label: r for r in summary.rows(read_methods(folders), "latest")}


def titles(folders: list[Path]) -> list[str]:
    return [c.title for c in columns.columns(read_methods(folders))]


def test_what_is_stored_is_a_share_of_everything_and_of_prompting_methods_alone(folders: list[Path], report: Report):
    found = rows(folders)
    assert found["prompts"].cells["stored"].mean == pytest.approx(100 * 61_728 / 1_234_567)
    assert found["finetune"].cells["stored"] is None
    assert "| 2.10 % | 5.00 % |" in report.markdown.read_text()  # 25 926 and 61 728 of 1 234 567
    assert "61,728 numbers are added for all tasks" in found["prompts"].tips["stored"]
    assert "stored" not in titles(folders[:2])


@pytest.mark.parametrize(
    ("percent", "said"),
    [
        (100.0, "100.0 %"),
        (10.04, "10.0 %"),
        (9.999, "10.00 %"),
        (2.42, "2.42 %"),
        (0.004, "< 0.01 %"),
        (0.0, "0.00 %"),
    ],
)
def test_a_small_share_has_two_decimals(percent: float, said: str):
    assert words.share(percent) == said


def test_routing_is_averaged_over_the_tasks_that_have_the_modality(folders: list[Path], report: Report):
    cells = rows(folders)["prompts"].cells
    assert cells["routing/audio"].mean == (90 + 80 + 70 + 60) / 4
    assert cells["routing/text"].mean == (60 + 61 + 62) / 3
    assert "routing (audio) | routing (text)" in report.markdown.read_text()
    assert "routing" not in titles(folders[:2])


def test_routing_is_called_by_words():
    assert words.metric("routing/text") == "captions sent to the prompts of their own task"
    assert words.metric("routing/smell") == "inputs sent to the prompts of their own task"


def test_the_numbers_of_lpi_stand_apart_from_ours(folders: list[Path], report: Report):
    grids = [json.loads((f / "matrix.json").read_text())["score"]["latest"] for f in folders[:2]]
    average = np.mean([[np.mean([g[i][j] for i in range(j + 1, 5)]) for j in range(4)] for g in grids])
    forget = np.mean([[g[4][j] - max(g[i][j] for i in range(j + 1, 4)) for j in range(3)] for g in grids])
    cells = rows(folders)["finetune"].cells
    assert (cells["lpi_average"].mean, cells["lpi_forgetting"].mean) == pytest.approx((average, forget), abs=2e-3)
    text = report.markdown.read_text()
    ours, theirs = text.split("## Score")[0], text.split("## In LPI's numbers, latest head")[1].split("##")[0]
    assert "LPI" not in ours and "| method | average incremental | AvgP (LPI) | Forget (LPI) |" in theirs
    assert "| finetune |" in theirs and "joint" not in theirs  # which learns no task after another


def test_a_claim_is_told_only_where_the_method_of_its_paper_was_run(folders: list[Path], tmp_path: Path):
    assert notes.claims(read_methods(folders)) == []
    folder = write_run(tmp_path / "a", "prompts", media=False)
    for use, said in (("ptat", "2.42 %"), ("lpi", "0.5 M"), ("mylab.lpi", None)):
        edit(folder / "meta.json", {"method": [{"use": use}]})
        found = notes.claims(read_methods([folder]))
        assert len(found) == (said is not None) and all(said in x and "no result of these runs" in x for x in found)
    edit(folder / "meta.json", {"method": [{"use": "ptat"}]})
    report = write_report([folder], tmp_path / "out")
    for path in (report.html, report.markdown):
        assert "points or percent: its abstract does not say" in path.read_text()


def test_a_rank_correlation_is_that_of_ranks_with_ties_in_the_middle():
    a, b = np.array([1.0, 2.0, 2.0, 5.0]), np.array([0.3, 0.1, 0.2, 0.9])
    # ranks 1, 2.5, 2.5, 4 and 3, 1, 2, 4: products of their deviations sum to 1.5, squares to 4.5 and 5
    assert taskmap.spearman(a, b) == pytest.approx(1.5 / (4.5 * 5) ** 0.5)
    assert taskmap.spearman(a, np.array([4.0, np.nan, 3.0, 1.0])) == pytest.approx(-1)
    assert taskmap.spearman(a[:2], b[:2]) is None and taskmap.spearman(a, np.ones(4)) is None


def square(*upper: float | None) -> list[list[float | None]]:
    """A symmetric matrix of four tasks from its six pairs, row by row."""
    cells: list[list[float | None]] = [[0.0] * 4 for _ in range(4)]
    for (i, j), value in zip([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], upper, strict=True):
        cells[i][j] = cells[j][i] = value
    return cells


def mapped(tmp_path: Path, *maps: dict[str, Any]) -> taskmap.TaskMap | None:
    """The map of a method with a run a seed."""
    folders = [write_run(tmp_path / str(s), "prompts", s, media=False) for s in range(len(maps))]
    for folder, own in zip(folders, maps, strict=True):
        dump(folder / "taskmap.json", {"tasks": list(TASKS), "maps": own})
    return taskmap.task_map(read_methods(folders)[0])


def test_maps_are_averaged_over_seeds_and_correlated_in_each(tmp_path: Path):
    names = square(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    same, reverse = square(1.0, 1.1, 1.2, 1.3, 1.4, 1.5), square(1.5, 1.4, 1.3, 1.2, 1.1, 1.0)
    found = mapped(tmp_path, {"semantic": names, "prompts/text": same}, {"semantic": names, "prompts/text": reverse})
    assert [s.name for s in found.squares] == ["names", "prompts (text)"] and found.seeds == (0, 1)
    assert found.squares[1].cells[0] == [None, *[pytest.approx(1.25)] * 3]
    (only,) = found.links
    assert (only.rho.mean, only.rho.sd, only.pairs) == (pytest.approx(0), pytest.approx(2**0.5), 6)
    assert [(a, b) for a, b, _ in found.pairs][:2] == [("nature", "animals"), ("nature", "machines")]
    assert words.correlation(Estimate(-0.25)) == "−0.25" and words.correlation(None) == "–"


def test_a_task_without_the_modality_is_left_out_of_the_correlation(tmp_path: Path):
    maps = {
        "semantic": square(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        "data/text": square(0.1, 0.2, None, 0.3, None, None),
        "data/audio": square(*[0.5] * 6),
    }
    found = mapped(tmp_path, maps)
    assert [(x.other, x.pairs) for x in found.links] == [("features (text)", 3), ("features (audio)", 6)]
    assert found.links[0].rho.mean == pytest.approx(1) and found.links[1].rho is None
    assert found.squares[1].cells[3] == [None] * 4


def test_prompts_and_features_of_a_modality_stand_in_a_row_beside_the_names(tmp_path: Path):
    some = square(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    keys = ("prompts/image", "prompts/text", "semantic", "data/image", "data/text")
    found = mapped(tmp_path, dict.fromkeys(keys, some))
    assert [s.name.partition(" ")[2] for s in found.squares] == ["", "(image)", "(image)", "(text)", "(text)"]
    assert found.rows == 2 and found.squares[0].name == "names"
    assert found.squares[0].heat(0.1) == 0 and found.squares[0].heat(0.6) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"tasks": ["others"], "maps": {"semantic": [[0.0]]}},
        {"tasks": list(TASKS), "maps": {"semantic": [[0.0]], "smell": square(*[0.1] * 6), "data/text": "far"}},
        {"tasks": list(TASKS), "maps": None},
        {},
    ],
)
def test_a_map_that_is_not_of_the_runs_tasks_is_not_drawn(tmp_path: Path, content: dict[str, Any]):
    folder = write_run(tmp_path / "a", "prompts", media=False)
    dump(folder / "taskmap.json", content)
    found = write_report([folder], tmp_path / "out")
    assert 'class="map"' not in found.html.read_text() and "Map of the tasks" not in found.markdown.read_text()


def test_the_page_draws_the_maps_and_says_how_they_go_together(folders: list[Path], report: Report):
    page, text = report.html.read_text(), report.markdown.read_text()
    assert page.count('class="map"') == 3 and "How far apart prompts keeps its tasks" in page
    assert "Do the maps order the 6 pairs of tasks alike?" in page
    lines = re.findall(r"\| prompts \| (.+?) \| (.+?) \| ([+−][01]\.\d\d ± \d\.\d\d) \| 6 \|", text)
    assert [x[:2] for x in lines] == [
        ("names", "prompts (audio)"),
        ("names", "features (audio)"),
        ("prompts (audio)", "features (audio)"),
    ]


@pytest.mark.parametrize("width", [80, 100, 132, 150, 240])
def test_the_terminal_shows_what_fits_and_cuts_nothing(report: Report, width: int):
    out = io.StringIO()
    print_table(report, Console(file=out, width=width))
    text = out.getvalue()
    assert "average" in text and "forgetting" in text and ("routing/audio" in text) == (width == 240)
    assert ("2.10 %" in text and "5.00 %" in text) == (width > 80)
    assert "…" not in text
