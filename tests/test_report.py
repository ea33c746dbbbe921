"""The report: read from run folders alone, honest about spread and gaps, one page that needs no network."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_fixture import TASKS, dump, write_run, write_suite
from rich.console import Console

from polymnia.report import summary, tables, words
from polymnia.report.collect import estimate
from polymnia.report.folders import read_methods, read_run
from polymnia.report.logs import gradient_shares
from polymnia.report.page import write_report
from polymnia.report.tables import print_table
from polymnia.types import UserError


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def report(suite: list[Path]) -> tables.Report:
    return write_report(suite, suite[0].parent / "report")


def edit(path: Path, change: dict[str, Any]) -> None:
    dump(path, json.loads(path.read_text()) | change)


def row(report: tables.Report, method: str, head: str = "latest") -> dict[str, Any]:
    return next(r for r in report.table if r["method"] == method and r["head"] == head)


def test_seeds_of_a_method_become_one_row_with_mean_deviation_and_interval(report: tables.Report, suite: list[Path]):
    finals = [json.loads((p / "matrix.json").read_text())["score"]["latest"][-1] for p in suite[:3]]
    averages = [sum(r) / 4 for r in finals]
    mean = sum(averages) / 3
    sd = (sum((a - mean) ** 2 for a in averages) / 2) ** 0.5
    half = 4.302652729911275 * sd / 3**0.5  # Student's t, 0.975, two degrees of freedom
    found = row(report, "finetune")["average"]
    assert found == {k: pytest.approx(v) for k, v in zip(found, (mean, sd, mean - half, mean + half, 3), strict=True)}


def test_one_seed_gives_the_bare_value_and_says_so(tmp_path: Path):
    found = write_report([write_run(tmp_path / "a", "er")], tmp_path / "out")
    assert row(found, "er")["average"]["sd"] is None
    assert "±" not in found.markdown.read_text().split("## Score")[0].split("## Summary")[1]
    assert "one seed" in found.markdown.read_text() and "one seed" in found.html.read_text()


def test_references_are_set_apart_and_never_best(suite: list[Path]):
    found = summary.rows(read_methods(suite), "latest")
    references = {r.label: r for r in found if r.kind == "reference"}
    assert set(references) == {"joint", "untouched base", "ceiling"}
    assert not any(r.best for r in references.values())
    assert references["joint"].cells["forgetting"] is None
    best = [r.label for r in found if "forgetting" in r.best]
    assert best == ["prompts"]  # the least, although the joint run and the base forget nothing


def test_a_model_that_trains_nothing_is_a_reference(tmp_path: Path):
    folder = write_run(tmp_path / "frozen", "frozen", media=False)
    edit(folder / "meta.json", {"parameters": {"trainable": 0, "total": 10}})
    assert read_methods([folder])[0].reference


def test_numbers_that_a_run_did_not_sum_up_come_from_its_matrix(tmp_path: Path):
    folder = write_run(tmp_path / "a", "er", media=False)
    before = read_run(folder).summary("latest")
    edit(folder / "matrix.json", {"summary": {}})
    after = read_run(folder).summary("latest")
    for key in ("average", "forgetting", "backward_transfer", "forward_transfer", "plasticity"):
        assert after[key] == pytest.approx(before[key])


def test_a_term_with_hardly_any_gradient_is_called_inert(suite: list[Path], report: tables.Report):
    shares = {m.label: gradient_shares(m) for m in read_methods(suite)}
    assert shares["ewc"]["ewc"] < 0.05 < shares["lwf"]["lwf"]
    for path in (report.html, report.markdown):
        assert re.findall(r"(\w+): the term .\w+. is inert", path.read_text()) == ["ewc"]


def test_names_and_captions_cannot_become_markup(tmp_path: Path):
    evil = "</script><img src=x onerror=alert(1)>"
    folder = write_run(tmp_path / "a", evil)
    edit(folder / "meta.json", {"recipe_title": evil, "notes": [evil]})
    edit(folder / "matrix.json", {"tasks": [evil, *TASKS[1:]]})
    found = write_report([folder], tmp_path / "out")
    for text in (found.html.read_text(), found.markdown.read_text()):
        assert "<img src=x" not in text and "alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in found.html.read_text()  # a caption of the fixture


def test_a_run_in_progress_is_reported_with_what_is_missing(tmp_path: Path):
    done = write_run(tmp_path / "done", "er", media=False)
    folder = write_run(tmp_path / "early", "lwf", media=False)
    matrix = json.loads((folder / "matrix.json").read_text())
    cut = {h: g[:3] for h, g in matrix["score"].items()}
    edit(folder / "matrix.json", {"rows": [0, 1, 2], "score": cut, "summary": {}, "values": {}})
    (folder / "log.jsonl").write_text('{"kind": "step", "task": "nature", "index": 1, "step": 1, "terms": {}}\n{"kin')
    found = write_report([done, folder], tmp_path / "out")
    assert "in progress: 2 of 4 tasks" in found.html.read_text()
    assert "no examples.json" in found.markdown.read_text()
    assert row(found, "lwf")["forgetting"] is not None


def test_a_seed_still_in_progress_is_not_averaged_with_finished_ones(tmp_path: Path):
    folders = [write_run(tmp_path / str(s), "er", s, media=False) for s in range(3)]
    rows = json.loads((folders[2] / "matrix.json").read_text())
    edit(folders[2] / "matrix.json", {"rows": [0, 1], "score": {h: g[:2] for h, g in rows["score"].items()}})
    found = write_report(folders, tmp_path / "out")
    assert row(found, "er")["seeds"] == [0, 1]
    assert "er: seed 2 is behind the others" in found.markdown.read_text()


@pytest.mark.parametrize("rows", [[], [0]])
def test_a_run_that_learned_nothing_yet_has_a_report(tmp_path: Path, rows: list[int]):
    folder = write_run(tmp_path / "a", "er", media=False)
    score = [[1.0, None, float("nan"), 4.0]][: len(rows)]
    dump(folder / "matrix.json", {"tasks": list(TASKS), "rows": rows, "score": {"latest": score}})
    (folder / "log.jsonl").unlink()
    found = write_report([folder], tmp_path / "out")
    assert "No task has been learned yet" in found.html.read_text()
    assert "nan" not in found.csv.read_text().lower()


def test_values_that_are_null_or_not_finite_are_left_out():
    assert estimate([None, float("nan"), float("inf"), "x", True]) is None
    assert estimate([None, 3.0]).mean == 3.0
    assert words.text(None) == "–" and words.digits(-0.01) == "0.0"


def test_a_folder_that_is_no_run_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UserError, match="meta.json"):
        write_report([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(UserError, match="no run folder"):
        write_report([], tmp_path / "out")


def test_the_same_seed_twice_stands_apart_and_a_folder_named_twice_counts_once(tmp_path: Path):
    one, two = (write_run(tmp_path / n, "er", media=False) for n in "ab")
    assert [m.label for m in read_methods([one, two, one])] == ["er", "er (2)"]


def test_runs_of_several_recipes_carry_the_name_of_theirs(tmp_path: Path):
    one = write_run(tmp_path / "a", "er", name="small", media=False)
    two = write_run(tmp_path / "b", "er", name="large", media=False)
    labels = [r["method"] for r in write_report([one, two], tmp_path / "out").table if r["head"] == "latest"]
    assert labels[:2] == ["small / er", "large / er"] and "untouched base (large)" in labels


def test_the_tables_as_csv_hold_every_seed_and_every_cell(report: tables.Report):
    with report.csv.open() as file:
        lines = list(csv.DictReader(file))
    assert {x["method"] for x in lines} >= {"finetune", "joint"} and {x["seed"] for x in lines} == {"0", "1", "2"}
    with report.matrix_csv.open() as file:
        cells = [x for x in csv.DictReader(file) if x["metric"] == "score" and x["method"] == "er"]
    assert len(cells) == 3 * 2 * 5 * 4  # seeds, heads, rows, tasks


def test_the_markdown_holds_both_heads_and_a_matrix_a_method(report: tables.Report):
    text = report.markdown.read_text()
    assert text.count("## Summary") == 2 and text.count("### ") == 2 * 7
    for table in text.split("## Score")[0].split("## Summary")[1:]:
        widths = {len(re.findall(r"(?<!\\)\|", x)) for x in table.splitlines() if x.startswith("|")}
        assert len(widths) == 1


def test_the_terminal_shows_the_summary_without_taking_names_for_markup(tmp_path: Path):
    found = write_report([write_run(tmp_path / "a", "[red]er[/red]", media=False)], tmp_path / "out")
    for width in (100, 180):
        out = io.StringIO()
        print_table(found, Console(file=out, width=width))
        assert "[red]er[/red]" in out.getvalue() and ("machines" in out.getvalue()) == (width == 180)


def test_the_same_runs_give_the_same_files(suite: list[Path], report: tables.Report, tmp_path: Path):
    again = write_report(suite, tmp_path / "again")
    for name in ("html", "markdown", "csv", "matrix_csv", "figure"):
        assert getattr(again, name).read_bytes() == getattr(report, name).read_bytes()


def test_a_figure_takes_names_with_mathematics_and_letters_it_has_no_glyph_for(tmp_path: Path):
    folder = write_run(tmp_path / "a", "$er_$ 記憶", media=False)
    assert write_report([folder], tmp_path / "out").figure.stat().st_size > 10_000
